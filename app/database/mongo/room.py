"""Paths of files and of folders, which no tree of folders keeps apart here."""

from pymongo.collection import Collection

from app.database.mongo.documents import Stored
from app.storage.errors import PathConflict
from app.storage.types import Key


def check_room(collection: Collection[Stored], key: Key) -> None:
    """Raise PathConflict when a folder of the key is a file, or the key is a folder, as on a disk."""
    taken = collection.find_one({"$or": conflicts(key)}, {"folder": True, "filename": True})
    if taken is None:
        return
    path = f"{taken['folder']}/{taken['filename']}".lstrip("/")
    if key.path.startswith(f"{path}/"):
        raise PathConflict(f"{taken['filename']!r} is no folder, so that no file can be inside it.")
    raise PathConflict(f"{key.filename!r} is a folder, so that no file can have that name.")


def conflicts(key: Key) -> list[Stored]:
    """What finds files that are where a folder has to be, or beneath the file."""
    names = key.folder.split("/") if key.folder else []
    above: list[Stored] = [
        {"library": key.library, "folder": "/".join(names[:depth]), "filename": names[depth]}
        for depth in range(len(names))
    ]
    beneath: list[Stored] = [
        {"library": key.library, "folder": key.path},
        # "0" comes right after "/"
        {"library": key.library, "folder": {"$gt": f"{key.path}/", "$lt": f"{key.path}0"}},
    ]
    return above + beneath
