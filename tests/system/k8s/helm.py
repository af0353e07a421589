"""Helm's own code, in a process of its own: a library in Go has threads, and no fork likes those."""

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
    """Helm did not do it; the message is what it said."""


class Helm:
    """One process that does what it is asked, a line of JSON for each."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        self._process.communicate(timeout=20)

    def lint(self, values: Values, folder: Path) -> list[dict[str, Any]]:
        """What it says of the chart with these values. They are no option: a copy in `folder` has them."""
        copy = folder / "seekable"
        shutil.copytree(CHART, copy)
        (copy / "values.yaml").write_text(yaml.safe_dump(merged(defaults(), values)))
        answer: list[dict[str, Any]] = self._ask(do="lint", chart=str(copy))["Messages"]
        return answer

    def package(self, folder: Path) -> Path:
        return Path(self._ask(do="package", chart=str(CHART), folder=str(folder)))

    def install(
        self, server: str, values: Values, *, name: str = "seekable", namespace: str = "default"
    ) -> dict[str, Any]:
        """Into the cluster whose API is there; the release, as Helm tells of it."""
        release: dict[str, Any] = self._ask(
            do="install", chart=str(CHART), server=server, values=values, name=name, namespace=namespace
        )
        return release

    def _ask(self, **request: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]


def environment(name: str) -> Values:
    """The values of a file beside the chart's own: `minikube` is values-minikube.yaml."""
    values: Values = yaml.safe_load((CHART / f"values-{name}.yaml").read_text())
    return values


def defaults() -> Values:
    values: Values = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


def merged(under: Values, over: Values) -> Values:
    """As Helm does it: maps are merged, all else is replaced."""
    both = dict(under)
    for name, value in over.items():
        old = both.get(name)
        both[name] = merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return both


def _kubeconfig(server: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": server}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "users": [{"name": "me", "user": {}}],
            "current-context": "here",
        }
    )


async def _do(request: dict[str, Any]) -> object:
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
    # Go writes into descriptor 1 as well.
    responses = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = {"result": asyncio.run(_do(json.loads(line)))}
        except Exception as error:
            answer = {"error": str(error)}
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(answer), file=responses, flush=True)


if __name__ == "__main__":
    main()
