"""The JSON that goes out."""

from datetime import datetime

from pydantic import BaseModel, Field

from app.resources.dependencies import file_url
from app.storage.types import FileInfo


class File(BaseModel):
    """A stored file."""

    id: str = Field(description="Stays the same when the file is replaced or moved.")
    path: str
    folder: str
    filename: str
    size: int = Field(description="Bytes.")
    mimetype: str
    etag: str = Field(description="The version, as in the ETag header, without its quotes.")
    sha256: str | None = Field(description="Hexadecimal; null while it is not known.")
    created_at: datetime
    updated_at: datetime
    url: str
    stream_url: str
    owner: str | None = Field(
        None,
        exclude_if=lambda owner: owner is None,
        description="The id of the account.",
    )

    @classmethod
    def of(cls, info: FileInfo, base_url: str, owner: str | None) -> "File":
        return cls(
            id=info.id,
            path=info.key.path,
            folder=info.key.folder,
            filename=info.key.filename,
            size=info.size,
            mimetype=info.content_type,
            etag=info.etag,
            sha256=info.sha256,
            created_at=info.created_at,
            updated_at=info.updated_at,
            url=file_url(base_url, info.key),
            stream_url=f"{base_url}/stream/{info.id}",
            owner=owner,
        )


class FileList(BaseModel):
    """One page of a list."""

    folder: str
    folders: list[str] = Field(description="Names of the folders inside; on the first page of a folder only.")
    items: list[File]
    next_cursor: str | None = Field(
        description="Ask for the next page with it; null on the last. Of a search others may be short, too."
    )


class Health(BaseModel):
    """How the server is."""

    status: str
    version: str


class Readiness(Health):
    """How the server is, and what it works with."""

    dependencies: dict[str, str] = Field(description="What each answered, by its name.")
