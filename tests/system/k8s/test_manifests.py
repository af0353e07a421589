"""The chart's manifests fit each other, the server's settings, and the rules for pods."""

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


def test_pods_refer_to_existing_objects(installed: Installed) -> None:
    """Ignores the objects that the values declare as created by the user."""
    created = {(o["kind"], o["metadata"]["name"]) for o in installed.objects}
    external = {("Secret", "mine"), ("Secret", "seekable"), ("PersistentVolumeClaim", "films")}
    for pod in installed.pods:
        assert set(_references(pod["spec"])) <= created | external


def _references(pod: Any) -> Iterator[tuple[str, str]]:
    """Yield the kind and name of each object that a pod refers to."""
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
                yield from _references(value)
    elif isinstance(pod, list):
        for value in pod:
            yield from _references(value)


def test_each_service_selects_one_pod_template_and_its_port(installed: Installed) -> None:
    for service in installed.kinds("Service"):
        (pod,) = installed.selected(service["spec"]["selector"])
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        for one in installed.kinds(kind):
            selector = one["spec"].get("podSelector") or one["spec"]["selector"]
            assert len(installed.selected(selector["matchLabels"])) == 1


def test_pods_meet_restricted_security_standard(installed: Installed) -> None:
    """The Pod Security Standard "restricted", and a read-only root file system."""
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


def test_passwords_are_only_in_secrets(installed: Installed) -> None:
    public = [o for o in installed.objects if o["kind"] != "Secret"]
    assert "secret@" not in str(public)
    assert "aGoodOne" not in str(public)


def test_grace_period_is_longer_than_shutdown(installed: Installed) -> None:
    (container,) = installed.server["containers"]
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    waits = ("SEEKABLE_SHUTDOWN_DELAY", "SEEKABLE_SHUTDOWN_TIMEOUT")
    needed = int(seconds) + sum(int(installed.settings[wait]) for wait in waits) + GRACE_S
    assert installed.server["terminationGracePeriodSeconds"] > needed


def test_deployment_is_recreated_when_volume_has_one_writer(installed: Installed) -> None:
    strategy = installed.of("Deployment")["spec"]["strategy"]["type"]
    claims = installed.kinds("PersistentVolumeClaim")
    single_writer = any(claim["spec"]["accessModes"] != ["ReadWriteMany"] for claim in claims)
    assert strategy == ("Recreate" if single_writer else "RollingUpdate")
    if single_writer:
        assert installed.of("Deployment")["spec"]["replicas"] == 1


@pytest.mark.parametrize(
    ("name", "setting"), [("kong", "SEEKABLE_MONGODB_URL"), ("filesystem", "SEEKABLE_DATABASE_URL")]
)
def test_database_url_is_a_required_secret_key(helm: Helm, name: str, setting: str) -> None:
    (container,) = environment_of(helm, name).server["containers"]
    assert container["env"] == [
        {"name": setting, "valueFrom": {"secretKeyRef": {"name": "seekable", "key": setting}}}
    ]


def test_settings_are_known_to_server(
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


def test_settings_and_probes_work_with_real_server(helm: Helm, tmp_path: Path) -> None:
    values = environment("one") | {"ingress": environment("minikube")["ingress"], "access": "open"}
    found = install(helm, values)
    settings = {name.removeprefix("SEEKABLE_").lower(): value for name, value in found.settings.items()}
    (container,) = found.server["containers"]
    assert container["args"] == ["serve"]
    assert {"name": "films", "mountPath": settings["files_dir"]} in container["volumeMounts"]
    settings.pop("host")  # tests must not listen on a public address
    with ExitStack() as stack:
        server = stack.enter_context(running(tmp_path, **settings | {"files_dir": tmp_path / "data"}))
        at = re.search(r'running on (http://[^\s"]+)"', server.log())
        assert at is not None
        client = stack.enter_context(server.client(base_url=at[1]))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert client.get(container[probe]["httpGet"]["path"]).status_code == 200
        for host in ("seekable.test", "seekable", "seekable.default.svc"):
            response = client.put(f"/files/{host}", content=b"film", headers={"host": host})
            assert response.status_code == 201
        assert response.json()["url"].startswith("http://seekable.test/")
        assert client.get("/files", headers={"host": "elsewhere.test"}).status_code == 421
        server.kill()  # a clean shutdown would wait for the delay that Kubernetes needs


def test_changed_setting_restarts_pods(helm: Helm) -> None:
    def checksum(values: Values) -> object:
        pod = install(helm, values).of("Deployment")["spec"]["template"]
        return pod["metadata"]["annotations"]["checksum/settings"]

    url = {"mongodb": {"url": "mongodb://a"}}
    sums = [
        checksum(values)
        for values in (url, {**url, "settings": {"ACCESS_LOG": False}}, {"mongodb": {"url": "mongodb://b"}})
    ]
    assert len(set(sums)) == 3


def test_mongodb_nodes_have_names_of_connection_string(helm: Helm) -> None:
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


def test_network_policy_of_mongodb_admits_only_server_and_nodes(helm: Helm) -> None:
    found = environment_of(helm, "minikube")
    policy = found.of("NetworkPolicy", "seekable-mongodb")
    (rule,) = policy["spec"]["ingress"]
    peers = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]]
    assert sorted(peers) == ["mongodb", "server"]


def test_prometheus_annotations_exist_only_with_open_metrics(installed: Installed) -> None:
    annotations = installed.of("Deployment")["spec"]["template"]["metadata"]["annotations"]
    shown = installed.settings["SEEKABLE_METRICS"] == "open"
    assert (annotations.get("prometheus.io/scrape") == "true") == shown
    assert ("prometheus.io/port" in annotations) == shown
