"""A fake Kubernetes API server for Helm, which accepts and records every object."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Manifest = dict[str, Any]

# The kinds of the chart's objects, with their plurals in paths. Others get 404, so that Helm fails.
KINDS = {
    "v1": {
        "Secret": "secrets",
        "ConfigMap": "configmaps",
        "Service": "services",
        "PersistentVolumeClaim": "persistentvolumeclaims",
        "Namespace": "namespaces",
    },
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "networking.k8s.io/v1": {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"},
}


class Cluster(ThreadingHTTPServer):
    """The API server. `objects` has every created object as sent, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: list[Manifest] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: otherwise each response waits 40 ms for a delayed ACK
    server: Cluster

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.rstrip("/")
        found = _discovery(path)
        if found is None and path.endswith("/secrets"):
            found = {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []}
        self._respond(200 if found else 404, found or _status(404, "NotFound"))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        # Helm's own release record is in Protocol Buffers.
        if self.headers["content-type"] != "application/json":
            self._respond(201, {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "release"}})
            return
        created = json.loads(body)
        self.server.objects.append(created)
        self._respond(201, created)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._respond(200, {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "release"}})

    def _respond(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _discovery(path: str) -> dict[str, Any] | None:
    if path == "/version":
        return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [
            {
                "name": version.partition("/")[0],
                "versions": [{"groupVersion": version, "version": "v1"}],
                "preferredVersion": {"groupVersion": version, "version": "v1"},
            }
            for version in KINDS
            if "/" in version
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version not in KINDS:
        return None
    resources = [
        {
            "name": plural,
            "kind": kind,
            "namespaced": kind != "Namespace",
            "verbs": ["get", "list", "create", "patch"],
        }
        for kind, plural in KINDS[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _status(code: int, reason: str) -> Manifest:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}


@contextmanager
def cluster() -> Iterator[Cluster]:
    with Cluster() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
