"""What goes wrong with the content of a file, as one typed error that names the file and says how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from digiq_ray.core.errors import DigiQError, StoreError


class StoreUnreachableError(StoreError):
    """The place where the files lie does not answer or may not be read: this says nothing about the files."""


@contextmanager
def content_errors(path: object) -> Iterator[None]:
    """Turns what goes wrong with the content of the file at ``path`` into a ``StoreError`` that names it."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise StoreError(f"{path}: is gone; restore it from a copy") from error
    except PermissionError as error:
        raise StoreUnreachableError(f"{path}: may not be read; change its permissions") from error
    except (
        pa.ArrowException,
        DigiQError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(
            f"{path}: is broken ({reason}); restore it from a copy, or delete it to make its rows again"
        ) from error
