"""The chart, linted and installed by Helm's own code into a fake API server."""

import copy
import tarfile
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.system.k8s.cluster import Manifest, cluster
from tests.system.k8s.environments import ENVIRONMENTS, PASSWORD, REFUSED
from tests.system.k8s.helm import CHART, Helm, Refused, Values
from tests.system.k8s.installed import Installed, environment_of, install

OLDEST = "1.25"

ERROR = 3
"""Helm's severity of errors. 1 is a recommendation, for instance an icon; 2 is a warning."""


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_lint_finds_no_fault(helm: Helm, name: str, tmp_path: Path) -> None:
    messages = helm.lint(ENVIRONMENTS[name], tmp_path)
    assert [m for m in messages if m["Severity"] > 1] == []


def test_lint_reports_planted_fault(helm: Helm, tmp_path: Path) -> None:
    messages = helm.lint({"replicas": "three"}, tmp_path)
    assert [m for m in messages if m["Severity"] == ERROR]


def test_every_manifest_is_valid_for_oldest_kubernetes(installed: Installed) -> None:
    assert installed.objects
    for sent in installed.objects:
        kubernetes_validate.validate(sent, OLDEST, strict=True)


@pytest.mark.parametrize("name", ["minikube", "filesystem"])
def test_every_kind_of_manifest_is_valid_for_newest_kubernetes(helm: Helm, name: str) -> None:
    for sent in environment_of(helm, name).objects:
        kubernetes_validate.validate(sent, kubernetes_validate.latest_version(), strict=True)


def test_validation_reports_planted_fault(helm: Helm) -> None:
    sent = copy.deepcopy(environment_of(helm, "defaults").of("Deployment"))
    sent["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(sent, OLDEST, strict=True)


def test_manifest_has_every_object_of_cluster(installed: Installed) -> None:
    """`helm template . | kubectl apply -f -` creates the same objects as `helm install`: no hooks."""
    sent = copy.deepcopy(installed.objects)
    for one in sent:
        one["metadata"].pop("namespace")
        for annotation in ("meta.helm.sh/release-name", "meta.helm.sh/release-namespace"):
            one["metadata"]["annotations"].pop(annotation)
        if not one["metadata"]["annotations"]:
            del one["metadata"]["annotations"]
    assert sorted(sent, key=_kind_and_name) == sorted(installed.manifest, key=_kind_and_name)
    assert "helm.sh/hook" not in str(installed.manifest)


def _kind_and_name(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def test_manifest_is_deterministic(helm: Helm) -> None:
    """Applying it again changes nothing: the chart generates no password."""
    first, second = (install(helm, ENVIRONMENTS["defaults"]).manifest for _ in range(2))
    assert first == second


def test_manifest_can_be_applied_to_other_namespace(helm: Helm) -> None:
    """`kubectl -n films apply` works with the output of `helm template`: no address contains a namespace."""
    in_default, in_films = (install(helm, PASSWORD, namespace=name).manifest for name in ("default", "films"))
    for one, other in zip(in_default, in_films, strict=True):
        if one["kind"] not in ("ConfigMap", "Deployment"):  # these have the allowed hosts, or their checksum
            assert one == other


def test_two_releases_share_no_object(helm: Helm) -> None:
    one, two = (install(helm, PASSWORD, name=name) for name in ("one", "seekable-two"))
    names = [{(o["kind"], o["metadata"]["name"]) for o in found.objects} for found in (one, two)]
    assert not names[0] & names[1]
    assert ("Deployment", "one-seekable") in names[0]
    assert ("Deployment", "seekable-two") in names[1]
    assert not two.selected(one.of("Service", "one-seekable")["spec"]["selector"])


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED)
def test_install_is_refused_when_values_are_invalid(helm: Helm, values: Values, message: str) -> None:
    with cluster() as server:
        with pytest.raises(Refused) as refused:
            helm.install(server.url, values)
        assert server.objects == []
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("minikube", "at http://seekable.test"),
        ("kong", "at https://media.example.org"),
        ("everything", "at https://example.org/media"),
        ("defaults", "port-forward service/seekable 8000:80"),
    ],
)
def test_notes_name_address_of_server(helm: Helm, name: str, address: str) -> None:
    notes = environment_of(helm, name).notes
    assert address in notes
    assert ("account invite" in notes) == (ENVIRONMENTS[name].get("access") != "open")


def test_chart_names_kubernetes_version_and_app_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((CHART.parent / "pyproject.toml").read_text())["project"]
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"
    assert chart["appVersion"] == project["version"]


def test_package_contains_every_file_of_chart(helm: Helm, tmp_path: Path) -> None:
    with tarfile.open(helm.package(tmp_path)) as package:
        names = {name.removeprefix("seekable/") for name in package.getnames()}
    expected = {str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()}
    assert names == expected - {".helmignore"}
