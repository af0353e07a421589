"""A network namespace of our own, so that loopback has neither other traffic nor a paced congestion control.

bbr paces loopback as well, and doubles the processor time of every server; reno does not.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # sched.h
_SET_FLAGS, _UP = 0x8914, 0x1  # ioctls.h, if.h
_ALGORITHM = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_WANTED = "reno"


def enter_if_allowed() -> str:
    """Move this process and those that it starts into a namespace with reno, and describe the network.

    A child process tries it first: where a system creates the namespace and then forbids to configure it,
    this process stays in the network that works. Call it before a second thread starts.
    """
    tried = subprocess.run(
        [sys.executable, "-m", __name__],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode == 0:
        enter()
        return f"Servers and clients have a network namespace of their own, with {_algorithm()}."
    reason = tried.stderr.strip().rpartition("\n")[2]
    return (
        f"Servers and clients share the machine's network, with {_algorithm()}: "
        f"a namespace of their own failed ({reason})."
    )


def enter() -> None:
    """Enter a new network namespace, as root or through a user namespace. Raises OSError if that fails."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK) != 0:
        if libc.unshare(_NEW_USER | _NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        # The same user and group as outside, so that the servers start as they do elsewhere.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP))
    if _algorithm() != _WANTED:
        _ALGORITHM.write_text(_WANTED)


def _algorithm() -> str:
    return _ALGORITHM.read_text().strip() if _ALGORITHM.exists() else "an unknown congestion control"


if __name__ == "__main__":
    enter()
