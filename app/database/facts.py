"""What is to be known of a database by who runs it, whichever it is."""

from dataclasses import dataclass

NEWER = "The database was made by a newer Seekable. Install that version, or a later one."
"""The message for a database whose schema this version does not know."""


@dataclass(frozen=True)
class DatabaseFacts:
    """Of the database of the files, or of the accounts."""

    name: str
    """As people call it, without a password."""
    error: str = ""
    """Why it cannot be worked with; all below is then unknown."""
    made: bool = True
    """Whether there is a library in it already."""
    migration: str = "done"
    """`due` at the next start, or `newer`: its schema is of a newer version of this program."""
    skew_s: float = 0.0
    """By how much its clock is ahead of ours."""
    accounts: int | None = None
    """How many there are; None where nobody asked, or there is no place for them yet."""
    alone: bool = False
    """Whether it stays on one machine, and tells no process of another's changes."""
    exposed: tuple[str, ...] = ()
    """Its files that other users of this machine have rights to."""
    replicated: bool = True
    """Of MongoDB: whether it is a replica set."""
    protected: bool = True
    """Of MongoDB: whether it asks who somebody is."""
    missing_rights: tuple[str, ...] = ()
    """Of MongoDB: what its user may not do, and has to."""
    missing_indexes: tuple[str, ...] = ()
