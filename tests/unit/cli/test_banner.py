"""The banner of `seekable serve`: which lines it has, and that a shell can run them."""

import shlex

import pytest

from app.cli.banner import Banner, qr_code

BASE = "http://127.0.0.1:8000"


def lines(**parts: object) -> list[str]:
    return [*Banner(location="/home/me/Films", base=BASE, **parts).lines()]  # type: ignore[arg-type]


def command(label: str, **parts: object) -> list[str]:
    """Return the words that a shell runs for the line with this label."""
    (line,) = [line for line in lines(**parts) if line.split()[0] == label]
    return shlex.split(line.partition(label)[2])


def test_page_comes_first_then_addresses_for_others() -> None:
    assert lines(network=("http://192.0.2.2:8000", "http://nas.local:8000")) == [
        "Seekable serves /home/me/Films",
        "  page     http://127.0.0.1:8000/",
        "  network  http://192.0.2.2:8000/",
        "  network  http://nas.local:8000/",
        "  help     http://127.0.0.1:8000/help/",
        "  docs     http://127.0.0.1:8000/docs",
        "  upload   curl -F file=@film.mp4 http://127.0.0.1:8000/file/upload",
        "  play     vlc http://127.0.0.1:8000/files/film.mp4",
    ]


def test_read_only_library_has_no_upload_line() -> None:
    labels = [line.split()[0] for line in lines(uploads=False, plays="/playlist.m3u?recursive=true")]
    assert labels == ["Seekable", "page", "help", "docs", "play"]
    assert command("play", uploads=False, plays="/playlist.m3u?recursive=true&folder=a") == [
        "vlc",
        f"{BASE}/playlist.m3u?recursive=true&folder=a",
    ]


@pytest.mark.parametrize("email", ["me@nas", "o'brien+films@example.org", "a b@nas"])
def test_upload_names_the_account(email: str) -> None:
    upload = ["curl", "-u", email, "-F", "file=@film.mp4", f"{BASE}/file/upload"]
    assert command("upload", login=email) == upload


@pytest.mark.parametrize("base", ["http://[::1]:8000", "https://nas/it's(mine)&$HOME"])
def test_addresses_are_quoted_for_shells(base: str) -> None:
    (upload, play) = list(Banner(location="", base=base).lines())[4:6]
    assert shlex.split(upload)[-1] == f"{base}/file/upload"
    assert shlex.split(play)[-1] == f"{base}/files/film.mp4"


def test_socket_replaces_addresses() -> None:
    upload = command("upload", socket="@see kable", login="EMAIL")
    assert upload[:5] == ["curl", "--abstract-unix-socket", "see kable", "-u", "EMAIL"]
    labels = [line.split()[0] for line in lines(socket="/run/s")]
    assert labels == ["Seekable", "socket", "upload", "play"]
    assert command("play", socket="/run/s")[-2:] == ["vlc", "-"]


def test_first_sign_up_is_explained_last() -> None:
    assert lines(sign_up=f"{BASE}/sign-up?invite=x")[-2:] == [
        f"  sign up  {BASE}/sign-up?invite=x",
        "           The first account is the administrator's.",
    ]


def test_lines_cannot_control_a_terminal() -> None:
    shown = "\n".join(Banner(location="/films\x1b[2J\n", base=BASE, notes=("\x1b[2J",)).lines())
    assert "\x1b" not in shown
    assert r"\x1b[2J\n" in shown


@pytest.mark.parametrize("url", ["http://192.0.2.2:8000/", f"https://media.example.org/{'long/' * 20}"])
def test_qr_code_is_a_rectangle_with_a_light_margin(url: str) -> None:
    rows = [row.removeprefix("\x1b[97;40m").removesuffix("\x1b[0m") for row in qr_code(url).splitlines()]
    assert len({len(row) for row in rows}) == 1
    assert set("".join(rows)) <= set(" ▀▄█")
    assert set(rows[0]) == {"█"}
    assert {row[:2] for row in rows[:-1]} == {"██"}
