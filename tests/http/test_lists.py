"""Lists of files: what is in them, in which order, and page by page while files come and go."""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.http.crowd import filled
from tests.support import NewLibrary, Server, each_backend

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]

# In the order of their bytes in UTF-8, which is neither that of a dictionary nor that of UTF-16.
ORDERED = [
    *(" ", "!", "-", "--", ".x", "0", "00", "1", "10", "2", "A", "B", "Z", "[", "_"),
    *("a", "a ", "a-b", "a.b", "aa", "b", "z", "~", "ß", "é", "ÿ", "Ω", "я", "א", "あ", "한"),
    *("\ufb01", "\uff21", "\uffee", "\U00010000", "🎬"),
]


def fill(http: httpx.Client, folder: str, *names: str) -> dict[str, dict[str, Any]]:
    return {
        name: http.post("/file/upload", data={"folder": folder}, files={"file": (name, name.encode())})
        .raise_for_status()
        .json()
        for name in names
    }


def page(http: httpx.Client, **query: object) -> dict[str, Any]:
    response = http.get("/files", params=query)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    return response.json()


def pages(http: httpx.Client, **query: object) -> list[httpx.Response]:
    """All pages, as the Link headers lead through them."""
    found = [http.get("/files", params=query)]
    while "next" in found[-1].links:
        assert len(found) < 200, "it leads in circles"
        found.append(http.get(found[-1].links["next"]["url"]))
    return found


def names(response: httpx.Response) -> list[str]:
    return [item["filename"] for item in response.json()["items"]]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[httpx.Client]:
    """Of a library of many files, which is only read."""
    paths = [f"limit/{i:03}" for i in range(105)]
    paths += [f"files/{name}" for name in reversed(ORDERED)]
    paths += [f"folders/{name}{more}/x" for name in reversed(ORDERED) for more in ("", "/inside")]
    # Neither its parent nor its neighbours have files of their own.
    paths += ["folders-2/x", "folders0/x"]
    with filled(tmp_path_factory.mktemp("crowd"), paths, **new_library()) as server, server.client() as http:
        yield http


def test_an_empty_folder(http: httpx.Client, folder: str) -> None:
    nothing = {"folder": folder, "folders": [], "items": [], "next_cursor": None}
    assert page(http, folder=folder) == nothing
    assert page(http, folder=f"{folder}/deep/er") == nothing | {"folder": f"{folder}/deep/er"}


@each_backend
def test_a_folder(http: httpx.Client, folder: str) -> None:
    files = fill(http, folder, "b.mp4", "a.mp4", "c.mp4")
    fill(http, f"{folder}/sub", "x.mp4")
    fill(http, f"{folder}/sub/deeper", "y.mp4")
    fill(http, f"{folder}/z/only/deep", "z.mp4")
    assert page(http, folder=folder) == {
        "folder": folder,
        "folders": ["sub", "z"],
        "items": [files["a.mp4"], files["b.mp4"], files["c.mp4"]],
        "next_cursor": None,
    }
    assert page(http, folder=f"{folder}/z") == {
        "folder": f"{folder}/z",
        "folders": ["only"],
        "items": [],
        "next_cursor": None,
    }
    assert folder in page(http, limit=1000)["folders"]
    assert folder in page(http, folder="", limit=1000)["folders"]
    http.delete(f"/files/{folder}/z/only/deep/z.mp4")
    assert page(http, folder=folder)["folders"] == ["sub"]


@each_backend
def test_the_order_is_by_bytes(crowd: httpx.Client) -> None:
    assert sorted(ORDERED, key=str.encode) == ORDERED
    assert names(crowd.get("/files", params={"folder": "files"})) == ORDERED
    for response, name in zip(pages(crowd, folder="files", limit=1), ORDERED, strict=True):
        assert names(response) == [name]


@each_backend
def test_the_order_of_folders_is_by_bytes(crowd: httpx.Client) -> None:
    assert page(crowd, folder="folders")["folders"] == ORDERED


def test_limit(crowd: httpx.Client) -> None:
    by_default = crowd.get("/files", params={"folder": "limit"})
    assert len(names(by_default)) == 100
    assert names(crowd.get(by_default.links["next"]["url"])) == [f"{i}" for i in range(100, 105)]
    assert len(page(crowd, folder="limit", limit=1)["items"]) == 1
    exact = crowd.get("/files", params={"folder": "limit", "limit": 105})
    assert len(names(exact)) == 105
    assert "link" not in exact.headers, "there is nothing on the next page"
    assert exact.json()["next_cursor"] is None
    assert len(page(crowd, folder="limit", limit=1000)["items"]) == 105


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "99999999999999999999", "x", "1.5", "", "1,2"])
def test_limits_out_of_range(http: httpx.Client, check_problem: CheckProblem, limit: str) -> None:
    assert "limit" in check_problem(http.get("/files", params={"limit": limit}), 422)


