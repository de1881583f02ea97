"""What the commands of ``digiq data`` share: the data set as their argument, ``--json``, and printing of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from digiq_ray.cli.common import Report, json_line
from digiq_ray.core.errors import StoreError
from digiq_ray.store.directory import Directory, open_directory
from digiq_ray.store.kinds import StoreKind, store_kind

Function = Callable[..., Any]


def data_set(function: Function) -> Function:
    """Gives a command the argument ``DATA_SET`` (as ``path``) and ``--json`` (as ``as_json``)."""
    function = click.option("--json", "as_json", is_flag=True, help="Makes the last line of stdout one JSON object.")(
        function
    )
    return click.argument("path", metavar="DATA_SET")(function)


def open_kind(path: str, *kinds: StoreKind) -> Directory:
    """The directory of a data set that is of one of ``kinds``; raises ``StoreError`` if it is of another."""
    directory = open_directory(path)
    kind = store_kind(directory)
    if kind not in (*kinds, StoreKind.EMPTY):
        raise StoreError(f"{path}: holds {kind}; this command is for {' and '.join(kinds)}")
    return directory


def finish(report: Report, as_json: bool) -> None:
    """Prints the report of a command, if it was asked for."""
    if as_json:
        click.echo(json_line(report))


def size(count: float) -> str:
    """A number of bytes for people: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def plural(count: int, word: str) -> str:
    """``1 segment``, ``2 segments``."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
