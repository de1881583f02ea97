"""Versions of a trained policy: numbered, never changed once published, the latest under the policy's own name.

A version is a directory that ``from_pretrained`` loads, ``policies/<policy>/<number>-<fingerprint>``. It appears under
its name only when it is whole and on the disk; the link ``models/<policy>`` then leads to it, changed in one step. Who
reads an older version goes on reading it: none is changed or removed. One process at a time publishes versions of one
policy.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from digiq_ray.core.errors import StoreError
from digiq_ray.learner.directories import publish_directory
from digiq_ray.learner.paths import RunPaths
from digiq_ray.store.local import LocalDirectory
from digiq_ray.store.publish import sync_directory, typed_write_errors

_NAME = re.compile(r"(\d+)-([0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One version; its text is what answers of a server and episodes name (``policy_version``).

    Attributes:
        policy: Name of the policy, ``digi_q`` for instance.
        number: From 1 on, higher for each new one.
        fingerprint: Hash of the weights.
    """

    policy: str
    number: int
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.policy}-{self.number}-{self.fingerprint}"


class PolicyVersions:
    """The versions of one policy.

    Args:
        directory: Where they lie.
        link: What leads to the latest; its name is the policy's.
    """

    def __init__(self, directory: Path, link: Path) -> None:
        self._directory, self._link = directory, link

    @classmethod
    def of(cls, paths: RunPaths, policy: str) -> Self:
        """Those of a policy of a run."""
        return cls(paths.versions(policy), paths.model(policy))

    def publish(self, fingerprint: str, write: Callable[[Path, str], None]) -> PolicyVersion:
        """Publishes a policy, and returns its version. If the latest has the same fingerprint, it is that one.

        Args:
            fingerprint: Hash of the weights, in hexadecimal digits.
            write: ``write(directory, version)`` saves the policy as ``version`` into an empty directory.

        Raises:
            DiskFullError: no space is left; what was published before is whole, and still the latest.
            StoreError: the place cannot be written.
        """
        LocalDirectory.create(self._directory)
        for left in self._directory.glob(".*"):  # by writers that died
            shutil.rmtree(left, ignore_errors=True)
        newest = max(self.all(), key=lambda one: one.number, default=None)
        if newest is None or newest.fingerprint != fingerprint:
            number = newest.number + 1 if newest else 1
            newest = PolicyVersion(self._link.name, number, fingerprint)
            publish_directory(self._place(newest), lambda hidden: write(hidden, str(newest)))
        self._lead_to(newest)
        return newest

    def all(self) -> list[PolicyVersion]:
        """Every version, oldest first."""
        names = [entry.name for entry in self._directory.iterdir()] if self._directory.is_dir() else []
        found = [match for match in map(_NAME.fullmatch, names) if match]
        versions = [PolicyVersion(self._link.name, int(match[1]), match[2]) for match in found]
        return sorted(versions, key=lambda one: one.number)

    def latest(self) -> PolicyVersion:
        """The newest version.

        Raises:
            StoreError: none is published.
        """
        versions = self.all()
        if not versions:
            raise StoreError(f"no version of {self._link.name} is published in {self._directory}: train it first")
        return versions[-1]

    def path(self, version: PolicyVersion | str) -> Path:
        """Where a version lies, which may be named as episodes name it.

        Raises:
            StoreError: it is not there.
        """
        for known in self.all():
            if str(known) == str(version):
                return self._place(known)
        there = ", ".join(map(str, self.all())) or "none"
        raise StoreError(f"{self._directory}: there is no version {version}; there are: {there}")

    def _place(self, version: PolicyVersion) -> Path:
        return self._directory / f"{version.number:04d}-{version.fingerprint}"

    def _lead_to(self, version: PolicyVersion) -> None:
        hidden = self._link.with_name(f".{self._link.name}.{os.getpid()}")
        LocalDirectory.create(self._link.parent)
        with typed_write_errors(self._link):
            hidden.unlink(missing_ok=True)
            hidden.symlink_to(os.path.relpath(self._place(version), self._link.parent))
            os.replace(hidden, self._link)
        sync_directory(self._link.parent)