def test_cursor_and_link_lead_to_the_same_page(http: httpx.Client, folder: str, server: Server) -> None:
    inside = f"{folder}/a b/ü&c=d"
    fill(http, inside, "1", "2", "3")
    fill(http, f"{inside}/folder", "x")
    first = http.get("/files", params={"folder": inside, "limit": 2})
    assert first.json()["folders"] == ["folder"]
    link = urlsplit(first.links["next"]["url"])
    assert f"{link.scheme}://{link.netloc}" == server.url
    cursor = first.json()["next_cursor"]
    assert parse_qs(link.query) == {"folder": [inside], "limit": ["2"], "cursor": [cursor]}
    second = http.get(first.links["next"]["url"])
    assert second.json() == page(http, folder=inside, limit=2, cursor=cursor)
    assert names(second) == ["3"]
    assert second.json()["folders"] == [], "folders are on the first page only"
    assert "link" not in second.headers


@each_backend
def test_pages_stay_right_while_files_come_and_go(http: httpx.Client, folder: str) -> None:
    stay = [f"{i:03}" for i in range(0, 60, 2)]
    fill(http, folder, *stay)
    seen: list[str] = []
    response = http.get("/files", params={"folder": folder, "limit": 5})
    turn = 0
    while True:
        seen += names(response)
        if "next" not in response.links:
            break
        last = seen[-1]
        turn += 1
        # Before and behind where we are, and the very file that the cursor is about.
        fill(http, folder, f"{last}-new", f"000-{turn}")
        if turn % 2:
            http.delete(f"/files/{folder}/{last}").raise_for_status()
            stay.remove(last)
        response = http.get(response.links["next"]["url"])
        assert turn < 50
    assert len(seen) == len(set(seen)), "nothing comes twice"
    assert set(stay) <= set(seen), "nothing that was there all the time is left out"
    assert seen == sorted(seen)
    assert {name for name in seen if name.startswith("000-")} == set(), "what was added behind us"


def test_a_cursor_outlives_its_folder(http: httpx.Client, folder: str) -> None:
    fill(http, folder, "1", "2", "3")
    first = http.get("/files", params={"folder": folder, "limit": 1})
    for name in "123":
        http.delete(f"/files/{folder}/{name}").raise_for_status()
    rest = http.get(first.links["next"]["url"])
    assert rest.status_code == 200
    assert rest.json() == {"folder": folder, "folders": [], "items": [], "next_cursor": None}


@each_backend
def test_a_list_follows_every_change_at_once(http: httpx.Client, folder: str) -> None:
    for turn in range(10):
        created = http.put(f"/files/{folder}/film.mp4", content=b"x" * turn).json()
        assert page(http, folder=folder)["items"] == [created]
        assert http.put(f"/files/{folder}/film.mp4", content=b"replaced").status_code == 204
        assert [item["size"] for item in page(http, folder=folder)["items"]] == [8]
        assert http.delete(f"/files/{folder}/film.mp4").status_code == 204
        assert page(http, folder=folder)["items"] == []


@pytest.mark.parametrize("query", ["", "&limit=2", "&limit=x"])
def test_head(send_request: SendRequest, http: httpx.Client, folder: str, query: str) -> None:
    fill(http, folder, "1", "2", "3")
    get, head = (send_request(method, f"/files?folder={folder}{query}") for method in ("GET", "HEAD"))
    assert (head.status_code, head.content) == (get.status_code, b"")
    for response in (get, head):
        del response.headers["date"]
        response.headers.pop("x-request-id", None)
    assert head.headers == get.headers


# Orders, all that is beneath a folder, words and types. (tests/contracts/test_lists.py says more of them.)


def size_of(name: str) -> int:
    return int(name.partition(".")[0])


@each_backend
def test_orders(http: httpx.Client, folder: str) -> None:
    for name in ("3.mp4", "10.mp4", "1.mp4", "2.mp4"):
        http.put(f"/files/{folder}/{name}", content=bytes(size_of(name))).raise_for_status()
    http.put(f"/files/{folder}/3.mp4", content=b"123").raise_for_status()  # created first, updated last
    orders = {
        "name": ["1", "10", "2", "3"],
        "size": ["1", "2", "3", "10"],
        "created_at": ["3", "10", "1", "2"],
        "updated_at": ["10", "1", "2", "3"],
    }
    for sort, order in orders.items():
        for prefix, wanted in (("", order), ("-", order[::-1])):
            for limit in (1, 3, 100):
                found = pages(http, folder=folder, sort=prefix + sort, limit=limit)
                assert [name.removesuffix(".mp4") for one in found for name in names(one)] == wanted


@each_backend
def test_all_that_is_beneath_a_folder(http: httpx.Client, folder: str) -> None:
    inside = (f"{folder}/a/1", f"{folder}/a/b/2", f"{folder}/a/b/c/3", f"{folder}/a/é/4")
    others = (f"{folder}/a-b/5", f"{folder}/a0/6", f"{folder}/a.mp4")
    for path in (*others, *reversed(inside)):
        http.put(f"/files/{path}", content=b"x").raise_for_status()
    for recursive in ("true", "1", "yes", "on", "True"):
        found = page(http, folder=f"{folder}/a", recursive=recursive)
        assert [item["path"] for item in found["items"]] == list(inside)
        assert found["folders"] == []
    for recursive in ("false", "0", "no", "off"):
        found = page(http, folder=f"{folder}/a", recursive=recursive)
        assert [item["path"] for item in found["items"]] == [inside[0]]
        assert found["folders"] == ["b", "é"]
    everything = [item["path"] for one in pages(http, recursive=1, limit=3) for item in one.json()["items"]]
    assert set(inside) | set(others) <= set(everything)
    assert len(everything) == len(set(everything))


