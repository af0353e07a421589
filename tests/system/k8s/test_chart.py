"""The chart, read and installed by Helm's own code into an API server that remembers what it was sent."""

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
"""A severity of Helm's; 1 is what is recommended, an icon for instance, and 2 a warning."""


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
    for sent in environment_of(helm, name).objects:
        kubernetes_validate.validate(sent, kubernetes_validate.latest_version(), strict=True)


def test_a_manifest_that_is_not_would_be_noticed(helm: Helm) -> None:
    sent = copy.deepcopy(environment_of(helm, "defaults").of("Deployment"))
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
    assert not two.selected(one.of("Service", "one-seekable")["spec"]["selector"])


@pytest.mark.parametrize(("values", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(helm: Helm, values: Values, said: str) -> None:
    with cluster() as server:
        with pytest.raises(Refused) as refused:
            helm.install(server.url, values)
        assert server.objects == []
    assert said in str(refused.value)


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
    notes = environment_of(helm, name).notes
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
