"""What is wrong inside a legacy file, as one typed line that names the file.

Below this package's surface a problem is a ``FormatError`` without the file's name. Whatever else a file of random
bytes makes the interpreter trip over (a missing operand, a size that does not fit) is the same kind of problem.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from digiq_ray.core.errors import DigiQError, InputError


class FormatError(Exception):
    """The content is not what the original writes. The message says what and, if it is known, where."""


@contextmanager
def file_errors(path: object) -> Iterator[None]:
    """Turns what goes wrong with the content of ``path`` into one ``InputError``; typed errors pass."""
    try:
        yield
    except DigiQError:
        raise
    except FormatError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: is not a whole trajectory file ({reason}); download or copy it again") from error
