"""compose.yaml is valid by the Compose specification, and its settings by the server's."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from app.server.serving import GRACE_S
from app.settings import Settings, load, misspelt
from tests.system.k8s.test_image import arguments_of

ROOT = Path(__file__).parents[3]


def compose() -> dict[str, Any]:
    file: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return file


def services(profile: str) -> dict[str, dict[str, Any]]:
    return {name: s for name, s in compose()["services"].items() if profile in s["profiles"]}


def server(profile: str) -> dict[str, Any]:
    """Return the service of Seekable."""
    (found,) = [s for s in services(profile).values() if s["image"] == "seekable"]
    return found


def schema() -> dict[str, Any]:
    """Return the JSON schema of Compose files. Its package is a command, and is not imported."""
    package = importlib.util.find_spec("check_jsonschema")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_compose_file_is_valid() -> None:
    jsonschema.validate(compose(), schema())


def test_validation_reports_planted_fault() -> None:
    file = compose()
    file["services"]["mongodb"]["health_check"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(file, schema())


def test_compose_file_has_two_profiles_and_no_service_without_one() -> None:
    assert set(services("filesystem")) == {"filesystem"}
    assert set(services("mongodb")) == {"gridfs", "mongodb"}
    assert len(compose()["services"]) == 3


@pytest.mark.parametrize("profile", ["filesystem", "mongodb"])
def test_settings_are_accepted_by_server(
    profile: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = server(profile)["environment"]
    assert misspelt(settings) == []
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value))
    assert load().access == "open"
    monkeypatch.setenv("SEEKABLE_ACCESS", "accounts")
    assert load().access == "accounts"


@pytest.mark.parametrize("profile", ["filesystem", "mongodb"])
def test_port_is_published_on_loopback_by_default(profile: str) -> None:
    (port,) = server(profile)["ports"]
    assert re.fullmatch(r"\$\{SEEKABLE_PUBLISH:-127\.0\.0\.1:8000\}:8000", port)
    assert all("ports" not in s for s in services(profile).values() if s["image"] != "seekable")


@pytest.mark.parametrize("profile", ["filesystem", "mongodb"])
def test_containers_have_no_privileges(profile: str) -> None:
    for service in services(profile).values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert server(profile)["read_only"] is True


def test_grace_period_is_longer_than_shutdown() -> None:
    seconds = int(server("filesystem")["stop_grace_period"].removesuffix("s"))
    assert seconds > Settings.model_fields["shutdown_timeout"].default + GRACE_S


def test_volumes_are_declared_and_films_are_at_volume_of_image() -> None:
    used = [v.split(":") for s in compose()["services"].values() for v in s.get("volumes", [])]
    assert sorted(name for name, _ in used) == sorted(compose()["volumes"])
    (target,) = json.loads(arguments_of("VOLUME")[0])
    assert ["films", target] in used
