"""Settings are normalized, or refused with a one-sentence message before the program starts."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.settings import ConfigurationError, Settings, env_file, load, load_target, misspelt, override, read


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # which holds no .env
    for name in os.environ:
        if name.startswith("SEEKABLE_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("base_url", "https://media.example.org/", "https://media.example.org"),
        ("base_url", "HTTPS://Media.example.org:8443/tv/", "https://Media.example.org:8443/tv"),
        ("base_url", "http://[2001:db8::1]:8000/a%20b", "http://[2001:db8::1]:8000/a%20b"),
        ("base_url", "http://xn--bcher-kva.example", "http://xn--bcher-kva.example"),
        ("allowed_hosts", "nas.local, *.example.org,", ("nas.local", "*.example.org")),
        ("allowed_hosts", "*", ("*",)),
        ("allowed_hosts", "nas:8000,192.0.2.1,[2001:DB8::1]", ("nas:8000", "192.0.2.1", "[2001:DB8::1]")),
        ("allowed_hosts", "", ()),
        ("cors_origins", "https://App.example.org/", ("https://app.example.org",)),
        ("cors_origins", "http://localhost:3000,*", ("http://localhost:3000", "*")),
        (
            "cors_origins",
            "https://a.example:443,http://a.example:80",
            ("https://a.example", "http://a.example"),
        ),
        (
            "cors_origins",
            "http://a.example:443,moz-extension://ab-c",
            ("http://a.example:443", "moz-extension://ab-c"),
        ),
        (
            "trusted_proxies",
            "10.0.0.0/8, 192.0.2.1,2001:db8::/32",
            ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32"),
        ),
        ("trusted_proxies", "", ()),
        ("database_url", "sqlite:///films.db", "sqlite:///films.db"),
        ("files_dir", "my films", Path("my films")),
        ("files_dir", "/srv/films", Path("/srv/films")),
    ],
)
def test_setting_is_normalized(
    name: str, value: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SEEKABLE_{name.upper()}", value)
    assert getattr(load(), name) == expected


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        *(("BASE_URL", url, "Write it like https://media.example.org") for url in (
            "media.example.org", "http://h:abc", "http://h/a b", "http://h:65536", "http://", "ftp://h",
            "http://u:p@h", "http://h?q", "http://h#f", "http://h/%zz", "http://a..b", "http://[1:2]", "",
            "http://h/\t", "http://h\n", "http:/h",
        )),
        ("BASE_URL", "https://bücher.example", "xn--"),
        ("BASE_URL", "https://h/größe", "xn--…, other characters as %…"),
        *(("ALLOWED_HOSTS", host, "Write it like nas.local") for host in (
            "https://x", "a,http://b", "x/y", "*x", "a.*.b", "2001:db8::1", "[nas]", "a b", "nas:port",
        )),
        ("ALLOWED_HOSTS", "bücher.example", "xn--"),
        *(("CORS_ORIGINS", site, "Write it like https://app.example.org") for site in (
            "app.example.org", "https://app.example.org/page", "https://*.example.org", "null", "https://",
            "//app.example.org", "https://u@h",
        )),
        ("CORS_ORIGINS", "https://bücher.example", "xn--"),
        *(("TRUSTED_PROXIES", where, "Write it like 192.0.2.1, 10.0.0.0/8") for where in (
            "*", "proxy.local", "10.0.0.1/8", "192.0.2.1:80", "[::1]", "10.0.0.0/33",
        )),
        ("FILES_DIR", "", "Name a folder"),
        ("FILES_DIR", " ", "Name a folder"),
        ("FILES_DIR", os.fsdecode(b"f\xfcr dich"), "not in UTF-8. Rename the folder, or name a"),
    ],
)  # fmt: skip
def test_setting_is_refused_when_invalid(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SEEKABLE_{name}", value)
    with pytest.raises(ConfigurationError) as refused:
        load()
    message = str(refused.value)
    assert message.startswith(f"SEEKABLE_{name}: ")
    assert words in message
    assert len(message.splitlines()) == 1


def test_files_dir_expands_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEEKABLE_FILES_DIR", "~/films")
    assert load().files_dir == tmp_path / "films"


# Names that are no settings


@pytest.mark.parametrize(
    "name",
    [
        "SEEKABLE_PORT",
        "seekable_port",
        "SEEKABLE_MAX_UPLOAD_SIZE",
        "SEEKABLE_COPY_TO_MONGODB_URL",
        "SEEKABLEPORT",
        "PORT",
        # Kubernetes sets these for a service `seekable`, and for a service `seekable-db`.
        "SEEKABLE_SERVICE_HOST",
        "SEEKABLE_SERVICE_PORT",
        "SEEKABLE_SERVICE_PORT_HTTP",
        "SEEKABLE_PORT_8000_TCP",
        "SEEKABLE_PORT_8000_TCP_PROTO",
        "SEEKABLE_PORT_8000_TCP_PORT",
        "SEEKABLE_PORT_8000_TCP_ADDR",
        "SEEKABLE_DB_SERVICE_HOST",
        "SEEKABLE_DB_PORT",
        "SEEKABLE_DB_PORT_5432_TCP_ADDR",
    ],
)
def test_variable_is_not_reported_when_known_or_foreign(name: str) -> None:
    assert misspelt([name]) == []


@pytest.mark.parametrize(
    "name",
    [
        *("SEEKABLE_PROT", "SEEKABLE_FILE_DIR", "SEEKABLE_", "SEEKABLE_PORTS", "SEEKABLE_PORT_8000"),
        *("SEEKABLE_COPY_TO", "SEEKABLE_COPY_TO_MONGO_URL", "SEEKABLE_SERVICE"),
    ],
)
def test_variable_is_reported_when_misspelt(name: str) -> None:
    assert misspelt(["SEEKABLE_PORT", name, name.lower()]) == [name]


def test_misspelt_variables_are_logged_in_one_line_with_nearest_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load()
        assert caplog.messages == []
        (tmp_path / ".env").write_text("SEEKABLE_FILE_DIR=x\nSEEKABLE_PORT=1\nOTHER=1\n")
        monkeypatch.setenv("SEEKABLE_PROT", "2")
        monkeypatch.setenv("SEEKABLE_XYZZY", "2")
        assert load().port == 1
    assert caplog.messages == [
        "Unknown settings: SEEKABLE_FILE_DIR (did you mean SEEKABLE_FILES_DIR?), SEEKABLE_PROT "
        "(did you mean SEEKABLE_PORT?), SEEKABLE_XYZZY"
    ]


@pytest.mark.parametrize("url", ["tcp://10.0.0.1:8000", "udp://10.0.0.1:53"])
def test_port_variable_of_kubernetes_service_is_ignored(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEKABLE_PORT", url)
    assert load().port == 8000
    (tmp_path / ".env").write_text("SEEKABLE_PORT=9000\n")
    assert load().port == 9000


# Options of `seekable serve`


def test_override_takes_precedence_and_reaches_child_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("SEEKABLE_ACCESS=accounts\nSEEKABLE_HOST=::\n")
    for name in ("SEEKABLE_PORT", "seekable_port", "SEEKABLE_ACCESS", "SEEKABLE_READ_ONLY"):
        monkeypatch.setenv(name, "")  # restores the environment after this test
    monkeypatch.setenv("SEEKABLE_PORT", "1")
    monkeypatch.setenv("seekable_port", "tcp://10.0.0.1:8000")
    override(port=0, access="open", read_only=True, host=None)
    settings = load()
    assert (settings.port, settings.access, settings.read_only, settings.host) == (0, "open", True, "::")
    code = "from app.settings import read; print(read().access, read().port)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "open 0\n"


# The target of a copy


def test_options_take_precedence_over_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SEEKABLE_COPY_TO_MONGODB_URL=mongodb://a\n")
    monkeypatch.setenv("SEEKABLE_MONGODB_URL", "mongodb://source")
    monkeypatch.setenv("SEEKABLE_COPY_TO_STORAGE", "filesystem")
    monkeypatch.setenv("SEEKABLE_COPY_TO_FILES_DIR", "~/films")
    monkeypatch.setenv("HOME", "/home/me")
    assert load_target().files_dir == Path("/home/me/films")
    assert load_target(files_dir="other", storage=None).files_dir == Path("other")
    assert load_target(storage="gridfs").mongodb_url == "mongodb://a"
    assert load().mongodb_url == "mongodb://source"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Set SEEKABLE_COPY_TO_STORAGE, or its option, to the target"),
        ({"files_dir": "x"}, "SEEKABLE_COPY_TO_STORAGE"),
        ({"storage": "filesystem"}, "SEEKABLE_COPY_TO_FILES_DIR"),
        ({"storage": "gridfs"}, "SEEKABLE_COPY_TO_MONGODB_URL"),
        (
            {"storage": "filesystem", "files_dir": " "},
            "SEEKABLE_COPY_TO_FILES_DIR: It is empty. Name a folder.",
        ),
        ({"storage": "tape"}, "SEEKABLE_COPY_TO_STORAGE: "),
    ],
)
def test_copy_target_has_no_default(options: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_target(**options)


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"files_dir": "/srv/films"}, "/srv/films"),
        ({"storage": "gridfs", "mongodb_url": "mongodb://a,b:1/films"}, "mongodb://a,b:1/films"),
        ({"storage": "gridfs", "mongodb_url": "mongodb://me:secret@a/films?x=y@z"}, "mongodb://a/films"),
        ({"storage": "gridfs", "mongodb_url": "mongodb+srv://me:se%40@a"}, "mongodb+srv://a"),
    ],
)
def test_place_is_shown_without_password(settings: dict[str, Any], place: str) -> None:
    assert Settings(_env_file=None, **settings).location == place


# A `.env` that an upload could replace


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Create a library with a folder in it, beneath the working directory."""
    (tmp_path / "films" / "series").mkdir(parents=True)
    return tmp_path / "films"


