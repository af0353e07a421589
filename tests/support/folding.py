"""A FUSE file system over a folder that ignores case and normalization, like those of macOS.

It looks names up by case folding and decomposition. It keeps names as given, like APFS, or in NFD, like HFS+.
`python -m tests.support.folding STORE MOUNT_POINT [nfd]` serves it until it is unmounted (Linux: fuse(4); the
kernel's include/uapi/linux/fuse.h).
"""

import ctypes
import errno
import os
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from struct import Struct, calcsize, pack, unpack_from

from tests.support import need, need_root, run, skip_or_fail

_HEAD, _ANSWER = Struct("=IIQQIIII"), Struct("=IiQ")
_MAX_WRITE = 1 << 17
_ROOT = 1
_NO_ANSWER = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET


def fold(name: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


class Folding:
    """A handler of the kernel's FUSE requests."""

    def __init__(self, store: str, *, nfd: bool) -> None:
        self._store = store
        self._nfd = nfd
        self._places: dict[int, tuple[int, str]] = {}  # by node: the node of its folder, and its name there
        self._calls: dict[int, Callable[[int, bytes], bytes]] = {
            1: lambda node, rest: self._entry(node, self._found(node, _text(rest))),
            3: lambda node, rest: self._attributes(os.lstat(self._path(node))),
            4: self._set_attributes,
            8: self._make_file,
            9: self._make_folder,
            10: self._remove,
            11: self._remove_folder,
            12: self._rename,
            13: self._link,
            14: lambda node, rest: self._opened(os.open(self._path(node), unpack_from("=I", rest)[0])),
            15: self._read,
            16: self._write,
            17: self._status,
            18: self._close,
            20: self._sync,
            25: lambda node, rest: b"",  # FLUSH
            26: self._begin,
            27: lambda node, rest: self._opened(os.open(self._path(node), os.O_RDONLY | os.O_DIRECTORY)),
            28: self._list,
            29: self._close,
            30: self._sync,
            35: self._create,
        }

    def serve(self, descriptor: int) -> None:
        while True:
            try:
                request = os.read(descriptor, _MAX_WRITE + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return  # unmounted
                continue
            _, call, unique, node, *_ = _HEAD.unpack_from(request)
            if call in _NO_ANSWER:
                continue
            answer, failure = b"", 0
            try:
                if call not in self._calls:
                    raise OSError(errno.ENOSYS, "")
                answer = self._calls[call](node, request[_HEAD.size :])
            except OSError as error:
                failure = error.errno or errno.EIO
            os.write(descriptor, _ANSWER.pack(_ANSWER.size + len(answer), -failure, unique) + answer)

    # Names and nodes

    def _path(self, node: int, name: str | None = None) -> str:
        parts = [] if name is None else [name]
        while node != _ROOT:
            node, part = self._places[node]
            parts.append(part)
        return os.path.join(self._store, *reversed(parts))

    def _found(self, node: int, name: str) -> str:
        """Return the name of the entry that matches a name, or the name itself if no entry matches."""
        wanted = fold(name)
        for one in os.listdir(self._path(node)):
            if fold(one) == wanted:
                return one
        return unicodedata.normalize("NFD", name) if self._nfd else name

    def _entry(self, node: int, name: str) -> bytes:
        status = os.lstat(self._path(node, name))
        self._places[status.st_ino] = node, name
        return pack("=QQQQII", status.st_ino, 0, 0, 0, 0, 0) + _attributes(status)

    def _absent(self, node: int, name: str) -> str:
        found = self._found(node, name)
        if os.path.lexists(self._path(node, found)):
            raise FileExistsError(errno.EEXIST, "")
        return found

    # Calls

    def _begin(self, node: int, rest: bytes) -> bytes:
        big_writes = 1 << 5
        return pack("=IIIIHHIIHHI28x", 7, 31, 1 << 16, big_writes, 16, 12, _MAX_WRITE, 1, 32, 0, 0)

    def _attributes(self, status: os.stat_result) -> bytes:
        return pack("=QII", 0, 0, 0) + _attributes(status)

    def _set_attributes(self, node: int, rest: bytes) -> bytes:
        valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = unpack_from(
            "=IIQQQQQQIIIIIIII", rest
        )
        path = self._path(node)
        if valid & 1:
            os.chmod(path, mode & 0o7777)
        if valid & 6:
            os.chown(path, uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 8:
            os.truncate(path, size)
        if valid & 0x1B0:
            now, before = time.time_ns(), os.lstat(path)
            given = atime * 10**9 + atime_ns, mtime * 10**9 + mtime_ns
            old = before.st_atime_ns, before.st_mtime_ns
            bits = ((16, 128), (32, 256))
            times = [
                now if valid & is_now else given[n] if valid & is_set else old[n]
                for n, (is_set, is_now) in enumerate(bits)
            ]
            os.utime(path, ns=(times[0], times[1]))
        return self._attributes(os.lstat(path))

    def _make_file(self, node: int, rest: bytes) -> bytes:
        mode, device, umask, _ = unpack_from("=IIII", rest)
        name = self._absent(node, _text(rest[16:]))
        os.mknod(self._path(node, name), mode & ~umask, device)
        return self._entry(node, name)

    def _make_folder(self, node: int, rest: bytes) -> bytes:
        mode, umask = unpack_from("=II", rest)
        name = self._absent(node, _text(rest[8:]))
        os.mkdir(self._path(node, name), mode & ~umask)
        return self._entry(node, name)

    def _remove(self, node: int, rest: bytes) -> bytes:
        os.unlink(self._path(node, self._found(node, _text(rest))))
        return b""

    def _remove_folder(self, node: int, rest: bytes) -> bytes:
        os.rmdir(self._path(node, self._found(node, _text(rest))))
        return b""

    def _rename(self, node: int, rest: bytes) -> bytes:
        target = unpack_from("=Q", rest)[0]
        old, new, _ = rest[8:].split(b"\0", 2)
        source = self._found(node, os.fsdecode(old))
        name = self._found(target, os.fsdecode(new))
        moved = os.lstat(self._path(node, source)).st_ino
        os.rename(self._path(node, source), self._path(target, name))
        self._places[moved] = target, name
        return b""

    def _link(self, node: int, rest: bytes) -> bytes:
        source = unpack_from("=Q", rest)[0]
        name = self._absent(node, _text(rest[8:]))
        os.link(self._path(source), self._path(node, name), follow_symlinks=False)
        return self._entry(node, name)

    def _create(self, node: int, rest: bytes) -> bytes:
        flags, mode, umask, _ = unpack_from("=IIII", rest)
        name = self._absent(node, _text(rest[16:]))
        opened = self._opened(os.open(self._path(node, name), flags | os.O_CREAT, mode & ~umask & 0o7777))
        return self._entry(node, name) + opened

    def _opened(self, descriptor: int) -> bytes:
        return pack("=QII", descriptor, 0, 0)

    def _close(self, node: int, rest: bytes) -> bytes:
        os.close(unpack_from("=Q", rest)[0])
        return b""

    def _sync(self, node: int, rest: bytes) -> bytes:
        os.fsync(unpack_from("=Q", rest)[0])
        return b""

    def _read(self, node: int, rest: bytes) -> bytes:
        descriptor, offset, size = unpack_from("=QQI", rest)
        return os.pread(descriptor, size, offset)

    def _write(self, node: int, rest: bytes) -> bytes:
        descriptor, offset, size = unpack_from("=QQI", rest)
        return pack("=II", os.pwrite(descriptor, rest[40 : 40 + size], offset), 0)

    def _status(self, node: int, rest: bytes) -> bytes:
        found = os.statvfs(self._store)
        sizes = found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree
        return pack("=QQQQQIII28x", *sizes, found.f_bsize, found.f_namemax, found.f_frsize)

    def _list(self, node: int, rest: bytes) -> bytes:
        descriptor, offset, size = unpack_from("=QQI", rest)
        listed = b""
        entries = sorted(os.listdir(descriptor))
        for number, name in enumerate(entries[offset:], offset + 1):
            encoded = os.fsencode(name)
            inode = os.lstat(name, dir_fd=descriptor).st_ino
            entry = pack("=QQII", inode, number, len(encoded), 0) + encoded
            entry += bytes(-len(entry) % 8)
            if len(listed) + len(entry) > size:
                break
            listed += entry
        return listed


def _text(rest: bytes) -> str:
    return os.fsdecode(rest.partition(b"\0")[0])


def _attributes(status: os.stat_result) -> bytes:
    times = status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns
    seconds, parts = (one // 10**9 for one in times), (one % 10**9 for one in times)
    rest = status.st_mode, status.st_nlink, status.st_uid, status.st_gid, status.st_rdev, 4096, 0
    attributes = pack("=6Q10I", status.st_ino, status.st_size, status.st_blocks, *seconds, *parts, *rest)
    assert len(attributes) == calcsize("=6Q10I") == 88
    return attributes


def _serve(store: str, point: str, *options: str) -> None:
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    data = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    # The flags: no suid, no devices.
    if libc.mount(b"folding", os.fsencode(point), b"fuse.folding", 6, data.encode()) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    Folding(store, nfd="nfd" in options).serve(descriptor)


@contextmanager
def folding(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a file system that ignores case; with the option `nfd`, one that stores names in NFD."""
    need_root()
    store, point = folder / "store", folder / "folding"
    store.mkdir(parents=True)
    point.mkdir()
    command = [sys.executable, "-m", "tests.support.folding", str(store), str(point), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not os.path.ismount(point):
                if process.poll() is not None:
                    assert process.stderr is not None
                    skip_or_fail(f"cannot mount by FUSE here: {process.stderr.read().strip()}")
                time.sleep(0.01)
            yield point
        finally:
            run("umount", "-l", point, check=False)
            process.terminate()


@contextmanager
def ntfs(folder: Path) -> Iterator[Path]:
    """Mount an NTFS that ignores case and shows all names in lower case."""
    need_root()
    need("lowntfs-3g", "mkntfs")
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkntfs", "-F", "-q", image)
    (folder / "ntfs").mkdir()
    run("lowntfs-3g", "-o", "ignore_case", image, folder / "ntfs")
    try:
        yield folder / "ntfs"
    finally:
        run("umount", "-l", folder / "ntfs")


FILE_SYSTEMS: dict[str, Callable[[Path], AbstractContextManager[Path]]] = {
    "folding": folding,
    "nfd": lambda folder: folding(folder, "nfd"),
    "ntfs": ntfs,
}


if __name__ == "__main__":
    _serve(*sys.argv[1:])
