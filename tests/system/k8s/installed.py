"""The objects that Helm creates from the chart."""

from dataclasses import dataclass
from functools import cache

import yaml

from tests.system.k8s.cluster import Manifest, cluster
from tests.system.k8s.environments import ENVIRONMENTS
from tests.system.k8s.helm import Helm, Values


@dataclass(frozen=True)
class Installed:
    """A release: the objects sent to the cluster, Helm's manifest, and its notes for the user."""

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

    def selected(self, labels: dict[str, str]) -> list[Manifest]:
        """Return the pods that have all of these labels."""
        return [pod for pod in self.pods if labels.items() <= pod["metadata"]["labels"].items()]

    @property
    def server(self) -> Manifest:
        """The pod specification of Seekable."""
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
def environment_of(helm: Helm, name: str) -> Installed:
    """Install the chart with the values of an environment, once per process."""
    return install(helm, ENVIRONMENTS[name])
