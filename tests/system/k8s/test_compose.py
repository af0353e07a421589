"""compose.yaml: what the specification of Compose files and this program's settings say of it."""

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
from tests.system.k8s.test_image import of

ROOT = Path(__file__).parents[3]


def compose() -> dict[str, Any]:
    file: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return file


def services(profile: str) -> dict[str, dict[str, Any]]:
    return {name: s for name, s in compose()["services"].items() if profile in s["profiles"]}


def server(profile: str) -> dict[str, Any]:
    """The one that is Seekable."""
    (found,) = [s for s in services(profile).values() if s["image"] == "seekable"]
    return found


def schema() -> dict[str, Any]:
    """That of the specification, in a package that is a program: it is not imported."""
    package = importlib.util.find_spec("check_jsonschema")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_it_is_a_compose_file() -> None:
    jsonschema.validate(compose(), schema())


def test_a_fault_in_it_would_be_noticed() -> None:
    file = compose()
    file["services"]["mongodb"]["health_check"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(file, schema())


def test_it_has_two_profiles_and_nothing_runs_without_one() -> None:
    assert set(services("filesystem")) == {"filesystem"}
    assert set(services("mongodb")) == {"gridfs", "mongodb"}
    assert len(compose()["services"]) == 3


@pytest.mark.parametrize("profile", ["filesystem", "mongodb"])
def test_its_settings_are_ones_that_the_server_takes(
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
def test_only_this_machine_is_let_in_until_somebody_says_otherwise(profile: str) -> None:
    (port,) = server(profile)["ports"]
    assert re.fullmatch(r"\$\{SEEKABLE_PUBLISH:-127\.0\.0\.1:8000\}:8000", port)
    assert all("ports" not in s for s in services(profile).values() if s["image"] != "seekable")


@pytest.mark.parametrize("profile", ["filesystem", "mongodb"])
def test_it_may_do_no_more_than_it_needs(profile: str) -> None:
    for service in services(profile).values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert server(profile)["read_only"] is True


def test_it_is_not_killed_before_it_has_ended() -> None:
    seconds = int(server("filesystem")["stop_grace_period"].removesuffix("s"))
    assert seconds > Settings.model_fields["shutdown_timeout"].default + GRACE_S


def test_every_volume_is_declared_and_used_and_the_films_are_where_the_image_has_them() -> None:
    used = [v.split(":") for s in compose()["services"].values() for v in s.get("volumes", [])]
    assert sorted(name for name, _ in used) == sorted(compose()["volumes"])
    (target,) = json.loads(of("VOLUME")[0])
    assert ["films", target] in used
