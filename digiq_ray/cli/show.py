"""What a person sees of a run: a bar for the stage that goes on, one line for each that is done, the table at the end.

On a terminal the bar moves; in a log there are only the lines.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from digiq_ray.evaluation.table import print_report


class Show:
    """Progress on stderr, results on stdout."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description:<13}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def watch(self, name: str) -> Callable[[int, int], None]:
        """Shows a bar for ``name``; the result is called with (done, total)."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = task = self._progress.add_task(name, total=None)
        return lambda done, total: self._progress.update(task, completed=done, total=total)

    def stage(self, name: str, meaning: str, seconds: float, rows: int, skipped: bool) -> None:
        """One line for a stage that is done."""
        took = "done before" if skipped else f"{seconds:6.1f} s"
        self._console.print(f"[green]✓[/] {name:<13}{took:>12}{rows:>9,} rows   [dim]{meaning}[/]", soft_wrap=True)

    def alarm(self, stage: str, text: str) -> None:
        """One line below that of the stage."""
        self._console.print(f"[bold yellow]![/] {stage:<13}{escape(text)}", soft_wrap=True)

    def report(self, report: dict[str, Any], root: Path) -> None:
        """The table at the end, and where the report lies."""
        console = Console(highlight=False)
        print_report(report, console)
        console.print(f"report: {root / 'report.html'}", soft_wrap=True)
