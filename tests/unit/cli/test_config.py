"""`seekable config`: the settings that apply, their sources, and no passwords."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from app.cli.config_command import mask
from app.settings import Settings
from tests.support.forking import completed


def run(folder: Path, *arguments: str, **settings: str) -> tuple[int, str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
    done = completed("config", *arguments, folder=folder, environment=environment | settings)
    return done.returncode, done.stdout, done.stderr


def by_name(output: str) -> dict[str, dict[str, Any]]:
    return {setting["name"]: setting for setting in json.loads(output)["settings"]}


def test_every_setting_is_printed_with_value_and_source(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SEEKABLE_PORT=9000\nSEEKABLE_ACCESS=open\n")
    status, output, errors = run(tmp_path, SEEKABLE_ACCESS="accounts", SEEKABLE_READ_ONLY="yes")
    assert (status, errors) == (0, "")
    found = dict(line.rsplit(" # ", 1) for line in output.splitlines())
    found = {setting.rstrip(): source for setting, source in found.items()}
    assert len(found) == len(Settings.model_fields)
    for setting, source in {
        "SEEKABLE_HOST=127.0.0.1": "default",
        "SEEKABLE_PORT=9000": f"{tmp_path}/.env",
        "SEEKABLE_ACCESS=accounts": "environment",
        "SEEKABLE_READ_ONLY=true": "environment",
        "SEEKABLE_TRUSTED_PROXIES=127.0.0.1,::1": "default",
        "SEEKABLE_MAX_UPLOAD_SIZE=64GiB": "default",
        "SEEKABLE_QUOTA is not set": "default",
    }.items():
        assert found[setting] == source


def test_json_has_values_of_their_types(tmp_path: Path) -> None:
    status, output, errors = run(tmp_path, "--json", SEEKABLE_QUOTA="1GiB", SEEKABLE_ALLOWED_HOSTS="a, b")
    assert (status, errors) == (0, "")
    found = by_name(output)
    assert list(json.loads(output)) == ["env_file", "settings", "unknown"]
    assert found["SEEKABLE_QUOTA"] == {"name": "SEEKABLE_QUOTA", "value": 1 << 30, "source": "environment"}
    assert found["SEEKABLE_ALLOWED_HOSTS"]["value"] == ["a", "b"]
    assert found["SEEKABLE_PORT"]["value"] == 8000
    assert found["SEEKABLE_MONGODB_URL"]["value"] is None
    assert found["SEEKABLE_FILES_DIR"]["value"] == "files"


def test_quiet_prints_only_settings_that_are_set(tmp_path: Path) -> None:
    """With those of the target of a copy, which have no defaults."""
    settings = {"SEEKABLE_PORT": "9000", "SEEKABLE_COPY_TO_FILES_DIR": "/backup"}
    _, output, _ = run(tmp_path, "--quiet", **settings)
    assert output.split() == [
        *("SEEKABLE_PORT=9000", "#", "environment"),
        *("SEEKABLE_COPY_TO_FILES_DIR=/backup", "#", "environment"),
    ]
    _, output, _ = run(tmp_path, "--quiet", "--json", **settings)
    assert list(by_name(output)) == ["SEEKABLE_PORT", "SEEKABLE_COPY_TO_FILES_DIR"]


def test_unknown_names_are_listed_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SEEKABLE_PROT=9000\n")
    status, output, errors = run(tmp_path, SEEKABLE_ZZZ="1")
    assert status == 1
    assert errors.splitlines() == [
        "There is no setting SEEKABLE_PROT. Did you mean SEEKABLE_PORT?",
        "There is no setting SEEKABLE_ZZZ.",
    ]
    assert "PROT" not in output
    status, output, errors = run(tmp_path, "--json", SEEKABLE_ZZZ="1")
    assert (status, errors) == (1, "")
    assert json.loads(output)["unknown"] == [
        {"name": "SEEKABLE_PROT", "nearest": "SEEKABLE_PORT"},
        {"name": "SEEKABLE_ZZZ", "nearest": None},
    ]


def test_infinity_is_valid_json(tmp_path: Path) -> None:
    _, output, _ = run(tmp_path, "-q", "--json", SEEKABLE_SEND_TIMEOUT="inf")
    (setting,) = json.loads(output, parse_constant=pytest.fail)["settings"]
    assert setting["value"] == "inf"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql+psycopg://anna:secret@db/films", "postgresql+psycopg://anna:***@db/films"),
        ("postgresql://anna:se/cr@et?@db/films", "postgresql://anna:***@db/films"),
        ("postgresql://anna@example.org:secret@db/x", "postgresql://anna@example.org:***@db/x"),
        (
            "postgresql://db/x?user=anna&%70assword=secret;1&a=b",
            "postgresql://db/x?user=anna&%70assword=***&a=b",
        ),
        (
            "mongodb://h/x?tls=true;tlsCertificateKeyFilePassword=secret",
            "mongodb://h/x?tls=true;tlsCertificateKeyFilePassword=***",
        ),
        ("postgresql://db/films?user=anna&password=secret", "postgresql://db/films?user=anna&password=***"),
        ("mongodb://a:secret@h,i:1/films?replicaSet=rs", "mongodb://a:***@h,i:1/films?replicaSet=rs"),
        (
            "mongodb://h/x?tls=true&tlsCertificateKeyFilePassword=secret&w=1",
            "mongodb://h/x?tls=true&tlsCertificateKeyFilePassword=***&w=1",
        ),
        (
            "mongodb://h/x?authMechanismProperties=AWS_SESSION_TOKEN:secret",
            "mongodb://h/x?authMechanismProperties=***",
        ),
        ("mongodb://anna:1/p?PW=secret@h", "mongodb://anna:***@h"),
        ("mongodb://anna/1:p?PW=secret@h", "mongodb://***@h"),
        ("mongodb://anna?secret@h/x?w=1", "mongodb://***@h/x?w=1"),
        ("mongodb://h/x?mypass=secret&APIKEY=secret", "mongodb://h/x?mypass=***&APIKEY=***"),
        ("postgresql://db/x?sslpassphrase=secret", "postgresql://db/x?sslpassphrase=***"),
        ("sqlite:////srv/a@home/films.db", "sqlite:////srv/a@home/films.db"),
        ("https://nas.example/@anna", "https://nas.example/@anna"),
        ("mongodb://anna@h:27017/films", "mongodb://anna@h:27017/films"),
        ("sqlite:////srv/films.db", "sqlite:////srv/films.db"),
        ("https://nas.example:8443/tv", "https://nas.example:8443/tv"),
    ],
)
def test_passwords_are_masked(tmp_path: Path, url: str, masked: str) -> None:
    assert mask(url) == masked
    if "secret" in url:
        settings = {
            "SEEKABLE_DATABASE_URL": url,
            "SEEKABLE_COPY_TO_MONGODB_URL": url,
            "SEEKABLE_USERS_URL": url,
        }
        for option in ("-q", "--json"):
            _, output, errors = run(tmp_path, option, **settings)
            assert output.count("***") == 3 * masked.count("***")
            assert "secret" not in output + errors


def test_invalid_setting_is_one_error(tmp_path: Path) -> None:
    status, output, errors = run(tmp_path, SEEKABLE_PORT="many")
    assert (status != 0, output) == (True, "")
    assert errors.startswith("Error: SEEKABLE_PORT: ")
