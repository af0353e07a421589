"""What the manifests of the chart promise: they fit each other, the server, and what is asked of pods."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.server.serving import GRACE_S
from app.settings import load, misspelt
from tests.support import running
from tests.system.k8s.helm import Helm, Values, environment
from tests.system.k8s.installed import Installed, environment_of, install


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


def test_each_service_leads_to_one_kind_of_pod_and_a_port_of_it(installed: Installed) -> None:
    for service in installed.kinds("Service"):
        (pod,) = installed.selected(service["spec"]["selector"])
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        for one in installed.kinds(kind):
            selector = one["spec"].get("podSelector") or one["spec"]["selector"]
            assert len(installed.selected(selector["matchLabels"])) == 1


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
    waits = ("SEEKABLE_SHUTDOWN_DELAY", "SEEKABLE_SHUTDOWN_TIMEOUT")
    needed = int(seconds) + sum(int(installed.settings[wait]) for wait in waits) + GRACE_S
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
    (container,) = environment_of(helm, name).server["containers"]
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
        at = re.search(r'running on (http://[^\s"]+)"', server.log())
        assert at is not None
        client = stack.enter_context(server.client(base_url=at[1]))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert client.get(container[probe]["httpGet"]["path"]).status_code == 200
        for host in ("seekable.test", "seekable", "seekable.default.svc"):
            answer = client.put(f"/files/{host}", content=b"film", headers={"host": host})
            assert answer.status_code == 201
        assert answer.json()["url"].startswith("http://seekable.test/")
        assert client.get("/files", headers={"host": "elsewhere.test"}).status_code == 421
        server.kill()  # or it would stay for as long as Kubernetes may still send somebody


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
    found = environment_of(helm, "minikube")
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
    found = environment_of(helm, "minikube")
    policy = found.of("NetworkPolicy", "seekable-mongodb")
    (rule,) = policy["spec"]["ingress"]
    peers = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]]
    assert sorted(peers) == ["mongodb", "server"]


def test_prometheus_is_sent_where_there_are_metrics_only(installed: Installed) -> None:
    annotations = installed.of("Deployment")["spec"]["template"]["metadata"]["annotations"]
    shown = installed.settings["SEEKABLE_METRICS"] == "open"
    assert (annotations.get("prometheus.io/scrape") == "true") == shown
    assert ("prometheus.io/port" in annotations) == shown
