"""The chart, read and installed by Helm's own code into an API server that remembers what it was sent."""

import copy
import re
import tarfile
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.server.serving import GRACE_S
from app.settings import load, misspelt
from tests.k8s.cluster import Manifest, cluster
from tests.k8s.environments import ENVIRONMENTS, PASSWORD, REFUSED
from tests.k8s.helm import CHART, Helm, Refused, Values, environment
from tests.support import running

pytestmark = pytest.mark.live

OLDEST = "1.25"

ERROR = 3
"""A severity of Helm's; 1 is what is recommended, an icon for instance, and 2 a warning."""


@dataclass(frozen=True)
class Installed:
    """What Helm sent to the cluster, and what it prints as a manifest and for its user."""

    objects: list[Manifest]
    manifest: list[Manifest]
    notes: str

    def of(self, kind: str, name: str = "seekable") -> Manifest:
        return next(o for o in self.objects if o["kind"] == kind and o["metadata"]["name"] == name)

    def kinds(self, kind: str) -> list[Manifest]:
        return [o for o in self.objects if o["kind"] == kind]

    @property
    def pods(self) -> list[Manifest]:
        return [o["spec"]["template"] for o in (*self.kinds("Deployment"), *self.kinds("StatefulSet"))]

    @property
    def server(self) -> Manifest:
        """The pod of Seekable."""
        pod: Manifest = self.of("Deployment")["spec"]["template"]["spec"]
        return pod

    @property
    def settings(self) -> dict[str, str]:
        settings: dict[str, str] = self.of("ConfigMap")["data"]
        return settings


def install(helm: Helm, values: Values, **more: str) -> Installed:
    with cluster() as server:
        release = helm.install(server.url, values, **more)
        manifest = [m for m in yaml.safe_load_all(release["manifest"]) if m]
        return Installed(server.objects, manifest, release["info"]["notes"])


@cache
def _installed(helm: Helm, name: str) -> Installed:
    return install(helm, ENVIRONMENTS[name])


@pytest.fixture(params=ENVIRONMENTS)
def installed(request: pytest.FixtureRequest, helm: Helm) -> Installed:
    return _installed(helm, request.param)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_helm_finds_no_fault_in_it(helm: Helm, name: str, tmp_path: Path) -> None:
    messages = helm.lint(ENVIRONMENTS[name], tmp_path)
    assert [m for m in messages if m["Severity"] > 1] == []


def test_helm_would_find_a_fault(helm: Helm, tmp_path: Path) -> None:
    messages = helm.lint({"replicas": "three"}, tmp_path)
    assert [m for m in messages if m["Severity"] == ERROR]


def test_every_manifest_is_as_kubernetes_has_it(installed: Installed) -> None:
    """As the oldest that the chart is for has it."""
    assert installed.objects
    for sent in installed.objects:
        kubernetes_validate.validate(sent, OLDEST, strict=True)


@pytest.mark.parametrize("name", ["minikube", "filesystem"])
def test_every_kind_of_manifest_is_as_the_newest_kubernetes_has_it(helm: Helm, name: str) -> None:
    for sent in _installed(helm, name).objects:
        kubernetes_validate.validate(sent, kubernetes_validate.latest_version(), strict=True)


