"""What settings say: taken as they are meant, or refused in a sentence before anything begins."""

from pathlib import Path

import pytest

from app.settings import ConfigurationError, load


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no .env is
    for name in ("BASE_URL", "ALLOWED_HOSTS", "CORS_ORIGINS", "FILES_DIR", "DATABASE_URL"):
        monkeypatch.delenv(f"SEEKABLE_{name}", raising=False)


@pytest.mark.parametrize(
    ("name", "value", "meant"),
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
        ("database_url", "sqlite:///films.db", "sqlite:///films.db"),
        ("files_dir", "my films", Path("my films")),
        ("files_dir", "/srv/films", Path("/srv/films")),
    ],
)
def test_what_is_taken(name: str, value: str, meant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SEEKABLE_{name.upper()}", value)
    assert getattr(load(), name) == meant


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        *(("BASE_URL", url, "is not like https://media.example.org") for url in (
            "media.example.org", "http://h:abc", "http://h/a b", "http://h:65536", "http://", "ftp://h",
            "http://u:p@h", "http://h?q", "http://h#f", "http://h/%zz", "http://a..b", "http://[1:2]", "",
            "http://h/\t", "http://h\n", "http:/h",
        )),
        ("BASE_URL", "https://bücher.example", "xn--"),
        ("BASE_URL", "https://h/größe", "xn--…, all else as %…"),
        *(("ALLOWED_HOSTS", host, "is not like nas.local") for host in (
            "https://x", "a,http://b", "x/y", "*x", "a.*.b", "2001:db8::1", "[nas]", "a b", "nas:port",
        )),
        ("ALLOWED_HOSTS", "bücher.example", "xn--"),
        *(("CORS_ORIGINS", site, "is not like https://app.example.org") for site in (
            "app.example.org", "https://app.example.org/page", "https://*.example.org", "null", "https://",
            "//app.example.org", "https://u@h",
        )),
        ("CORS_ORIGINS", "https://bücher.example", "xn--"),
        ("FILES_DIR", "", "names no folder"),
        ("FILES_DIR", " ", "names no folder"),
    ],
)  # fmt: skip
def test_what_is_refused(name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SEEKABLE_{name}", value)
    with pytest.raises(ConfigurationError) as refused:
        load()
    said = str(refused.value)
    assert said.startswith(f"SEEKABLE_{name}: ")
    assert says in said
    assert len(said.splitlines()) == 1


def test_the_home_of_the_user_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEEKABLE_FILES_DIR", "~/films")
    assert load().files_dir == tmp_path / "films"
