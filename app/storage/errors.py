"""What can go wrong with stored files, in the storage's own words."""


class StorageError(Exception):
    """The message is a sentence that may be shown to the person who asked."""


class InvalidName(StorageError):
    """A path, folder or filename that no stored file can have."""


class InvalidCursor(StorageError):
    """A cursor that no page gave."""


class NotFound(StorageError):
    """Nothing is stored there."""


class AlreadyExists(StorageError):
    """Something is stored there, and the caller expected nothing."""


class PathConflict(StorageError):
    """A file stands where a folder is needed, or a folder where a file is."""


class VersionMismatch(StorageError):
    """What is stored there is not the version that the caller expected."""


class ReadOnly(StorageError):
    """The library is served as it is; the settings or its file system let no file of it be changed."""

    def __init__(
        self, message: str = "This library is read-only: no file can be uploaded, renamed or deleted."
    ) -> None:
        super().__init__(message)


class OutOfSpace(StorageError):
    """The bytes do not fit; nothing of them was kept."""


class Truncated(StorageError):
    """A stored file ended before its recorded size."""


class StorageUnavailable(StorageError):
    """The database or the disk does not answer as it should; trying again later may help."""


class Unfinished(StorageUnavailable):
    """Another program is writing the file."""


class Unreadable(StorageUnavailable):
    """A file on the disk cannot be read, or a folder not be looked into."""


class DiskFault(Unreadable):
    """The disk does not show it; not for want of this user's rights, or of memory."""
