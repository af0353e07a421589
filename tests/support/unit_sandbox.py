"""Runs a command under the system call filters of a systemd unit, without systemd.

`python unit_sandbox.py UNIT COMMAND…` loads the filters of SystemCallFilter=, RestrictAddressFamilies= and
MemoryDenyWriteExecute= (systemd.exec(5)) with libseccomp, as systemd does, and then executes the command. But
a forbidden system call kills the process, so that a test cannot overlook it.
"""

import ctypes
import errno
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
"""SCMP_ACT_ALLOW, SCMP_ACT_KILL_PROCESS and SCMP_ACT_ERRNO of seccomp.h."""
EQUAL, GREATER, MASKED_EQUAL = 4, 6, 7
"""Operators of scmp_compare."""
SHM_EXEC = 0o100000


class _Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`: a condition on one argument of a system call."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def directives(unit: Path, name: str) -> list[str]:
    """Return the values of all lines of a directive, in order."""
    lines = (line.partition("=") for line in unit.read_text().splitlines())
    return [value.strip() for key, _, value in lines if key == name]


def allowed_calls(unit: Path) -> set[str]:
    """Return the system calls that SystemCallFilter= allows: the first line lists them, `~` removes some."""
    sets = _call_sets()
    allowed = set(_expanded("@default", sets))
    for line in directives(unit, "SystemCallFilter"):
        names = {name for word in line.removeprefix("~").split() for name in _expanded(word, sets)}
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def _call_sets() -> dict[str, list[str]]:
    dump = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter"], check=True, capture_output=True, text=True
    ).stdout
    sets: dict[str, list[str]] = {}
    members: list[str] = []
    for line in dump.splitlines():
        if line.startswith("@"):
            members = sets[line.strip()] = []
        elif line.startswith(" ") and not line.strip().startswith("#"):
            members.append(line.strip())
    return sets


def _expanded(word: str, sets: dict[str, list[str]]) -> Iterator[str]:
    if not word.startswith("@"):
        yield word
    for member in sets.get(word, ()):
        yield from _expanded(member, sets)


class Filter:
    """A seccomp filter of this process and of the programs that it executes."""

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(default)))

    def add(self, action: int, call: str, *conditions: tuple[int, int, int, int]) -> None:
        """Apply an action to a system call, if all conditions hold: argument, operator, and two operands."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:  # of another architecture, or newer than libseccomp
            return
        array = (_Comparison * len(conditions))(*(_Comparison(*condition) for condition in conditions))
        failed = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, ctypes.c_uint(len(conditions)), array
        )
        if failed:
            raise OSError(-failed, os.strerror(-failed), call)

    def load(self) -> None:
        failed = self._library.seccomp_load(self._context)
        if failed:
            raise OSError(-failed, os.strerror(-failed))


def restrict_address_families(unit: Path) -> None:
    """Refuse all other families, as systemd does: libraries try some, and expect this error."""
    allowed = {
        int(getattr(socket, name))
        for line in directives(unit, "RestrictAddressFamilies")
        for name in line.split()
    }
    refusal = Filter(ALLOW)
    for family in range(max(allowed) + 1):
        if family not in allowed:
            refusal.add(ERRNO | errno.EAFNOSUPPORT, "socket", (0, EQUAL, family, 0))
    refusal.add(ERRNO | errno.EAFNOSUPPORT, "socket", (0, GREATER, max(allowed), 0))
    refusal.load()


def deny_write_and_execute() -> None:
    both = mmap.PROT_WRITE | mmap.PROT_EXEC
    denial = Filter(ALLOW)
    denial.add(KILL, "mmap", (2, MASKED_EQUAL, both, both))
    for call in ("mprotect", "pkey_mprotect"):
        denial.add(KILL, call, (2, MASKED_EQUAL, mmap.PROT_EXEC, mmap.PROT_EXEC))
    denial.add(KILL, "shmat", (2, MASKED_EQUAL, SHM_EXEC, SHM_EXEC))
    denial.load()


def load_filters(unit: Path) -> None:
    """Put this process under the filters of the unit."""
    calls = allowed_calls(unit)
    restrict_address_families(unit)
    if directives(unit, "MemoryDenyWriteExecute") == ["yes"]:
        deny_write_and_execute()
    calls_filter = Filter(KILL)
    # SQLite gives a file of root to the owner of the database; no unit of ours runs as root, but tests may.
    for call in sorted(calls | ({"fchown"} if os.geteuid() == 0 else set())):
        calls_filter.add(ALLOW, call)
    calls_filter.load()


def main() -> None:
    unit, *command = sys.argv[1:]
    load_filters(Path(unit))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
