"""Helm's own code in a separate process: its Go library starts threads, which do not survive a fork."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[3] / "k8s"

Values = dict[str, Any]


class Refused(Exception):
    """A request that Helm refused, with Helm's message."""


class Helm:
    """A process that runs Helm's operations, one per line of JSON."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        self._process.communicate(timeout=20)

    def lint(self, values: Values, folder: Path) -> list[dict[str, Any]]:
        """Return Helm's messages on the chart with these values, from a copy of the chart in `folder`.

        Helm's lint has no option for values.
        """
        copy = folder / "seekable"
        shutil.copytree(CHART, copy)
        (copy / "values.yaml").write_text(yaml.safe_dump(merge(defaults(), values)))
        response: list[dict[str, Any]] = self._request(do="lint", chart=str(copy))["Messages"]
        return response

    def package(self, folder: Path) -> Path:
        return Path(self._request(do="package", chart=str(CHART), folder=str(folder)))

    def install(
        self, server: str, values: Values, *, name: str = "seekable", namespace: str = "default"
    ) -> dict[str, Any]:
        """Install the chart into the cluster with this API URL, and return Helm's release."""
        release: dict[str, Any] = self._request(
            do="install", chart=str(CHART), server=server, values=values, name=name, namespace=namespace
        )
        return release

    def _request(self, **request: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        response = json.loads(self._process.stdout.readline())
        if "error" in response:
            raise Refused(response["error"])
        return response["result"]


def environment(name: str) -> Values:
    """Return the values of a file of the chart: `minikube` is values-minikube.yaml."""
    values: Values = yaml.safe_load((CHART / f"values-{name}.yaml").read_text())
    return values


def defaults() -> Values:
    values: Values = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


def merge(base: Values, overrides: Values) -> Values:
    """Merge values as Helm does: maps are merged, other values are replaced."""
    result = dict(base)
    for name, value in overrides.items():
        old = result.get(name)
        result[name] = merge(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return result


def _kubeconfig(server: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": {"server": server}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tester"}}],
            "users": [{"name": "tester", "user": {}}],
            "current-context": "tests",
        }
    )


async def _run(request: dict[str, Any]) -> object:
    from helm_sdkpy import Configuration, Install, Lint, Package

    config = Configuration(
        namespace=request.get("namespace", "default"),
        kubeconfig=_kubeconfig(request.get("server", "http://127.0.0.1:1")),
    )
    match request["do"]:
        case "lint":
            return await Lint(config).run(request["chart"])
        case "package":
            return await Package(config).run(request["chart"], request["folder"])
        case _:
            return await Install(config).run(
                request["name"], request["chart"], request["values"], wait=False, timeout=20
            )


def main() -> None:
    # Helm's Go code also writes to file descriptor 1.
    responses = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            response = {"result": asyncio.run(_run(json.loads(line)))}
        except Exception as error:
            response = {"error": str(error)}
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(response), file=responses, flush=True)


if __name__ == "__main__":
    main()
