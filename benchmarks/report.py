"""What every benchmark shares: its options, the machine, ways of doing the same work interleaved, a table and JSON.

A figure is the median over the repeats, with the smallest and the largest beside it. A ratio compares medians; its
range is that of the ratios within each repeat, since what ran one after the other saw the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

Figures = TypeVar("Figures")


def options(
    text: str | None,
    arguments: Sequence[str] | None = None,
    positional: Mapping[str, Mapping[str, Any]] | None = None,
    **more: Mapping[str, Any],
) -> argparse.Namespace:
    """The command line of a benchmark: ``--quick``, ``--json FILE``, and ``more`` (name: ``add_argument``'s words).

    Those of ``positional`` have no dashes. A wrong word, or a ``FILE`` in no directory, ends the process with code 2.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: to see that it works")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    for name, words in (positional or {}).items():
        parser.add_argument(name, **words)
    for name, words in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **words)
    given = parser.parse_args(arguments)
    if not given.json.parent.is_dir():  # said now, and not after the work
        parser.error(f"--json: there is no directory {given.json.parent}")
    return given


def machine() -> str:
    """The machine in one line: processor, cores, memory, system, Python."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def interleave(
    ways: Mapping[str, Callable[[], Figures]], repeats: int, console: Console | None = None
) -> dict[str, list[Figures]]:
    """Runs every way once, then every way again, ``repeats`` times: what each gave, in order."""
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name, way in ways.items():
            if console is not None:
                console.print(f"[dim]{repeat + 1} of {repeats}: {name}[/]", soft_wrap=True)
            found[name].append(way())
    return found


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure that was measured several times: its median, its smallest and its largest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of ``values``, of which there is at least one."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"

    def to_json(self) -> dict[str, float]:
        """For a row."""
        return {"median": self.median, "min": self.low, "max": self.high}


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Median of ``over`` by the median of ``under``; its range is that of each repeat."""
    each = [one / other for one, other in zip(over, under, strict=True)]
    return Spread(statistics.median(over) / statistics.median(under), min(each), max(each))


Cell = str | float | int | bool | None | Spread | Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a benchmark found.

    Attributes:
        name: Of the benchmark.
        rows: One for each way and size, the same columns in each.
        ratios: The figures that the design names.
        notes: What else one must know to read them.
        command: What was called, if more than the name and ``--quick`` bears on the figures.
    """

    name: str
    rows: Sequence[Mapping[str, Cell]]
    ratios: Mapping[str, Spread]
    notes: Sequence[str] = field(default=())
    command: str | None = None

    def publish(self, path: Path, console: Console | None = None) -> None:
        """Prints the table and writes the JSON file."""
        console = console or Console(highlight=False)
        table = Table(*self.rows[0])
        for row in self.rows:
            table.add_row(*(_text(cell) for cell in row.values()))
        console.print(table)
        for name, value in self.ratios.items():
            console.print(f"{name} {value}", soft_wrap=True)
        for note in self.notes:
            console.print(f"[dim]{note}[/]", soft_wrap=True)
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    def to_json(self) -> dict[str, Any]:
        """The JSON object of a benchmark; ``ratios`` are medians, ``ranges`` their smallest and largest values."""
        return {
            "name": self.name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "command": self.command or f"python -m benchmarks.{self.name}" + " --quick" * ("--quick" in sys.argv),
            "rows": [
                {key: cell.to_json() if isinstance(cell, Spread) else cell for key, cell in row.items()}
                for row in self.rows
            ],
            "ratios": {name: value.median for name, value in self.ratios.items()},
            "ranges": {name: [value.low, value.high] for name, value in self.ratios.items()},
            "notes": list(self.notes),
        }


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _text(cell: Cell) -> str:
    if isinstance(cell, list | tuple):
        return " ".join(_text(one) for one in cell)
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return "" if cell is None else str(cell)
    return _short(cell)