def test_a_manifest_that_is_not_would_be_noticed(helm: Helm) -> None:
    sent = copy.deepcopy(_installed(helm, "defaults").of("Deployment"))
    sent["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(sent, OLDEST, strict=True)


def test_kubectl_is_given_the_same_as_the_cluster(installed: Installed) -> None:
    """`helm template . | kubectl apply -f -` is no less than `helm install`: nothing is a hook."""
    sent = copy.deepcopy(installed.objects)
    for one in sent:
        one["metadata"].pop("namespace")
        for note in ("meta.helm.sh/release-name", "meta.helm.sh/release-namespace"):
            one["metadata"]["annotations"].pop(note)
        if not one["metadata"]["annotations"]:
            del one["metadata"]["annotations"]
    assert sorted(sent, key=_place) == sorted(installed.manifest, key=_place)
    assert "helm.sh/hook" not in str(installed.manifest)


def _place(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def test_it_is_the_same_each_time(helm: Helm) -> None:
    """So that applying it again changes nothing: no password is made up."""
    first, second = (install(helm, ENVIRONMENTS["defaults"]).manifest for _ in range(2))
    assert first == second


def test_it_can_be_applied_to_another_namespace_than_it_was_made_for(helm: Helm) -> None:
    """`kubectl -n films apply` knows what `helm template` did not: no address has a namespace in it."""
    made, there = (install(helm, PASSWORD, namespace=name).manifest for name in ("default", "films"))
    for one, other in zip(made, there, strict=True):
        if one["kind"] not in ("ConfigMap", "Deployment"):  # by the allowed hosts, and their checksum
            assert one == other


def test_two_releases_do_not_meet(helm: Helm) -> None:
    one, two = (install(helm, PASSWORD, name=name) for name in ("one", "seekable-two"))
    names = [{(o["kind"], o["metadata"]["name"]) for o in found.objects} for found in (one, two)]
    assert not names[0] & names[1]
    assert ("Deployment", "one-seekable") in names[0]
    assert ("Deployment", "seekable-two") in names[1]
    assert not _selects(one.of("Service", "one-seekable"), two.pods)


@pytest.mark.parametrize(("values", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(helm: Helm, values: Values, said: str) -> None:
    with cluster() as server:
        with pytest.raises(Refused) as refused:
            helm.install(server.url, values)
        assert server.objects == []
    assert said in str(refused.value)


def test_what_is_named_is_there(installed: Installed) -> None:
    """But for what the values say that somebody else made."""
    there = {(o["kind"], o["metadata"]["name"]) for o in installed.objects}
    theirs = {("Secret", "mine"), ("Secret", "seekable"), ("PersistentVolumeClaim", "films")}
    for pod in installed.pods:
        assert set(_named(pod["spec"])) <= there | theirs


def _named(pod: Any) -> Iterator[tuple[str, str]]:
    """The kinds and names of what a pod takes from elsewhere."""
    kinds = {
        "configMapRef": "ConfigMap",
        "configMap": "ConfigMap",
        "secretRef": "Secret",
        "secretKeyRef": "Secret",
        "secret": "Secret",
        "persistentVolumeClaim": "PersistentVolumeClaim",
    }
    if isinstance(pod, dict):
        for key, value in pod.items():
            if key in kinds:
                yield kinds[key], value.get("name") or value.get("secretName") or value["claimName"]
            else:
                yield from _named(value)
    elif isinstance(pod, list):
        for value in pod:
            yield from _named(value)


def _selects(service: Manifest, pods: list[Manifest]) -> list[Manifest]:
    wanted = service["spec"]["selector"].items()
    return [pod for pod in pods if wanted <= pod["metadata"]["labels"].items()]


def test_each_service_leads_to_one_kind_of_pod_and_a_port_of_it(installed: Installed) -> None:
    for service in installed.kinds("Service"):
        (pod,) = _selects(service, installed.pods)
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        for one in installed.kinds(kind):
            selector = one["spec"].get("podSelector") or one["spec"]["selector"]
            assert len(_selects({"spec": {"selector": selector["matchLabels"]}}, installed.pods)) == 1


def test_no_pod_may_do_more_than_it_needs(installed: Installed) -> None:
    """What the Pod Security Standard "restricted" asks for, and a root file system that cannot be written."""
    for pod in installed.pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]["memory"]
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_no_password_is_where_everybody_reads(installed: Installed) -> None:
    public = [o for o in installed.objects if o["kind"] != "Secret"]
    assert "secret@" not in str(public)
    assert "aGoodOne" not in str(public)


def test_a_pod_is_not_killed_before_the_server_has_ended(installed: Installed) -> None:
    (container,) = installed.server["containers"]
    word, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert word == "sleep"
    needed = int(seconds) + int(installed.settings["SEEKABLE_SHUTDOWN_TIMEOUT"]) + GRACE_S
    assert installed.server["terminationGracePeriodSeconds"] > needed


def test_two_never_share_an_sqlite_or_wait_for_one_volume(installed: Installed) -> None:
    strategy = installed.of("Deployment")["spec"]["strategy"]["type"]
    claims = installed.kinds("PersistentVolumeClaim")
    alone = any(claim["spec"]["accessModes"] != ["ReadWriteMany"] for claim in claims)
    assert strategy == ("Recreate" if alone else "RollingUpdate")
    if alone:
        assert installed.of("Deployment")["spec"]["replicas"] == 1


@pytest.mark.parametrize(
    ("name", "setting"), [("kong", "SEEKABLE_MONGODB_URL"), ("filesystem", "SEEKABLE_DATABASE_URL")]
)
def test_a_secret_without_the_database_keeps_the_pod_from_starting(
    helm: Helm, name: str, setting: str
) -> None:
    (container,) = _installed(helm, name).server["containers"]
    assert container["env"] == [
        {"name": setting, "valueFrom": {"secretKeyRef": {"name": "seekable", "key": setting}}}
    ]


def test_the_settings_are_ones_that_the_server_knows(
    installed: Installed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (container,) = installed.server["containers"]
    names = [*installed.settings, *(e["name"] for e in container.get("env", []))]
    for secret in installed.kinds("Secret"):
        names += [name for name in secret["stringData"] if name.isupper()]
    assert misspelt(names) == []
    monkeypatch.chdir(tmp_path)
    for name, value in installed.settings.items():
        monkeypatch.setenv(name, value)
    assert load().access in ("accounts", "open")


def test_the_settings_and_probes_work_with_the_real_server(helm: Helm, tmp_path: Path) -> None:
    values = environment("one") | {"ingress": environment("minikube")["ingress"], "access": "open"}
    found = install(helm, values)
    settings = {name.removeprefix("SEEKABLE_").lower(): value for name, value in found.settings.items()}
    (container,) = found.server["containers"]
    assert container["args"] == ["serve"]
    assert {"name": "films", "mountPath": settings["files_dir"]} in container["volumeMounts"]
    settings.pop("host")  # that of the machine is for nobody else while tests run
    with ExitStack() as stack:
        server = stack.enter_context(running(tmp_path, **settings | {"files_dir": tmp_path / "data"}))
        at = re.search(r"running on (http://\S+)", server.log())
        assert at is not None
        client = stack.enter_context(server.client(base_url=at[1]))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert client.get(container[probe]["httpGet"]["path"]).status_code == 200
        for host in ("seekable.test", "seekable", "seekable.default.svc"):
            answer = client.put(f"/files/{host}", content=b"film", headers={"host": host})
            assert answer.status_code == 201
        assert answer.json()["url"].startswith("http://seekable.test/")
        assert client.get("/files", headers={"host": "elsewhere.test"}).status_code == 421


def test_a_new_setting_is_a_new_pod(helm: Helm) -> None:
    def checksum(values: Values) -> object:
        pod = install(helm, values).of("Deployment")["spec"]["template"]
        return pod["metadata"]["annotations"]["checksum/settings"]

    url = {"mongodb": {"url": "mongodb://a"}}
    sums = [
        checksum(values)
        for values in (url, {**url, "settings": {"ACCESS_LOG": False}}, {"mongodb": {"url": "mongodb://b"}})
    ]
    assert len(set(sums)) == 3


def test_the_nodes_of_mongodb_are_called_what_the_server_calls_them(helm: Helm) -> None:
    found = _installed(helm, "minikube")
    nodes = found.of("StatefulSet", "seekable-mongodb")
    hosts = [
        f"seekable-mongodb-{i}.{nodes['spec']['serviceName']}:27017" for i in range(nodes["spec"]["replicas"])
    ]
    (mongod,) = nodes["spec"]["template"]["spec"]["containers"]
    assert {"name": "MEMBERS", "value": ",".join(hosts)} in mongod["env"]
    (container,) = found.server["containers"]
    assert f"@{','.join(hosts)}/seekable?" in container["env"][1]["value"]
    service = found.of("Service", "seekable-mongodb")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_nobody_else_reaches_that_mongodb(helm: Helm) -> None:
    found = _installed(helm, "minikube")
    policy = found.of("NetworkPolicy", "seekable-mongodb")
    (rule,) = policy["spec"]["ingress"]
    peers = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]]
    assert sorted(peers) == ["mongodb", "server"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("minikube", "at http://seekable.test"),
        ("kong", "at https://media.example.org"),
        ("everything", "at https://example.org/media"),
        ("defaults", "port-forward service/seekable 8000:80"),
    ],
)
def test_its_user_is_told_where_it_is(helm: Helm, name: str, said: str) -> None:
    notes = _installed(helm, name).notes
    assert said in notes
    assert ("account invite" in notes) == (ENVIRONMENTS[name].get("access") != "open")


def test_it_says_which_kubernetes_it_is_for_and_which_version_it_runs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((CHART.parent / "pyproject.toml").read_text())["project"]
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"
    assert chart["appVersion"] == project["version"]


def test_a_package_holds_what_the_chart_needs(helm: Helm, tmp_path: Path) -> None:
    with tarfile.open(helm.package(tmp_path)) as package:
        names = {name.removeprefix("seekable/") for name in package.getnames()}
    ours = {str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()}
    assert names == ours - {".helmignore"}
