"""Paths for the names that other programs give to files of the bucket."""

_BEGINNINGS = ("", "/", "./", "//")
"""Beginnings that mean the top folder. Few, so that all spellings of a path are looked up along an index."""


def path_of(name: str) -> str:
    """Return the path that a name means: `/films/a.mp4` is `films/a.mp4`, as it would be on a disk.

    Names that end with a slash stand for folders in other stores; they, and all other unusual names, stay as
    they are, and no key can be made of them.
    """
    beginning = max((text for text in _BEGINNINGS if name.startswith(text)), key=len)
    return name[len(beginning) :]


def spellings(name: str) -> list[str]:
    """Return all names that mean the same path as this one."""
    path = path_of(name)
    return [f"{beginning}{path}" for beginning in _BEGINNINGS]
