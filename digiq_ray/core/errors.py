"""Typed errors. Each says in one line what is wrong and how to mend it; the CLI prints that line and nothing else.

``DigiQError`` ends a command with exit code 1, ``InputError`` (and its kinds) with exit code 2.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator


class DigiQError(Exception):
    """Base of every error that this project raises on purpose. Exit code 1."""

    exit_code = 1


class InputError(DigiQError):
    """Wrong usage or input: the person can mend it. Exit code 2."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration key or value is unknown, wrong, or contradicts another."""


class RunMismatchError(InputError):
    """A run directory holds a run of another configuration."""


class StoreError(InputError):
    """A data set is missing, broken, or of another schema version."""


class FingerprintMismatchError(StoreError):
    """Features were made by another model, layer, pooling, prompt or image transform."""


class CheckpointMismatchError(StoreError):
    """A checkpoint belongs to a training on other data, other features or with other settings."""


class DiskFullError(InputError):
    """No space is left where the run is written. What was published before is whole."""


class ModelError(InputError):
    """A model cannot be loaded or does not fit the task."""


class DeadlineExceededError(DigiQError):
    """A named wait ran past its deadline."""


class WorkerLostError(DigiQError):
    """A worker process died more often than its budget allows."""


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """``error`` and, in turn, what each was raised from: ``cause`` (Ray's), ``__cause__``, ``__context__``."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__ or error.__context__


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE_TRACES = (*(f"[Errno {code}]" for code in _NO_SPACE), "core.errors.DiskFullError:")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether ``error``, or anything that it was raised from, says that the disk is full.

    Ray carries an exception to another process without what it was raised from, but with its traceback as text.
    """
    return any(_says_disk_full(link) for link in error_chain(error))


def _says_disk_full(error: BaseException) -> bool:
    if isinstance(error, DiskFullError):
        return True
    if isinstance(error, OSError) and (error.errno in _NO_SPACE or "No space left" in str(error)):
        return True
    remote = f"{getattr(error, 'traceback_str', '')}{getattr(error, 'error_msg', '')}"
    return any(trace in remote for trace in _NO_SPACE_TRACES)
