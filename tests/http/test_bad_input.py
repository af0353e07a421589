"""Hostile and malformed requests: the documented error, and nothing stored.

Names are checked wherever they arrive: paths of all methods, form filenames, folder fields and query
parameters.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support import NewLibrary, Server, each_backend, running

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]
StorageUnchanged = Callable[..., AbstractContextManager[None]]
Part = Callable[..., bytes]
ListFiles = Callable[..., dict[str, dict[str, Any]]]

END = b"--xxBOUNDARYxx--\r\n"
FORM_TYPE = "Content-Type: multipart/form-data; boundary=xxBOUNDARYxx"
CONTROLS = [chr(character) for character in (*range(0x20), *range(0x7F, 0xA0))]
INJECTED = "X-Injected"


def percent_encoded(text: str) -> str:
    return quote(text, safe="")


# Paths as they stand in a request line; `{}` is a folder

BAD_PATHS = [
    "..",
    "../x",
    "../../../../etc/passwd",
    "..%2fx",
    "..%2Fx",
    "%2e%2e/x",
    "%2E%2E%2Fx",
    ".%2e/x",
    "%2e./x",
    "%2e",
    "%2e/x",
    "{}/../../x",
    "{}/%2e%2e/%2e%2e/x",
    "{}/%2fx",
    "%2fx",
    "%2Fetc%2Fpasswd",
    "\\x",
    "..\\x",
    "{}\\x",
    "%5cx",
    "..%5cx",
    "{}%5C..%5Cx",
    "C:%5Cx",
    "{}/x%00",
    "%00",
    "{}/x%00.mp4",
    "{}/x%0a",
    "{}/x%0d%0aX-Injected:%20yes",
    "{}/x%7f",
    "{}/x%09y",
    "{}/x%1b[2J",
    "{}/x%c2%85",  # NEL, a C1 control character
    "{}/x%ff",
    "{}/%fe%ff",
    "{}/x%c3",  # truncated
    "%c0%ae%c0%ae/x",  # two dots, overlong
    "%c0%af",
    "{}/x%ed%a0%80",  # a lone surrogate
    "{}/x%f4%90%80%80",  # beyond U+10FFFF
    ".seekable",
    ".seekable/id",
    ".seekable/staging/x",
    "%2eseekable/x",
    ".seekabl%65/seekable.db",
    "{}/" + "x" * 256,
    "{}/" + "%C3%A9" * 128,
    "{}/" + "x" * 256 + "/x",
    "a/" * 32 + "a",
    "/".join(["x" * 204] * 5) + "x",
    "x" * 50_000,
    "/".join(["x"] * 25_000),
]
# Legal names that resemble attacks; each is stored under the name on the right.
ODD_PATHS = [
    ("{}/%252e%252e/x", "{}/%2e%2e/x"),
    ("{}/..%252fx", "{}/..%2fx"),
    ("{}/%2500", "{}/%00"),
    ("{}/%255c", "{}/%5c"),
    ("{}/...", "{}/..."),
    ("{}/..x", "{}/..x"),
    ("{}/x..", "{}/x.."),
    ("{}/.seekable/x", "{}/.seekable/x"),
    ("{}/%EF%BC%8E%EF%BC%8E/x", "{}/\uff0e\uff0e/x"),  # fullwidth dots
    ("{}/a%E2%88%95b", "{}/a\u2215b"),  # a division slash
    ("{}/~", "{}/~"),
    ("{}/C:", "{}/C:"),
    ("{}/x?folder=..", "{}/x"),
    # Dot segments and empty segments that a client did not resolve; see resources/targets.py.
    ("{}/a/../x", "{}/x"),
    ("{}/./x", "{}/x"),
    ("{}//x", "{}/x"),
    ("/{}///a/.//../x", "{}/a/x"),
    ("{}/" + "x" * 255, "{}/" + "x" * 255),
    ("{}/" + "%C3%A9" * 127 + "x", "{}/" + "é" * 127 + "x"),
    ("{}/" + "a/" * 30 + "a", "{}/" + "a/" * 30 + "a"),
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=range(len(BAD_PATHS)))
def test_path_is_rejected_when_unsafe(
    send_request: SendRequest,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
    path: str,
) -> None:
    target = "/files/" + path.replace("{}", folder)
    with storage_unchanged():
        for method, body in (("PUT", b"x"), ("GET", None), ("DELETE", None)):
            response = send_request(method, target, body=body)
            check_problem(response, 400)
            assert INJECTED not in response.headers
        assert send_request("HEAD", target).status_code == 400


@pytest.mark.parametrize(("path", "name"), ODD_PATHS, ids=range(len(ODD_PATHS)))
def test_path_is_accepted_when_unusual_but_legal(
    send_request: SendRequest, list_files: ListFiles, folder: str, path: str, name: str
) -> None:
    target = "/files/" + path.replace("{}", folder)
    assert send_request("PUT", target, body=b"x").status_code == 201
    assert list(list_files(folder)) == [name.replace("{}", folder)]
    assert send_request("GET", target).content == b"x"
    assert send_request("DELETE", target).status_code == 204
    assert list_files(folder) == {}


@each_backend
def test_path_of_1024_bytes_is_accepted_and_longer_is_rejected(
    http: httpx.Client, folder: str, check_problem: CheckProblem, storage_unchanged: StorageUnchanged
) -> None:
    longest = folder + "/é" * ((1024 - len(folder)) // 3 % 31)
    longest += "/" + "x" * ((1024 - len(longest.encode()) - 1) % 256)
    while len(longest.encode()) + 256 <= 1024:
        longest += "/" + "y" * 255
    longest += "/" + "z" * (1024 - len(longest.encode()) - 1) if len(longest.encode()) < 1023 else ""
    assert len(longest.encode()) == 1024
    assert http.put(f"/files/{quote(longest)}", content=b"x").status_code == 201
    assert http.delete(f"/files/{quote(longest)}").status_code == 204
    with storage_unchanged():
        check_problem(http.put(f"/files/{quote(longest)}z", content=b"x"), 400)


# Names in query parameters and forms

BAD_FILENAMES = {
    "empty": "",
    "dot": ".",
    "dots": "..",
    "up": "../x",
    "slash": "a/b",
    "absolute": "/etc/passwd",
    "trailing": "a/",
    "backslash": "a\\b",
    "windows": "C:\\films\\a.mp4",
    "up backslash": "..\\x",
    "NUL": "a\0b",
    "NUL at the end": "a.mp4\0",
    "256 bytes": "x" * 256,
    "256 bytes of umlauts": "ü" * 128,
    "256 bytes once composed": "u\u0308" * 128,
    "long": "x" * 3000,
}
BAD_FOLDERS = {
    "dot": ".",
    "dots": "..",
    "up": "../x",
    "up at the end": "x/..",
    "up inside": "x/../y",
    "dot inside": "x/./y",
    "root": "/",
    "absolute": "/etc",
    "two slashes": "//x",
    "trailing": "x/",
    "empty segment": "x//y",
    "backslash": "x\\y",
    "up backslash": "..\\x",
    "drive": "C:\\",
    "NUL": "x\0",
    "ours": ".seekable",
    "in ours": ".seekable/staging",
    "256 bytes": "x" * 256,
    "33 segments": "/".join("a" * 33),
    "1,025 bytes": "/".join(["x" * 204] * 5) + "x",
    "long": "x/" * 4000 + "x",
}
# A legal folder, but too deep or too long for a file in it.
FULL_FOLDERS = {"32 segments": "/".join("a" * 32), "1,024 bytes": "/".join(["x" * 204] * 5)}


@pytest.mark.parametrize("name", BAD_FILENAMES.values(), ids=BAD_FILENAMES)
def test_filename_is_rejected_when_invalid(
    send_request: SendRequest,
    part: Part,
    send_form: Any,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
    name: str,
) -> None:
    file, field = part("file", b"data", filename=name), part("folder", folder.encode())
    with storage_unchanged():
        check_problem(
            send_request("GET", f"/file/stream?folder={folder}&filename={percent_encoded(name)}"), 400
        )
        check_problem(send_form(field, file), 400)
        check_problem(send_form(file, field), 400)
        check_problem(send_form(file, query=f"?folder={folder}"), 400)


def test_reserved_name_is_rejected(
    send_request: SendRequest,
    part: Part,
    send_form: Any,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
) -> None:
    with storage_unchanged():
        check_problem(send_form(part("file", b"x", filename=".seekable")), 400)
        check_problem(send_form(part("folder", b""), part("file", b"x", filename=".seekable")), 400)
        check_problem(send_request("GET", "/file/stream?filename=.seekable"), 400)
        check_problem(send_request("GET", "/file/stream?folder=.seekable&filename=id"), 400)


@pytest.mark.parametrize(
    "folder", [*BAD_FOLDERS.values(), *FULL_FOLDERS.values()], ids=[*BAD_FOLDERS, *FULL_FOLDERS]
)
def test_folder_is_rejected_when_invalid(
    send_request: SendRequest,
    part: Part,
    send_form: Any,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
) -> None:
    file, field = part("file", b"data", filename="film.mp4"), part("folder", folder.encode())
    with storage_unchanged():
        check_problem(
            send_request("GET", f"/file/stream?filename=film.mp4&folder={percent_encoded(folder)}"), 400
        )
        check_problem(send_form(field, file), 400)
        check_problem(send_form(file, field), 400)
        check_problem(send_form(file, query=f"?folder={percent_encoded(folder)}"), 400)
        if folder in BAD_FOLDERS.values():
            check_problem(send_request("GET", f"/files?folder={percent_encoded(folder)}"), 400)


@pytest.mark.parametrize("character", CONTROLS, ids=[f"U+{ord(character):04X}" for character in CONTROLS])
def test_control_character_is_rejected_in_every_name(
    send_request: SendRequest,
    part: Part,
    send_form: Any,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
    character: str,
) -> None:
    name = f"a{character}b.mp4"
    file_part = part("file", b"x", filename="film.mp4")
    with storage_unchanged():
        check_problem(send_request("PUT", f"/files/{folder}/{percent_encoded(name)}", body=b"x"), 400)
        check_problem(send_request("PUT", f"/files/{folder}/{percent_encoded(name)}/x", body=b"x"), 400)
        check_problem(
            send_request("GET", f"/file/stream?folder={folder}&filename={percent_encoded(name)}"), 400
        )
        check_problem(send_request("GET", f"/files?folder={folder}{percent_encoded(character)}"), 400)
        check_problem(send_form(file_part, query=f"?folder={folder}{percent_encoded(character)}"), 400)
        check_problem(send_form(part("folder", f"{folder}{character}".encode()), file_part), 400)
        check_problem(send_form(part("folder", folder.encode()), part("file", b"x", filename=name)), 400)
        # Browsers percent-encode a line break in a filename.
        if character in "\r\n":
            check_problem(
                send_form(
                    part("file", b"x", filename=f"a{percent_encoded(character)}b"), query=f"?folder={folder}"
                ),
                400,
            )


@pytest.mark.parametrize(
    "invalid_bytes", [b"\xff", b"\xc3", b"\xc0\xae", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe9t\xe9"]
)
def test_name_is_rejected_when_not_utf_8(
    send_request: SendRequest,
    part: Part,
    send_form: Any,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
    invalid_bytes: bytes,
) -> None:
    encoded = quote(invalid_bytes, safe="")
    file_part, field = part("file", b"x", filename="film.mp4"), part("folder", folder.encode())
    with storage_unchanged():
        check_problem(send_request("PUT", f"/files/{folder}/x{encoded}", body=b"x"), 400)
        check_problem(send_request("PUT", f"/files/{folder}{encoded}/x", body=b"x"), 400)
        assert f"“x{encoded}” in the URL" in check_problem(
            send_request("GET", f"/files/{folder}/x{encoded}"), 400
        )
        check_problem(send_request("DELETE", f"/files/{folder}/x{encoded}"), 400)
        check_problem(send_request("GET", f"/file/stream?folder={folder}&filename=x{encoded}"), 400)
        check_problem(send_request("GET", f"/file/stream?filename=x&folder={folder}{encoded}"), 400)
        check_problem(send_request("GET", f"/files?folder={folder}{encoded}"), 400)
        check_problem(send_request("GET", f"/stream/{encoded}"), 400)
        check_problem(send_form(file_part, query=f"?folder={folder}{encoded}"), 400)
        check_problem(send_form(part("folder", folder.encode() + invalid_bytes), file_part), 400)
        check_problem(send_form(field, part("file", b"x", filename=b"x" + invalid_bytes)), 400)
        check_problem(send_form(field, part(b"f" + invalid_bytes, b"x"), file_part), 400)


# Forms


@pytest.fixture
def whole_form(part: Part, folder: str) -> bytes:
    """A valid form, except for its closing boundary."""
    return (
        part("folder", folder.encode()) + part("file", b"data" * 500, filename="film.mp4") + part("sid", b"7")
    )


def test_truncated_form_is_rejected(
    send_request: SendRequest,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    http: httpx.Client,
    folder: str,
    whole_form: bytes,
) -> None:
    form = whole_form + END
    file_starts, file_ends = form.index(b"data"), form.index(b"data\r\n--") + 4
    cuts = [
        0,
        1,
        5,
        16,  # the first boundary, without its line break
        18,
        30,
        whole_form.index(b"\r\n\r\n"),
        file_starts - 30,
        file_starts - 1,
        file_starts,
        file_starts + 1000,
        file_ends,
        file_ends + 1,
        file_ends + 2,
        file_ends + 10,
        len(whole_form) - 2,
        len(whole_form),
        len(whole_form) + 5,
        len(whole_form) + len("--xxBOUNDARYxx"),
        len(whole_form) + len("--xxBOUNDARYxx-"),
    ]
    with storage_unchanged():
        for cut in cuts:
            check_problem(send_request("POST", "/file/upload", FORM_TYPE, body=form[:cut]), 400)
            chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (cut, form[:cut]) if cut else b"0\r\n\r\n"
            check_problem(
                send_request("POST", "/file/upload", FORM_TYPE, "Transfer-Encoding: chunked", body=chunked),
                400,
            )
        check_problem(send_request("POST", "/file/upload", FORM_TYPE), 400)
    # The line break after the closing boundary belongs to the epilogue.
    assert send_request("POST", "/file/upload", FORM_TYPE, body=form[:-2]).status_code == 201
    assert http.get(f"/files/{folder}/film.mp4").content == b"data" * 500


def test_form_is_rejected_without_exactly_one_file(
    part: Part, send_form: Any, check_problem: CheckProblem, storage_unchanged: StorageUnchanged, folder: str
) -> None:
    file, field = part("file", b"x", filename="film.mp4"), part("folder", folder.encode())
    another = part("file", b"y", filename="film2.mp4")
    with storage_unchanged():
        for parts in (
            (),
            (field,),
            (field, part("File", b"x", filename="film.mp4")),
            (field, part("upload", b"x", filename="film.mp4")),
            (field, part("file", b"x")),  # a field of that name
            (field, part("file", b"x", filename="")),  # browsers send this when no file was chosen
            (field, file, another),
            (file, field, another),
            (file, another, field),
            (field, file, file),
            (field, file, part("file", b"x")),
            (field, field, file),
            (field, file, part("other", b"y", filename="other.mp4")),
            (field, part("", b"x"), file),
        ):
            check_problem(send_form(*parts), 400)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ('multipart/form-data; boundary=""', 400),
        ("multipart/form-data; boundary=" + "x" * 71, 400),
        ("multipart/form-data; boundary=a; boundary=xxBOUNDARYxx", 400),
        ("multipart/form-data; boundary=é", 400),
        ("multipart/form-data; boundary=another", 400),
        ("multipart/mixed; boundary=xxBOUNDARYxx", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/octet-stream", 415),
        ("video/mp4", 415),
        ("application/json", 415),
        ("text/plain; x=multipart/form-data", 415),
        ("", 415),
        (None, 415),
    ],
)
def test_upload_is_rejected_when_not_a_form(
    send_request: SendRequest,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    whole_form: bytes,
    content_type: str | None,
    status: int,
) -> None:
    headers = () if content_type is None else (f"Content-Type: {content_type}",)
    with storage_unchanged():
        check_problem(send_request("POST", "/file/upload", *headers, body=whole_form + END), status)


@pytest.mark.parametrize(
    "body",
    [b"", b"\r\n", b"no form at all", b"-" * 100_000, b"\r\n" * 50_000, END,
     b"--xxBOUNDARYxx\r\n\r\n\r\n" + END,
     b"--xxBOUNDARYxx\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END,
     b"--xxBOUNDARYxx\r\nContent-Disposition: attachment; name=\"file\"; filename=\"a\"\r\n\r\nx\r\n" + END,
     b"--xxBOUNDARYxx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\r\n\r\nx\r\n" + END,
     b"--xxBOUNDARYxx\r\nno colon here\r\n\r\nx\r\n" + END,
     b"--xxBOUNDARYxx\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\n\nx\n"
     b"--xxBOUNDARYxx--\n",
     b"--xxBOUNDARYxx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"; filename=\"b\"\r\n"
     b"\r\nx\r\n" + END,
     b"--xxBOUNDARYxx\r\nContent-Type: video/mp4\r\n\r\nx\r\n" + END],
)  # fmt: skip
def test_malformed_form_is_rejected(
    send_request: SendRequest, check_problem: CheckProblem, storage_unchanged: StorageUnchanged, body: bytes
) -> None:
    with storage_unchanged():
        check_problem(send_request("POST", "/file/upload", FORM_TYPE, body=body), 400)


def test_oversized_form_is_rejected_quickly(
    part: Part,
    send_request: SendRequest,
    send_form: Any,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
) -> None:
    """The limits hold before and after the file, in time as well as in memory."""
    file, query = part("file", b"data", filename="film.mp4"), f"?folder={folder}"
    with storage_unchanged():
        started = time.monotonic()
        many = part("x", b"y") * 5000
        check_problem(send_form(many, file, query=query), 400)
        check_problem(send_form(file, many, query=query), 400)
        check_problem(send_form(part("x", b"y" * 2_000_000), file, query=query), 400)
        check_problem(send_form(part("x" * 2_000_000, b"y"), file, query=query), 400)
        check_problem(send_form(part("file", b"data", filename="x" * 2_000_000), query=query), 400)
        lines = b"".join(b"X-%d: y\r\n" % i for i in range(50_000))
        check_problem(send_form(part("file", b"data", filename="film.mp4", headers=lines), query=query), 400)
        preamble = b"x" * 2_000_000 + b"\r\n"
        check_problem(
            send_request("POST", f"/file/upload{query}", FORM_TYPE, body=preamble + file + END), 400
        )
        assert time.monotonic() - started < 30


def test_form_epilogue_is_not_stored(
    send_request: SendRequest, part: Part, http: httpx.Client, folder: str
) -> None:
    form = part("file", b"data", filename="film.mp4") + END + b"\r\n--xxBOUNDARYxx\r\nepilogue"
    response = send_request("POST", f"/file/upload?folder={folder}", FORM_TYPE, body=form)
    assert response.status_code in (201, 400)
    if response.status_code == 201:
        assert http.get(f"/files/{folder}/film.mp4").content == b"data"


def test_put_rejects_form(
    send_request: SendRequest,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
    whole_form: bytes,
) -> None:
    # `curl -F` with `-X PUT` sends a form, which would be stored as if it were the film.
    with storage_unchanged():
        check_problem(send_request("PUT", f"/files/{folder}/film.mp4", FORM_TYPE, body=whole_form + END), 415)


# Lengths


@pytest.fixture(scope="module")
def small_limit(
    tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary
) -> Iterator[tuple[Server, httpx.Client]]:
    """A server that accepts files of at most 1 KiB."""
    folder = tmp_path_factory.mktemp("small")
    with running(folder, max_upload_size="1KiB", **new_library()) as server, server.client() as client:
        yield server, client


@pytest.mark.parametrize("chunked", [False, True])
def test_body_over_limit_is_rejected(
    small_limit: tuple[Server, httpx.Client],
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    part: Part,
    chunked: bool,
) -> None:
    server, http = small_limit
    form = part("file", b"x" * 1025, filename="film.mp4") + END
    headers = {"content-type": FORM_TYPE.partition(": ")[2]}
    with storage_unchanged(server):
        for body in (b"x" * 1025, b"x" * 3_000_000):
            check_problem(http.put("/files/film.mp4", content=iter([body]) if chunked else body), 413)
        check_problem(
            http.post("/file/upload", content=iter([form]) if chunked else form, headers=headers), 413
        )


def test_bytes_beyond_content_length_are_not_stored(connect: Any, http: httpx.Client, folder: str) -> None:
    connection = connect()
    connection.request("PUT", f"/files/{folder}/film.mp4", body=b"data")
    assert connection.receive_response("PUT").status_code == 201
    connection.send(b"AND MORE\r\n\r\n")
    assert connection.receive_response("PUT").status_code == 400
    assert connection.is_closed()
    assert http.get(f"/files/{folder}/film.mp4").content == b"data"


@pytest.mark.parametrize(
    "headers",
    [("Content-Length: -1",), ("Content-Length: x",), ("Content-Length: 1_0",), ("Content-Length: +1",),
     ("Content-Length: 0x1",), ("Content-Length: ١",), ("Content-Length: 1, 1",),
     ("Content-Length: " + "9" * 5000,), ("Content-Length: 1", "Content-Length: 2"),
     ("Content-Length: 1", "Transfer-Encoding: chunked"), ("Transfer-Encoding: chunked, gzip",)],
)  # fmt: skip
def test_invalid_length_is_rejected(
    send_request: SendRequest, storage_unchanged: StorageUnchanged, folder: str, headers: tuple[str, ...]
) -> None:
    with storage_unchanged():
        assert (
            send_request(
                "PUT", f"/files/{folder}/film.mp4", *headers, body=b"1\r\nx\r\n0\r\n\r\n"
            ).status_code
            == 400
        )


# Digests


@pytest.mark.parametrize(
    "value", ["sha-256=:" + "A" * 43 + "=:", "a=" * 20_000, "sha-256=(" * 5000, ":" * 30_000, "é=1"]
)
def test_digest_is_rejected_when_wrong_or_malformed(
    send_request: SendRequest,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
    value: str,
) -> None:
    with storage_unchanged():
        for name in ("Content-Digest", "Repr-Digest"):
            check_problem(
                send_request("PUT", f"/files/{folder}/film.mp4", f"{name}: {value}", body=b"data"), 400
            )


# Ranges and conditions

DATA = bytes(range(256)) * 40
NINES = "9" * 5000


@pytest.mark.parametrize(
    ("value", "status", "content"),
    [
        (f"bytes=0-{NINES}", 206, DATA),
        (f"bytes=10-{NINES}", 206, DATA[10:]),
        (f"bytes=-{NINES}", 206, DATA),
        (f"bytes={NINES}-", 416, None),
        (f"bytes={NINES}-{NINES}", 416, None),
        (f"bytes={NINES}-{NINES[:-1]}", 200, DATA),
        (f"bytes={'0' * 5000}-{'0' * 4999}1", 206, DATA[:2]),
        (f"bytes=-{'0' * 5000}", 416, None),
        ("bytes=" + ",".join(["0-"] * 10_000), 200, DATA),
        ("bytes=" + ",".join(["0-"] * 64), 206, DATA),
        ("bytes=" + ",".join(f"{i}-{i}" for i in range(64)), 206, DATA[:64]),
        ("bytes=" + ",".join(f"{i * 2}-{i * 2}" for i in range(1000)), 200, DATA),
        ("bytes=" + "," * 50_000, 200, DATA),
        ("bytes=" + "," * 50_000 + "0-1", 206, DATA[:2]),
        ("bytes=" + " " * 50_000 + "0-1", 206, DATA[:2]),
        ("bytes=" + "-" * 50_000, 200, DATA),
        ("bytes=0-1" + "0" * 50_000 + "x", 200, DATA),
        ("bytes=٠-١", 200, DATA),
        ("bytes=²-³", 200, DATA),
        ("bytes=+0-1", 200, DATA),
        ("bytes=0-1_0", 200, DATA),
        ("bytes=0x0-0x1", 200, DATA),
        ("bytes=0-1;q=1", 200, DATA),
        ("bytes=0.0-1.0", 200, DATA),
        ("=" * 50_000, 200, DATA),
        ("x" * 50_000 + "=0-1", 200, DATA),
        ("", 200, DATA),
    ],
    ids=range(27),
)
def test_hostile_range_gets_bounded_response(
    http: httpx.Client,
    send_request: SendRequest,
    check_problem: CheckProblem,
    folder: str,
    value: str,
    status: int,
    content: bytes | None,
) -> None:
    file = http.put(f"/files/{folder}/film.mp4", content=DATA).json()
    started = time.monotonic()
    for target in (f"/files/{folder}/film.mp4", f"/stream/{file['id']}"):
        response = send_request("GET", target, f"Range: {value}")
        if content is None:
            check_problem(response, status)
            assert response.headers["content-range"] == f"bytes */{len(DATA)}"
        else:
            assert (response.status_code, response.content) == (status, content)
    assert time.monotonic() - started < 10


def test_many_small_ranges_get_small_response(
    http: httpx.Client, send_request: SendRequest, folder: str
) -> None:
    http.put(f"/files/{folder}/film.mp4", content=DATA)
    ranges = ",".join(f"{i * 100}-{i * 100}" for i in range(64))
    response = send_request("GET", f"/files/{folder}/film.mp4", f"Range: bytes={ranges}")
    assert response.status_code in (200, 206)
    assert len(response.content) < 2 * len(DATA)


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("If-None-Match", ",".join(['"x"'] * 15_000), 200),
        ("If-None-Match", '"' * 50_001, 200),
        ("If-None-Match", " \t" * 25_000, 200),
        ("If-Match", 'W/"' * 15_000, 412),
        ("If-Match", "é", 412),
        ("If-Modified-Since", "Mon, 01 Jan 2024 00:00:00 GMT" * 1000, 200),
        ("If-Modified-Since", "Mon, 99 Jan 0000 99:99:99 GMT", 200),
        ("If-Modified-Since", "Fri, 31 Dec 9999 23:59:60 GMT", 200),
        ("If-Unmodified-Since", NINES, 200),
        ("If-Range", NINES, 200),
        ("Want-Digest", "sha-256;q=" + NINES, 200),
        ("Want-Digest", ";=," * 15_000, 200),
        ("Accept-Encoding", "gzip;q=" * 5000, 200),
        ("Authorization", "Basic " + "=" * 5000, 200),
        ("Cookie", "a=b;" * 10_000, 200),
    ],
)
def test_malformed_header_is_ignored_or_fails_its_condition(
    http: httpx.Client, send_request: SendRequest, folder: str, name: str, value: str, status: int
) -> None:
    http.put(f"/files/{folder}/film.mp4", content=DATA)
    started = time.monotonic()
    response = send_request("GET", f"/files/{folder}/film.mp4", f"{name}: {value}", "Range: lines=0-1")
    assert response.status_code == status
    assert time.monotonic() - started < 10


# Header injection


def test_names_cannot_inject_headers(
    send_request: SendRequest,
    part: Part,
    send_form: Any,
    check_problem: CheckProblem,
    storage_unchanged: StorageUnchanged,
    folder: str,
) -> None:
    file, injection = part("file", b"x", filename="film.mp4"), f"a\r\n{INJECTED}: yes"
    with storage_unchanged():
        for response in (
            send_request("PUT", f"/files/{folder}/{percent_encoded(injection)}", body=b"x"),
            send_request("GET", f"/files/{folder}/{percent_encoded(injection)}"),
            send_request("GET", f"/file/stream?filename={percent_encoded(injection)}"),
            send_request("GET", f"/file/stream?filename=a&folder={percent_encoded(injection)}"),
            send_request("GET", f"/files?folder={percent_encoded(injection)}"),
            send_request("GET", f"/files?cursor={percent_encoded(injection)}"),
            send_form(part("file", b"x", filename=injection), query=f"?folder={folder}"),
            send_form(
                part("file", b"x", filename=percent_encoded(injection).replace("%3A%20", ": ")),
                query=f"?folder={folder}",
            ),
            send_form(part("folder", injection.encode()), file),
            send_form(file, query=f"?folder={percent_encoded(injection)}"),
        ):
            check_problem(response, 400)
            assert INJECTED not in response.headers


@pytest.mark.parametrize(
    "content_type",
    ["text/html\t", "video/mp4, text/html", "é/ü", "video", "/", "video/", "a" * 5000 + "/b",
     "video/mp4;" * 500, 'video/mp4; x="', "video/*", "*/*"],
)  # fmt: skip
def test_invalid_content_type_is_not_echoed(
    http: httpx.Client, send_request: SendRequest, part: Part, send_form: Any, folder: str, content_type: str
) -> None:
    by_put = send_request("PUT", f"/files/{folder}/a.mkv", f"Content-Type: {content_type}", body=b"x")
    by_form = send_form(
        part("file", b"x", filename="b.mkv", headers=b"Content-Type: " + content_type.encode() + b"\r\n"),
        query=f"?folder={folder}",
    )
    for response in (by_put, by_form):
        if response.status_code != 201:
            assert response.status_code == 400
            continue
        served = http.get(f"/files/{response.json()['path']}")
        assert served.headers["x-content-type-options"] == "nosniff"
        if served.headers["content-type"] != "video/x-matroska":
            # An echoed type must be harmless: the file is an attachment.
            assert served.headers["content-disposition"].startswith("attachment;")


# Invalid requests


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"get /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",  # no Host
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n: no name\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nbad name: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n folded\r\n\r\n",
        b"GET /files/a\x00b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /files/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /files/a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET files/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PUT /files/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nXYZ\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a TLS ClientHello
        b"\x00" * 5000,
        bytes(range(256)) * 50,
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ],
    ids=range(23),
)
def test_malformed_request_is_refused(
    send_request: SendRequest,
    connect: Any,
    server: Server,
    http: httpx.Client,
    storage_unchanged: StorageUnchanged,
    data: bytes,
) -> None:
    with storage_unchanged():
        connection = connect()
        connection.socket.settimeout(2)
        connection.send(data)
        connection.socket.shutdown(1)
        try:
            status = connection.receive_response().status_code
        except (ConnectionError, TimeoutError):
            status = None
        assert status in (None, 400, 405, 501, 505), "refused, or closed without a response"
        connection.close()
    assert server.process.poll() is None
    assert send_request("GET", "/health").status_code == 200


def test_unparsable_requests_are_logged_once_a_second(server: Server, connect: Any) -> None:
    """A peer cannot fill the log, however many of them it sends."""
    before = server.logged()

    def lines() -> list[str]:
        return [line for line in server.log(before).splitlines() if "could not be parsed" in line]

    began = time.monotonic()
    while not lines():  # another test may have used up the record of this second
        assert time.monotonic() < began + 10
        connection = connect()
        connection.send(b"\x16\x03\x01\xff")
        assert connection.receive_response().status_code == 400
        assert connection.is_closed()
    assert len(lines()) <= 1 + (time.monotonic() - began)
    assert " WARNING A request from 127.0.0.1 could not be parsed: " in lines()[0]


@pytest.mark.parametrize(
    "host",
    ["", " ", ":", "[", "[::1", "]", "@", "localhost:x:y", "localhost:80@evil.example", "localhost:80/evil",
     "localhost@evil.example", "localhost:x", "localhost:80, evil.example", "localhost evil.example",
     "[::1]evil.example", "[::1]@evil.example", "[::1].evil.example", "%00", "é"],
)  # fmt: skip
def test_invalid_host_is_rejected(
    send_request: SendRequest, storage_unchanged: StorageUnchanged, folder: str, host: str
) -> None:
    """RFC 9112 §3.2: an invalid Host is 400. Links in responses would contain it."""
    with storage_unchanged():
        response = send_request("PUT", f"/files/{folder}/film.mp4", f"Host: {host}", body=b"x")
        assert response.status_code in (400, 421), response.text


@pytest.mark.parametrize(
    "header_bytes",
    [b"x" * 1_000_000, b"".join(b"X-%d: y\r\n" % number for number in range(100_000))],
    ids=["one long header", "many headers"],
)
def test_request_headers_are_bounded(connect: Any, send_request: SendRequest, header_bytes: bytes) -> None:
    """The server stops reading endless headers and keeps none of them in memory."""
    connection = connect()
    connection.send(
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + (b"X: " if b":" not in header_bytes else b"")
    )
    try:
        for _ in range(16):
            connection.send(header_bytes)
        connection.send(b"\r\n\r\n")
        status = connection.receive_response().status_code
    except ConnectionError:
        status = None
    assert status in (None, 400, 431)
    connection.close()
    assert send_request("GET", "/health").status_code == 200


@pytest.mark.parametrize("cursor", ["", "!!!", "a", "%ff", "_w", "%00", "%C3%A9", "AA==BB", "x" * 5001, "/w"])
def test_unknown_cursor_is_rejected(
    send_request: SendRequest, check_problem: CheckProblem, cursor: str
) -> None:
    check_problem(send_request("GET", f"/files?cursor={cursor}"), 400)
