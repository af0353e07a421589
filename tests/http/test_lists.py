"""GET /files: contents, order and paging of lists while files are added and deleted."""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.http.large_library import run_with_films
from tests.support import NewLibrary, Server, each_backend

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]

# In UTF-8 byte order, which is neither dictionary order nor UTF-16 order.
BYTE_ORDERED = [
    *(" ", "!", "-", "--", ".x", "0", "00", "1", "10", "2", "A", "B", "Z", "[", "_"),
    *("a", "a ", "a-b", "a.b", "aa", "b", "z", "~", "ß", "é", "ÿ", "Ω", "я", "א", "あ", "한"),
    *("\ufb01", "\uff21", "\uffee", "\U00010000", "🎬"),
]


def upload_named(http: httpx.Client, folder: str, *filenames: str) -> dict[str, dict[str, Any]]:
    return {
        name: http.post("/file/upload", data={"folder": folder}, files={"file": (name, name.encode())})
        .raise_for_status()
        .json()
        for name in filenames
    }


def list_page(http: httpx.Client, **query: object) -> dict[str, Any]:
    response = http.get("/files", params=query)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    return response.json()


def all_pages(http: httpx.Client, **query: object) -> list[httpx.Response]:
    """Return all pages by following the Link headers."""
    result = [http.get("/files", params=query)]
    while "next" in result[-1].links:
        assert len(result) < 200, "the links form a cycle"
        result.append(http.get(result[-1].links["next"]["url"]))
    return result


def filenames(response: httpx.Response) -> list[str]:
    return [item["filename"] for item in response.json()["items"]]


@pytest.fixture(scope="module")
def large_http(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[httpx.Client]:
    """A client of a library of many files, which tests only read."""
    paths = [f"limit/{i:03}" for i in range(105)]
    paths += [f"files/{name}" for name in reversed(BYTE_ORDERED)]
    paths += [f"folders/{name}{suffix}/x" for name in reversed(BYTE_ORDERED) for suffix in ("", "/inside")]
    # Neighbours of `folders` in byte order: their files must not appear in its list.
    paths += ["folders-2/x", "folders0/x"]
    with (
        run_with_films(tmp_path_factory.mktemp("crowd"), paths, **new_library()) as server,
        server.client() as http,
    ):
        yield http


def test_list_of_empty_folder_is_empty(http: httpx.Client, folder: str) -> None:
    empty_page = {"folder": folder, "folders": [], "items": [], "next_cursor": None}
    assert list_page(http, folder=folder) == empty_page
    assert list_page(http, folder=f"{folder}/deep/er") == empty_page | {"folder": f"{folder}/deep/er"}


def test_missing_folder_is_empty_and_documented(http: httpx.Client) -> None:
    """Until folders can be created; then a missing one will be 404. The top always exists."""
    for path in ("/files?folder=nope", "/files", "/files?folder=", "/playlist.m3u?folder=nope"):
        assert http.get(path).status_code == 200
    document = http.get("/openapi.json").json()
    parameters = document["paths"]["/files"]["get"]["parameters"]
    (described,) = (each for each in parameters if each["name"] == "folder")
    assert "missing one will be 404" in described["description"]


@each_backend
def test_list_contains_files_and_direct_subfolders(http: httpx.Client, folder: str) -> None:
    files = upload_named(http, folder, "b.mp4", "a.mp4", "c.mp4")
    upload_named(http, f"{folder}/sub", "x.mp4")
    upload_named(http, f"{folder}/sub/deeper", "y.mp4")
    upload_named(http, f"{folder}/z/only/deep", "z.mp4")
    assert list_page(http, folder=folder) == {
        "folder": folder,
        "folders": ["sub", "z"],
        "items": [files["a.mp4"], files["b.mp4"], files["c.mp4"]],
        "next_cursor": None,
    }
    assert list_page(http, folder=f"{folder}/z") == {
        "folder": f"{folder}/z",
        "folders": ["only"],
        "items": [],
        "next_cursor": None,
    }
    assert folder in list_page(http, limit=1000)["folders"]
    assert folder in list_page(http, folder="", limit=1000)["folders"]
    http.delete(f"/files/{folder}/z/only/deep/z.mp4")
    assert list_page(http, folder=folder)["folders"] == ["sub"]


def test_files_are_in_byte_order(large_http: httpx.Client) -> None:
    assert sorted(BYTE_ORDERED, key=str.encode) == BYTE_ORDERED
    assert filenames(large_http.get("/files", params={"folder": "files"})) == BYTE_ORDERED
    for response, name in zip(all_pages(large_http, folder="files", limit=1), BYTE_ORDERED, strict=True):
        assert filenames(response) == [name]


def test_folders_are_in_byte_order(large_http: httpx.Client) -> None:
    assert list_page(large_http, folder="folders")["folders"] == BYTE_ORDERED


def test_limit_bounds_the_page(large_http: httpx.Client) -> None:
    default_page = large_http.get("/files", params={"folder": "limit"})
    assert len(filenames(default_page)) == 100
    assert filenames(large_http.get(default_page.links["next"]["url"])) == [f"{i}" for i in range(100, 105)]
    assert len(list_page(large_http, folder="limit", limit=1)["items"]) == 1
    full_page = large_http.get("/files", params={"folder": "limit", "limit": 105})
    assert len(filenames(full_page)) == 105
    assert "link" not in full_page.headers, "the next page would be empty"
    assert full_page.json()["next_cursor"] is None
    assert len(list_page(large_http, folder="limit", limit=1000)["items"]) == 105


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "99999999999999999999", "x", "1.5", "", "1,2"])
def test_limit_out_of_range_is_rejected(http: httpx.Client, check_problem: CheckProblem, limit: str) -> None:
    assert "limit" in check_problem(http.get("/files", params={"limit": limit}), 422)


