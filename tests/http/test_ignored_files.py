"""Files with ignored names, as written by Finder, Synology and clients that rename `x.part`."""

import json
from urllib.parse import quote

import httpx
import pytest

from tests.support import Server, each_backend

IGNORED_NAMES = [
    "._film.mp4",
    ".DS_Store",
    "Thumbs.db",
    "film.mp4.part",
    "@eaDir/film.mp4/thumb.mp4",
    "#recycle/a.mp4",
]


@pytest.mark.parametrize("name", IGNORED_NAMES)
def test_ignored_file_is_served_but_not_listed(http: httpx.Client, folder: str, name: str) -> None:
    http.put(f"/files/{folder}/film.mp4", content=b"film").raise_for_status()
    address = f"/files/{folder}/{quote(name)}"
    put = http.put(address, content=b"rubbish")
    assert (put.status_code, put.json()["path"]) == (201, f"{folder}/{name}")
    assert http.get(address, headers={"Range": "bytes=2-"}).text == "bbish"
    assert http.get(f"/stream/{put.json()['id']}").text == "rubbish"
    assert listed_names(http, folder) == ["film.mp4"]
    moved = http.patch(
        address,
        content=json.dumps({"folder": folder, "filename": "moved.mp4"}),
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert moved.status_code == 200
    assert listed_names(http, folder) == ["film.mp4", "moved.mp4"]


def listed_names(http: httpx.Client, folder: str) -> list[str]:
    """Return the listed names; check that every search, playlist and page shows the same ones."""
    page = http.get("/files", params={"folder": folder}).json()
    assert page["folders"] == []
    names = [item["filename"] for item in page["items"]]
    for query in (
        {"recursive": True},
        {"recursive": True, "sort": "size"},
        {"recursive": True, "type": "video"},
    ):
        found = http.get("/files", params={"folder": folder, **query}).json()["items"]
        assert sorted(item["filename"] for item in found) == names
    for address in (f"/playlist.m3u?folder={folder}&recursive=1", f"/files/{folder}/", f"/?folder={folder}"):
        text = http.get(address).text
        assert [
            name for name in ("film.mp4", "moved.mp4") if f"/{name}" in text or f'"{name}' in text
        ] == names
        assert not [
            name for name in IGNORED_NAMES if quote(name) in text or name in text.replace("#EXT", "")
        ], address
    return names


@each_backend
def test_folder_with_only_ignored_files_is_not_listed(http: httpx.Client, folder: str) -> None:
    http.put(f"/files/{folder}/@eaDir/a.jpg", content=b"x").raise_for_status()
    assert http.get(f"/files/{folder}/").status_code == 404
    assert folder not in http.get("/files").json()["folders"]
    http.put(f"/files/{folder}/film.mp4", content=b"x").raise_for_status()
    assert "eaDir" not in http.get(f"/files/{folder}/").text
    assert folder in http.get("/files").json()["folders"]


@each_backend
def test_ignored_file_takes_part_in_preconditions(server: Server, http: httpx.Client, folder: str) -> None:
    """An ignored file exists for every request that names it."""
    assert http.put(f"/files/{folder}/.DS_Store", content=b"1").status_code == 201
    assert (
        http.put(f"/files/{folder}/.DS_Store", content=b"2", headers={"If-None-Match": "*"}).status_code
        == 412
    )
    assert http.delete(f"/files/{folder}/.DS_Store").status_code == 204
    assert http.get(f"/files/{folder}/.DS_Store").status_code == 404
