"""The errors of the storage. Each message is a sentence for the user."""


class StorageError(Exception):
    """Base class of the storage's errors."""


class InvalidName(StorageError):
    """A path, folder or filename that no stored file can have."""


class InvalidCursor(StorageError):
    """A cursor that does not belong to the list."""


class NotFound(StorageError):
    """No file is stored at the address."""


class AlreadyExists(StorageError):
    """A file is stored at the key, although the caller expected none."""


class PathConflict(StorageError):
    """A file exists where a folder is needed, or a folder where a file is."""


class VersionMismatch(StorageError):
    """The stored version is not the one that the caller expected."""


class ReadOnly(StorageError):
    """The settings or the file system let no file of the library be changed."""

    def __init__(
        self, message: str = "This library is read-only: no file can be uploaded, renamed or deleted."
    ) -> None:
        super().__init__(message)


class OutOfSpace(StorageError):
    """The bytes do not fit; none of them was kept."""


class Truncated(StorageError):
    """A stored file ended before its recorded size."""


class StorageUnavailable(StorageError):
    """The database or the disk does not work as it should; a later attempt may succeed."""


class Unfinished(StorageUnavailable):
    """Another program is writing the file."""


class Unreadable(StorageUnavailable):
    """A file or folder on the disk cannot be read."""


class DiskFault(Unreadable):
    """The disk failed to read, for a reason other than permissions, descriptors or memory."""