@each_backend
def test_words(http: httpx.Client, folder: str) -> None:
    fill(http, folder, "The Big Sleep (1946).mkv", "big_buck_bunny.mp4", "100% Größe.mp4")
    fill(http, f"{folder}/inside", "sleepers.mp4")

    def found(q: str, **query: object) -> list[str]:
        return names(http.get("/files", params={"folder": folder, "q": q, **query}))

    assert found("big") == ["The Big Sleep (1946).mkv", "big_buck_bunny.mp4"]
    assert found("  SLEEP   194 ") == ["The Big Sleep (1946).mkv"]
    assert found("GRÖSSE") == ["100% Größe.mp4"]
    assert found("gro\u0308ß") == ["100% Größe.mp4"]
    assert found("leep") == []
    assert found("sleep", recursive=True) == ["The Big Sleep (1946).mkv", "sleepers.mp4"]
    assert found("big", sort="-name") == ["big_buck_bunny.mp4", "The Big Sleep (1946).mkv"]
    assert found("big", type="video/mp4") == ["big_buck_bunny.mp4"]
    assert found(" ") == found("") == names(http.get("/files", params={"folder": folder}))
    assert found("-") == found("%") == []
    assert page(http, folder=folder, q="-") == {
        "folder": folder,
        "folders": [],
        "items": [],
        "next_cursor": None,
    }


@each_backend
def test_types(http: httpx.Client, folder: str) -> None:
    for name, kind in (
        ("a", "video/mp4"),
        ("b", "video/mp4;codecs=x"),
        ("c", "video/webm"),
        ("d", "audio/flac"),
    ):
        http.put(f"/files/{folder}/{name}", content=b"x", headers={"content-type": kind}).raise_for_status()
    for asked, found in {
        "video": "abc",
        "video/*": "abc",
        "VIDEO/MP4": "ab",
        "video/webm": "c",
        "audio": "d",
        "text": "",
        "": "abcd",
    }.items():
        assert "".join(names(http.get("/files", params={"folder": folder, "type": asked}))) == found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("type", value) for value in ("video/", "/mp4", "*/*", "*", "video mp4", "video/mp4;a=b", "a/b/c")),
        *(("type", value) for value in ("video\n", "é", "%", "video/m*", "x" * 128)),
        *(("sort", value) for value in ("", "-", "--name", "Name", "+size", "etag", "name,size", "é")),
        *(("recursive", value) for value in ("x", "2", "é")),
        ("q", "x" * 256),
    ],
)
def test_parameters_that_are_none(
    http: httpx.Client, check_problem: CheckProblem, name: str, value: str
) -> None:
    assert name in check_problem(http.get("/files", params={name: value}), 422)


def test_the_link_repeats_every_parameter(http: httpx.Client, folder: str) -> None:
    fill(http, f"{folder}/a&b", "1 x.mp4", "2 x.mp4", "3 y.mp4", "4 x.mp4")
    asked = {
        "folder": folder,
        "recursive": "true",
        "q": "x &",
        "type": "video/*",
        "sort": "-size",
        "limit": "1",
    }
    first = http.get("/files", params=asked)
    link = urlsplit(first.links["next"]["url"])
    assert parse_qs(link.query) == {key: [value] for key, value in asked.items()} | {
        "cursor": [first.json()["next_cursor"]]
    }
    found = [name for one in pages(http, **asked) for name in names(one)]
    assert found == ["4 x.mp4", "2 x.mp4", "1 x.mp4"]
    for given in ({"recursive": "false"}, {"q": ""}, {"type": ""}, {"sort": "name"}):
        found = [name for one in pages(http, folder=f"{folder}/a&b", limit=1, **given) for name in names(one)]
        assert found == ["1 x.mp4", "2 x.mp4", "3 y.mp4", "4 x.mp4"]


def test_a_cursor_of_another_list_is_refused(
    http: httpx.Client, check_problem: CheckProblem, folder: str
) -> None:
    fill(http, folder, "1", "2", "3")
    cursor = page(http, folder=folder, limit=1)["next_cursor"]
    for other in ({"sort": "-name"}, {"sort": "size"}, {"folder": f"{folder}/a"}, {"folder": ""}):
        query = {"folder": folder, "cursor": cursor, **other}
        check_problem(http.get("/files", params=query), 400)
    for position in range(len(cursor)):
        for letter in "A_z":
            tampered = cursor[:position] + letter + cursor[position + 1 :]
            response = http.get("/files", params={"folder": folder, "cursor": tampered})
            assert response.status_code in (200, 400)