def test_cursor_and_link_lead_to_the_same_page(http: httpx.Client, folder: str, server: Server) -> None:
    folder_path = f"{folder}/a b/ü&c=d"
    upload_named(http, folder_path, "1", "2", "3")
    upload_named(http, f"{folder_path}/folder", "x")
    first = http.get("/files", params={"folder": folder_path, "limit": 2})
    assert first.json()["folders"] == ["folder"]
    link = urlsplit(first.links["next"]["url"])
    assert f"{link.scheme}://{link.netloc}" == server.url
    cursor = first.json()["next_cursor"]
    assert parse_qs(link.query) == {"folder": [folder_path], "limit": ["2"], "cursor": [cursor]}
    second = http.get(first.links["next"]["url"])
    assert second.json() == list_page(http, folder=folder_path, limit=2, cursor=cursor)
    assert filenames(second) == ["3"]
    assert second.json()["folders"] == [], "folders are on the first page only"
    assert "link" not in second.headers


@each_backend
def test_pages_stay_consistent_while_files_are_added_and_deleted(http: httpx.Client, folder: str) -> None:
    kept = [f"{i:03}" for i in range(0, 60, 2)]
    upload_named(http, folder, *kept)
    listed: list[str] = []
    response = http.get("/files", params={"folder": folder, "limit": 5})
    round_number = 0
    while True:
        listed += filenames(response)
        if "next" not in response.links:
            break
        last = listed[-1]
        round_number += 1
        # Before and after the cursor, and the file that it points to.
        upload_named(http, folder, f"{last}-new", f"000-{round_number}")
        if round_number % 2:
            http.delete(f"/files/{folder}/{last}").raise_for_status()
            kept.remove(last)
        response = http.get(response.links["next"]["url"])
        assert round_number < 50
    assert len(listed) == len(set(listed)), "no file is listed twice"
    assert set(kept) <= set(listed), "every file that existed throughout is listed"
    assert listed == sorted(listed)
    assert {name for name in listed if name.startswith("000-")} == set(), "added before the cursor"


def test_cursor_stays_valid_when_its_folder_is_gone(http: httpx.Client, folder: str) -> None:
    upload_named(http, folder, "1", "2", "3")
    first = http.get("/files", params={"folder": folder, "limit": 1})
    for name in "123":
        http.delete(f"/files/{folder}/{name}").raise_for_status()
    rest = http.get(first.links["next"]["url"])
    assert rest.status_code == 200
    assert rest.json() == {"folder": folder, "folders": [], "items": [], "next_cursor": None}


@each_backend
def test_list_follows_every_change_immediately(http: httpx.Client, folder: str) -> None:
    for round_number in range(10):
        created = http.put(f"/files/{folder}/film.mp4", content=b"x" * round_number).json()
        assert list_page(http, folder=folder)["items"] == [created]
        assert http.put(f"/files/{folder}/film.mp4", content=b"replaced").status_code == 204
        assert [item["size"] for item in list_page(http, folder=folder)["items"]] == [8]
        assert http.delete(f"/files/{folder}/film.mp4").status_code == 204
        assert list_page(http, folder=folder)["items"] == []


@pytest.mark.parametrize("query", ["", "&limit=2", "&limit=x"])
def test_list_head_matches_get(
    send_request: SendRequest, http: httpx.Client, folder: str, query: str
) -> None:
    upload_named(http, folder, "1", "2", "3")
    get, head = (send_request(method, f"/files?folder={folder}{query}") for method in ("GET", "HEAD"))
    assert (head.status_code, head.content) == (get.status_code, b"")
    for response in (get, head):
        del response.headers["date"]
        response.headers.pop("x-request-id", None)
    assert head.headers == get.headers


# Sort orders, recursion, search and types. More cases are in tests/contracts/test_lists.py.


def size_of(name: str) -> int:
    return int(name.partition(".")[0])


@each_backend
def test_sort_orders_list_in_both_directions(http: httpx.Client, folder: str) -> None:
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
                result = all_pages(http, folder=folder, sort=prefix + sort, limit=limit)
                assert [name.removesuffix(".mp4") for one in result for name in filenames(one)] == wanted


