"""Errors: exit codes of the kinds, and a full disk recognised through whatever was raised from it."""

import errno

import pytest

from digiq_ray.core import errors
from digiq_ray.core.errors import DigiQError, DiskFullError, InputError, error_chain, is_disk_full


class RemoteError(Exception):
    """What Ray raises for a task that failed: the cause as an attribute, its traceback as text."""

    def __init__(self, cause: object = None, traceback_str: str = "") -> None:
        super().__init__("task failed")
        self.cause = cause
        self.traceback_str = traceback_str


def raised_from(cause: BaseException) -> BaseException:
    try:
        raise RuntimeError("writing a segment") from cause
    except RuntimeError as error:
        return error


def raised_while_handling(first: BaseException) -> BaseException:
    try:
        try:
            raise first
        except Exception:
            raise RuntimeError("cleaning up")  # noqa: B904 - without "from" on purpose
    except RuntimeError as error:
        return error


FULL = OSError(errno.ENOSPC, "No space left on device", "runs/a")
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DigiQError)]


@pytest.mark.parametrize("kind", KINDS)
def test_input_errors_end_with_2_and_others_with_1(kind):
    assert kind("message").exit_code == (2 if issubclass(kind, InputError) else 1)


def test_failures_of_the_run_are_no_input_errors():
    others = {kind.__name__ for kind in KINDS if not issubclass(kind, InputError)}
    assert others == {"DigiQError", "DeadlineExceededError", "WorkerLostError"}


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),
        DiskFullError("make room"),
        raised_from(FULL),
        raised_while_handling(FULL),
        raised_from(raised_from(FULL)),
        RemoteError(FULL),
        RemoteError(raised_from(FULL)),
        RemoteError(RuntimeError("writing"), traceback_str="OSError: [Errno 28] No space left on device: 'runs/a'"),
        raised_from(RemoteError(DiskFullError("make room"))),
    ],
)
def test_a_full_disk_is_recognised(error):
    assert is_disk_full(error)


@pytest.mark.parametrize(
    "error",
    [
        None,
        OSError(errno.EACCES, "Permission denied"),
        ValueError("No space left in the sentence"),
        raised_from(ValueError("wrong")),
        RemoteError("a text, no exception"),
        RemoteError(None, traceback_str="ValueError: wrong"),
    ],
)
def test_other_errors_are_no_full_disk(error):
    assert not is_disk_full(error)


def test_the_chain_goes_from_an_error_to_what_it_was_raised_from():
    first, second = ValueError("first"), RemoteError(FULL)
    second.__cause__ = first
    assert list(error_chain(raised_from(second)))[1:] == [second, FULL]


def test_the_chain_of_errors_that_were_raised_from_each_other_ends():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert list(error_chain(first)) == [first, second]