IGNORED: list[tuple[str, dict[str, str]]] = [
    ("films", {"SEEKABLE_FILES_DIR": "."}),
    ("films", {"SEEKABLE_FILES_DIR": "{films}"}),
    ("films", {"SEEKABLE_FILES_DIR": "../link"}),
    ("films/series", {"SEEKABLE_FILES_DIR": "{films}"}),
    ("films/series", {"SEEKABLE_FILES_DIR": "../../link"}),
    ("link/series", {"SEEKABLE_FILES_DIR": "{films}"}),
    ("films", {"SEEKABLE_COPY_TO_FILES_DIR": "{films}", "SEEKABLE_COPY_TO_STORAGE": "filesystem"}),
]
"""The working directory, and the environment, of a `.env` that the program must not read."""


@pytest.mark.parametrize(("here", "environment"), IGNORED)
def test_env_file_is_ignored_with_one_warning_when_inside_library(
    here: str,
    environment: dict[str, str],
    films: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (films.parent / "link").symlink_to(films)
    monkeypatch.chdir(films.parent / here)
    Path(".env").write_text("SEEKABLE_PORT=1\nSEEKABLE_ACCESS=open\nSEEKABLE_XYZZY=1\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(films=films))
    with caplog.at_level(logging.WARNING):
        settings = load()
    assert (settings.port, settings.access) == (8000, "loopback")
    (message,) = caplog.messages
    assert message.startswith(f"{Path('.env').absolute()} is not read: it lies in the library ")
    assert read().port == 8000


def test_env_file_is_ignored_when_inside_copy_target(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(films)
    Path(".env").write_text("SEEKABLE_PORT=1\nSEEKABLE_COPY_TO_DATABASE_URL=sqlite:////elsewhere.db\n")
    assert load(target=str(films)).port == 8000
    assert load_target(storage="filesystem", files_dir=".").database_url is None
    assert load().port == 1, "serving another library reads it"


@pytest.mark.parametrize("target", ["/etc/seekable.env", "../films/.settings", "series/other"])
def test_env_file_is_ignored_when_link_or_its_target_is_inside_library(
    target: str, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload replaces the file that the link points to; other programs can replace the link itself."""
    (films / ".settings").write_text("SEEKABLE_PORT=1\n")
    (films / "series" / "other").write_text("SEEKABLE_PORT=1\n")
    monkeypatch.setenv("SEEKABLE_FILES_DIR", str(films))
    outside = films.parent / "outside"
    outside.mkdir()
    for here in (films, outside):
        monkeypatch.chdir(here)
        Path(".env").symlink_to(target if here == films else films / ".settings")
        assert load().port == 8000


@pytest.mark.parametrize(
    ("here", "environment"),
    [
        (".", {}),
        (".", {"SEEKABLE_FILES_DIR": "films"}),
        ("films", {}),
        ("films", {"SEEKABLE_FILES_DIR": "series"}),
        ("films", {"SEEKABLE_FILES_DIR": "missing"}),
        ("films", {"SEEKABLE_FILES_DIR": ".", "SEEKABLE_STORAGE": "gridfs"}),
        ("films", {"SEEKABLE_COPY_TO_FILES_DIR": ".", "SEEKABLE_COPY_TO_STORAGE": "gridfs"}),
    ],
)
def test_env_file_is_read_when_outside_every_library(
    here: str, environment: dict[str, str], films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(films.parent / here)
    Path(".env").write_text("SEEKABLE_PORT=1\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load().port == 1
    assert env_file().ignored == ""


@pytest.mark.parametrize(("here", "named"), [("films", "."), ("films/series", ".."), ("films", "{films}")])
def test_env_file_is_refused_when_it_names_the_library_around_it(
    here: str, named: str, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(films.parent / here)
    Path(".env").write_text(f"SEEKABLE_FILES_DIR={named.format(films=films)}\n")
    with pytest.raises(ConfigurationError) as refused:
        load()
    assert "lies in the library that it names" in str(refused.value)
    assert "Set SEEKABLE_FILES_DIR in the environment" in str(refused.value)
    Path(".env").write_text(f"SEEKABLE_COPY_TO_FILES_DIR={named.format(films=films)}\n")
    assert load().files_dir == Path("files")
    with pytest.raises(ConfigurationError, match="Set SEEKABLE_COPY_TO_FILES_DIR"):
        load_target(storage="filesystem")


# The encoding of `.env`


def test_env_file_may_begin_with_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfSEEKABLE_FILES_DIR=K\xc3\xb6ln\n")
    assert load().files_dir == Path("Köln")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_env_file_is_refused_when_not_utf8(encoding: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("SEEKABLE_FILES_DIR=Köln\n".encode(encoding))
    with pytest.raises(ConfigurationError, match=r"/\.env is not in UTF-8\. Save it in UTF-8\.$"):
        load()
