"""Ports and devices that nobody else on this host may use at the same time: leases, held by locked files.

A lease is an exclusive ``flock`` on a file in a directory that all processes of a user share. The kernel gives it back
when its holder dies, however it dies, so that no table has to be cleaned up. Each kind of port has a range of its own;
a port is handed out only if nothing listens on it either. The file says who holds it, for the message of the refused.
"""

from __future__ import annotations

import enum
import fcntl
import hashlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from digiq_ray.core.errors import DigiQError, InputError

DIRECTORY_VARIABLE = "DIGIQ_LEASES"


class LeaseRefusedError(DigiQError):
    """What is asked for is leased to another process, or all of its kind are."""


class PortKind(enum.Enum):
    """What a port is for, and the range that it is taken from (the end is exclusive).

    Emulators take two at once: an even console port and the odd adb port above it.
    """

    APPIUM = (14723, 14923)
    CONSOLE = (5554, 5682)
    GRPC = (18554, 18754)
    ADB_SERVER = (15037, 15237)
    SYSTEM = (18200, 18400)
    MJPEG = (17810, 18010)
    CHROMEDRIVER = (19515, 19915)


class Lease:
    """Something that is held until ``release``. Also a context manager."""

    def __init__(self, name: str, descriptors: Sequence[int]) -> None:
        self.name = name
        self._descriptors = list(descriptors)

    @property
    def held(self) -> bool:
        """Whether it is not released yet."""
        return bool(self._descriptors)

    def release(self) -> None:
        """Gives it back; may be called twice."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class PortLease(Lease):
    """A leased port; for ``CONSOLE`` the port above it too."""

    def __init__(self, port: int, descriptors: Sequence[int]) -> None:
        super().__init__(f"port {port}", descriptors)
        self.port = port


def lease_directory() -> Path:
    """Where this user's leases on this host lie: ``$DIGIQ_LEASES``, else below the directory for temporary files.

    Raises:
        InputError: it belongs to somebody else.
    """
    given = os.environ.get(DIRECTORY_VARIABLE)
    path = Path(given) if given else Path(tempfile.gettempdir()) / f"digiq-leases-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise InputError(f"{path} is not a directory of this user: set {DIRECTORY_VARIABLE} to one that is")
    return path


class PortLeases:
    """Hands out ports.

    Args:
        directory: Where the lock files lie; by default ``lease_directory()``.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = (directory or lease_directory()) / "ports"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lease(self, kind: PortKind) -> PortLease:
        """The lowest port of a kind that is neither leased nor in use.

        Raises:
            LeaseRefusedError: there is none.
        """
        width = 2 if kind is PortKind.CONSOLE else 1
        for port in range(*kind.value, width):
            descriptors = list(self._locked(range(port, port + width)))
            if len(descriptors) == width and all(map(_is_free, range(port, port + width))):
                return PortLease(port, descriptors)
            Lease("", descriptors).release()
        raise LeaseRefusedError(
            f"no {kind.name.lower()} port is free from {kind.value[0]} to {kind.value[1] - 1}: "
            "use fewer devices on this host, or end processes that hold them"
        )

    def _locked(self, ports: Sequence[int]) -> Iterator[int]:
        """Locks ports up to the first that is taken."""
        for port in ports:
            descriptor = _lock(self._directory / str(port))
            if descriptor is None:
                return
            yield descriptor


class UdidLeases:
    """Makes sure that a device has one owner: a second session on a device would silently end the first."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = (directory or lease_directory()) / "devices"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lease(self, udid: str, adb_port: int = 5037) -> Lease:
        """The device with this id on this adb server.

        Raises:
            LeaseRefusedError: another lease on it is held, in this process or in another one.
        """
        name = f"{udid}@{adb_port}"
        path = self._directory / hashlib.sha256(name.encode()).hexdigest()[:32]
        descriptor = _lock(path)
        if descriptor is None:
            raise LeaseRefusedError(
                f"device {udid} is in use by process {_holder(path)}: end that one, or name another device"
            )
        return Lease(f"device {udid}", [descriptor])


def _lock(path: Path) -> int | None:
    """An open descriptor that holds the lock of ``path``; ``None`` if somebody else holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace") or "unknown"
    return "unknown"


def _is_free(port: int) -> bool:
    """Whether nothing listens on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