@each_backend
def test_recursive_list_contains_all_files_below_folder(http: httpx.Client, folder: str) -> None:
    inside = (f"{folder}/a/1", f"{folder}/a/b/2", f"{folder}/a/b/c/3", f"{folder}/a/é/4")
    others = (f"{folder}/a-b/5", f"{folder}/a0/6", f"{folder}/a.mp4")
    for path in (*others, *reversed(inside)):
        http.put(f"/files/{path}", content=b"x").raise_for_status()
    for recursive in ("true", "1", "yes", "on", "True"):
        result = list_page(http, folder=f"{folder}/a", recursive=recursive)
        assert [item["path"] for item in result["items"]] == list(inside)
        assert result["folders"] == []
    for recursive in ("false", "0", "no", "off"):
        result = list_page(http, folder=f"{folder}/a", recursive=recursive)
        assert [item["path"] for item in result["items"]] == [inside[0]]
        assert result["folders"] == ["b", "é"]
    everything = [
        item["path"] for one in all_pages(http, recursive=1, limit=3) for item in one.json()["items"]
    ]
    assert set(inside) | set(others) <= set(everything)
    assert len(everything) == len(set(everything))


@each_backend
def test_search_matches_prefixes_of_words(http: httpx.Client, folder: str) -> None:
    upload_named(http, folder, "The Big Sleep (1946).mkv", "big_buck_bunny.mp4", "100% Größe.mp4")
    upload_named(http, f"{folder}/inside", "sleepers.mp4")

    def search(q: str, **query: object) -> list[str]:
        return filenames(http.get("/files", params={"folder": folder, "q": q, **query}))

    assert search("big") == ["The Big Sleep (1946).mkv", "big_buck_bunny.mp4"]
    assert search("  SLEEP   194 ") == ["The Big Sleep (1946).mkv"]
    assert search("GRÖSSE") == ["100% Größe.mp4"]
    assert search("gro\u0308ß") == ["100% Größe.mp4"]
    assert search("leep") == []
    assert search("sleep", recursive=True) == ["The Big Sleep (1946).mkv", "sleepers.mp4"]
    assert search("big", sort="-name") == ["big_buck_bunny.mp4", "The Big Sleep (1946).mkv"]
    assert search("big", type="video/mp4") == ["big_buck_bunny.mp4"]
    assert search(" ") == search("") == filenames(http.get("/files", params={"folder": folder}))
    assert search("-") == search("%") == []
    assert list_page(http, folder=folder, q="-") == {
        "folder": folder,
        "folders": [],
        "items": [],
        "next_cursor": None,
    }


@each_backend
def test_type_filters_list(http: httpx.Client, folder: str) -> None:
    for name, kind in (
        ("a", "video/mp4"),
        ("b", "video/mp4;codecs=x"),
        ("c", "video/webm"),
        ("d", "audio/flac"),
    ):
        http.put(f"/files/{folder}/{name}", content=b"x", headers={"content-type": kind}).raise_for_status()
    for media_type, names in {
        "video": "abc",
        "video/*": "abc",
        "VIDEO/MP4": "ab",
        "video/webm": "c",
        "audio": "d",
        "text": "",
        "": "abcd",
    }.items():
        assert "".join(filenames(http.get("/files", params={"folder": folder, "type": media_type}))) == names


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
def test_invalid_parameter_is_rejected(
    http: httpx.Client, check_problem: CheckProblem, name: str, value: str
) -> None:
    assert name in check_problem(http.get("/files", params={name: value}), 422)


def test_next_link_repeats_every_parameter(http: httpx.Client, folder: str) -> None:
    upload_named(http, f"{folder}/a&b", "1 x.mp4", "2 x.mp4", "3 y.mp4", "4 x.mp4")
    query = {
        "folder": folder,
        "recursive": "true",
        "q": "x &",
        "type": "video/*",
        "sort": "-size",
        "limit": "1",
    }
    first = http.get("/files", params=query)
    link = urlsplit(first.links["next"]["url"])
    assert parse_qs(link.query) == {key: [value] for key, value in query.items()} | {
        "cursor": [first.json()["next_cursor"]]
    }
    result = [name for one in all_pages(http, **query) for name in filenames(one)]
    assert result == ["4 x.mp4", "2 x.mp4", "1 x.mp4"]
    for given in ({"recursive": "false"}, {"q": ""}, {"type": ""}, {"sort": "name"}):
        result = [
            name
            for one in all_pages(http, folder=f"{folder}/a&b", limit=1, **given)
            for name in filenames(one)
        ]
        assert result == ["1 x.mp4", "2 x.mp4", "3 y.mp4", "4 x.mp4"]


def test_cursor_is_rejected_by_another_list(
    http: httpx.Client, check_problem: CheckProblem, folder: str
) -> None:
    upload_named(http, folder, "1", "2", "3")
    cursor = list_page(http, folder=folder, limit=1)["next_cursor"]
    for other in ({"sort": "-name"}, {"sort": "size"}, {"folder": f"{folder}/a"}, {"folder": ""}):
        query = {"folder": folder, "cursor": cursor, **other}
        check_problem(http.get("/files", params=query), 400)
    for position in range(len(cursor)):
        for letter in "A_z":
            tampered = cursor[:position] + letter + cursor[position + 1 :]
            response = http.get("/files", params={"folder": folder, "cursor": tampered})
            assert response.status_code in (200, 400)
