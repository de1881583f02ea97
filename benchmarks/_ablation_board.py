"""What a person sees while cells are measured: a bar for the cells, one for what goes on, a line for each that is done.

The time that is left is estimated from what cells of the same name took, so also from those of an earlier call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks._ablation_cells import Place, Result
from digiq_ray.evaluation.wording import duration, percent, percent_range


def seconds_left(done: Sequence[Result], left: Sequence[Place]) -> float | None:
    """What the cells in ``left`` will take, with what they share; ``None`` before the first is done.

    A cell takes as long as those of the same name did on average, or as the average cell.
    """
    if not done:
        return None
    by_name: dict[str, list[float]] = {}
    shared: dict[tuple[str, int], float] = {}
    for one in done:
        by_name.setdefault(one.place.cell.name, []).append(one.seconds)
        shared[one.place.task_set, one.place.seed] = one.shared_seconds
    usual = fmean(fmean(seconds) for seconds in by_name.values())
    cells = sum(fmean(by_name.get(place.cell.name, [usual])) for place in left)
    new = {(place.task_set, place.seed) for place in left}.difference(shared)
    return cells + len(new) * fmean(shared.values())


class Board:
    """Bars and lines on stderr; in a log there are only the lines."""

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._cells = self._progress.add_task("cells", total=total, left="")
        self._stage: TaskID | None = None
        self._place = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, place: Place) -> None:
        """A cell begins."""
        self._place = str(place)

    def watch(self, name: str) -> Callable[[int, int], None]:
        """Shows a bar for a stage of the present cell; the result is called with (done, total)."""
        if self._stage is not None:
            self._progress.remove_task(self._stage)
        self._stage = stage = self._progress.add_task(f"{self._place}: {name}", total=None, left="")
        return lambda done, total: self._progress.update(stage, completed=done, total=total)

    def done(self, result: Result, left: float | None, *, measured: bool = True) -> None:
        """A line for a cell that is done, now or before."""
        played = result.played
        bounds = played["ci95"]
        rate = f"{percent(played['success_rate']):>4} ({percent_range(tuple(bounds) if bounds else None)})"
        took = duration(result.seconds) if measured else "done before"
        rest = f"   [dim]about {duration(left)} left[/]" if left else ""
        self._console.print(f"[green]✓[/] {result.place!s:<34}{rate:<16}{took:>12}{rest}", soft_wrap=True)
        self._progress.update(self._cells, advance=1, left="" if left is None else f"about {duration(left)} left")

    def failed(self, place: Place, text: str) -> None:
        """A line for a cell whose method found nothing to learn from."""
        self._console.print(f"[bold red]✗[/] {place!s:<34}{escape(text)}", soft_wrap=True)
        self._progress.update(self._cells, advance=1)
