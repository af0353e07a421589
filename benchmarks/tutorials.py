"""Video servers as tutorials for FastAPI and Starlette write them, for comparison.

    python -m uvicorn benchmarks.tutorials:starlette        (or tutorial, gridfs)

The environment names the folder (FILMS) or the database (FILMS_MONGODB). Paths are not checked: use these
servers for benchmarks only.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fastapi
from fastapi.responses import StreamingResponse
from gridfs import GridFSBucket
from pymongo import MongoClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

FOLDER = Path(os.environ.get("FILMS", "."))
CHUNK = 10_000
"""Bytes per read, from the often copied answer to FastAPI's issue 1240; others read 8 to 14 KiB."""


def pieces(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while start < stop and (data := file.read(min(CHUNK, stop - start))):
            start += len(data)
            yield data


def stream(file: BinaryIO, size: int, wanted: str | None) -> Response:
    headers = {"accept-ranges": "bytes", "content-length": str(size)}
    if wanted is None:
        return StreamingResponse(pieces(file, 0, size), 200, headers, "video/mp4")
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, stop = int(first), int(last) + 1 if last else size
    headers |= {"content-range": f"bytes {start}-{stop - 1}/{size}", "content-length": str(stop - start)}
    return StreamingResponse(pieces(file, start, stop), 206, headers, "video/mp4")


async def file_response(request: Request) -> Response:
    return FileResponse(FOLDER / request.path_params["name"], media_type="video/mp4")


starlette = Starlette(routes=[Route("/{name}", file_response)])

tutorial = fastapi.FastAPI()


@tutorial.get("/{name}")
def watch(name: str, range: str | None = fastapi.Header(None)) -> Response:  # noqa: A002
    path = FOLDER / name
    return stream(path.open("rb"), path.stat().st_size, range)


@tutorial.post("/copied")
def upload(file: fastapi.UploadFile) -> dict[str, Any]:
    with (FOLDER / str(file.filename)).open("wb") as target:
        shutil.copyfileobj(file.file, target)
    return {"filename": file.filename}


@tutorial.post("/read")
async def upload_read(file: fastapi.UploadFile) -> dict[str, Any]:
    (FOLDER / str(file.filename)).write_bytes(await file.read())
    return {"filename": file.filename}


@tutorial.delete("/{name}")
def remove(name: str) -> None:
    (FOLDER / name).unlink()


gridfs = fastapi.FastAPI()
client: MongoClient[dict[str, Any]] = MongoClient(os.environ.get("FILMS_MONGODB"), connect=False)


def bucket(name: str = "fs") -> GridFSBucket:
    return GridFSBucket(client.get_default_database("films"), name)


@gridfs.get("/ping.txt")
async def ping() -> Response:
    return Response("pong\n", media_type="text/plain")


@gridfs.get("/{name}")
def watch_gridfs(name: str, range: str | None = fastapi.Header(None)) -> Response:  # noqa: A002
    file = bucket().open_download_stream_by_name(name)
    return stream(file, file.length, range)


@gridfs.post("/copied")
def upload_gridfs(file: fastapi.UploadFile) -> dict[str, Any]:
    bucket("uploads").upload_from_stream(str(file.filename), file.file)
    return {"filename": file.filename}


@gridfs.get("/uploads/{name}")
def download_gridfs(name: str) -> Response:
    file = bucket("uploads").open_download_stream_by_name(name)
    return stream(file, file.length, None)


@gridfs.delete("/uploads/{name}")
def remove_gridfs(name: str) -> None:
    for file in bucket("uploads").find({"filename": name}):
        bucket("uploads").delete(file._id)
