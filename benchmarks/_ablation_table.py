"""From the results of cells to the table and the plot: pure functions, and two files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks._ablation_cells import BY_NAME, Cell, Place, Result
from digiq_ray.evaluation.statistics import Interval, Proportion, difference, wilson
from digiq_ray.evaluation.wording import NOTHING, duration

_OURS = "digi_q"
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "digiq", "font.size": 9.0}
_BLUE, _GREY = "#0072b2", "#868d96"
_READING = (
    "one episode for each task at temperature 1, in per cent with 95 % Wilson intervals over all seeds' episodes "
    "together; they cover the noise of episodes, not of seeds. *Digi-Q more*: Digi-Q less this, in "
    "points, with Newcombe's 95 % interval. *Relearned*: only tasks that need an action which all pre-training would "
    "have called wrong. *Items*: states that were imitated; *KL*: how far the policy moved from the behaviour policy; "
    "both are means over the seeds."
)


@dataclass(frozen=True, slots=True)
class Row:
    """A cell on one task set: the episodes of all its seeds together.

    Attributes:
        by_seed: Successes and judged episodes of each seed, ascending.
        by_kind: The same of each kind of task, all seeds together.
        relearned: The same of tasks that need an action which pre-training would have called wrong.
        lost: Episodes that device errors cut short.
        items: What a policy learnt from, mean over the seeds; ``None`` where none is trained.
        kl: How far it moved from the behaviour policy, likewise.
    """

    task_set: str
    cell: Cell
    by_seed: Mapping[int, tuple[int, int]]
    by_kind: Mapping[str, tuple[int, int]]
    relearned: tuple[int, int]
    lost: int
    items: float | None
    kl: float | None

    @property
    def successes(self) -> int:
        """Of all seeds."""
        return sum(successes for successes, _ in self.by_seed.values())

    @property
    def n(self) -> int:
        """Judged episodes of all seeds."""
        return sum(n for _, n in self.by_seed.values())

    @property
    def rate(self) -> float | None:
        """Share of successes; ``None`` where no episode was judged."""
        return self.successes / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        """Wilson's, over the pooled episodes."""
        return wilson(self.successes, self.n) if self.n else None

    def to_json(self) -> dict[str, Any]:
        """A row of the benchmark's file."""
        return {
            "tasks": self.task_set,
            "cell": self.cell.name,
            "success_rate": self.rate,
            "successes": self.successes,
            "n": self.n,
            "ci95": list(self.interval) if self.interval else None,
            "seeds": list(self.by_seed),
            "by_seed": [successes / n if n else None for successes, n in self.by_seed.values()],
        }


def rows_of(results: Sequence[Result]) -> list[Row]:
    """A row for each cell and task set that has a result, in the order of the table."""
    found: dict[tuple[str, str], list[Result]] = {}
    for one in results:
        found.setdefault((one.place.task_set, one.place.cell.name), []).append(one)
    names = list(BY_NAME)
    return [
        _row(task_set, BY_NAME[name], sorted(found[task_set, name], key=lambda one: one.place.seed))
        for task_set, name in sorted(found, key=lambda key: (key[0], names.index(key[1])))
    ]


def _row(task_set: str, cell: Cell, results: Sequence[Result]) -> Row:
    kinds = sorted({kind for one in results for kind in one.played["by_kind"]})
    return Row(
        task_set,
        cell,
        {one.place.seed: (one.played["successes"], one.played["n"]) for one in results},
        {kind: _together(one.played["by_kind"].get(kind) for one in results) for kind in kinds},
        _together(one.played["relearned"] for one in results),
        sum(one.played["infra_errors"] for one in results),
        _mean(results, "items"),
        _mean(results, "kl"),
    )


def _together(parts: Iterable[Mapping[str, Any] | None]) -> tuple[int, int]:
    """Successes and episodes of all; a seed may have drawn no task of a kind."""
    found = [part for part in parts if part is not None]
    return sum(part["successes"] for part in found), sum(part["n"] for part in found)


def _mean(results: Sequence[Result], figure: str) -> float | None:
    values = [one.trained[figure] for one in results if figure in one.trained]
    return fmean(values) if values else None


def markdown(results: Sequence[Result], *, command: str, missing: Sequence[Place] = ()) -> str:
    """The section for ``docs/results.md``: when, where and how, and a table for each task set.

    Args:
        results: At least one.
        command: What gives them.
        missing: Cells that were asked for and have none.
    """
    rows = rows_of(results)
    days, machines = sorted({one.date[:10] for one in results}), sorted({one.machine for one in results})
    parts = [
        "## Ablations",
        f"{' to '.join([days[0], *days[1:][-1:]])}; {'; '.join(machines)}; {_spent(results)}.",
        f"`{command}`",
        f"Success on {' and '.join(sorted({one.played['tasks'] for one in results}))}, {_READING}",
    ]
    for task_set in dict.fromkeys(row.task_set for row in rows):
        parts += [f"### {task_set}", _table([row for row in rows if row.task_set == task_set])]
    lost = sum(row.lost for row in rows)
    if lost:
        parts.append(f"Device errors cut short {lost} episodes, which count in no n.")
    if missing:
        parts.append("Not measured yet: " + ", ".join(map(str, missing)) + ".")
    return "\n\n".join(parts) + "\n"


def _spent(results: Sequence[Result]) -> str:
    """All the work behind the results; what is shared counts once."""
    shared = {(one.place.task_set, one.place.seed): one.shared_seconds for one in results}
    return f"{duration(sum(one.seconds for one in results) + sum(shared.values()))} of work"


def _table(rows: Sequence[Row]) -> str:
    ours = next((row for row in rows if row.cell.name == _OURS), None)
    lines = [
        "| cell | success | n | by seed | Digi-Q more | relearned | by kind | items | KL |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = f"**{row.cell.label}**" if row is ours else row.cell.label
        by_seed = " / ".join(_percent(*counts) for counts in row.by_seed.values())
        items = NOTHING if row.items is None else f"{row.items:,.0f}"
        kl = NOTHING if row.kl is None else f"{row.kl:.3f}"
        cells = [
            name,
            _with_interval(row.successes, row.n),
            str(row.n),
            by_seed,
            _more(ours, row),
            _with_interval(*row.relearned),
            ", ".join(f"{kind} {_percent(*counts, digits=0)}" for kind, counts in row.by_kind.items()),
            items,
            kl,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(successes: int, n: int, digits: int = 1) -> str:
    return f"{100 * successes / n:.{digits}f}" if n else NOTHING


def _with_interval(successes: int, n: int) -> str:
    if not n:
        return NOTHING
    low, high = wilson(successes, n)
    return f"{_percent(successes, n)} [{100 * low:.1f}, {100 * high:.1f}]"


def _more(ours: Row | None, row: Row) -> str:
    if ours is None or row is ours or not ours.n or not row.n:
        return NOTHING
    found = difference(Proportion(ours.successes, ours.n), Proportion(row.successes, row.n))
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def plot(results: Sequence[Result]) -> str:
    """An SVG: for each task set the success of every cell with its interval, and of each seed as a small dot."""
    rows = rows_of(results)
    sets = list(dict.fromkeys(row.task_set for row in rows))
    cells = [cell for cell in BY_NAME.values() if any(row.cell is cell for row in rows)]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.2 + 2.8 * len(sets), 1.0 + 0.27 * len(cells)), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
        for axes, task_set in zip(panels, sets, strict=True):
            for row in rows:
                if row.task_set == task_set:
                    _paint(axes, row, cells.index(row.cell))
            axes.set_title(task_set, loc="left")
            axes.set_xlim(0, 100)
            axes.set_xlabel("success, %")
            axes.set_yticks(range(len(cells)), [cell.label for cell in cells])
            axes.set_ylim(len(cells) - 0.4, -0.6)
            axes.grid(axis="x", linewidth=0.5, color="#dedfdb")
            axes.set_axisbelow(True)
            axes.tick_params(length=0)
            axes.spines[["top", "right", "left"]].set_visible(False)
        written = io.StringIO()
        figure.savefig(written, format="svg", facecolor="white", metadata={"Date": None})
    return written.getvalue()


def _paint(axes: Any, row: Row, y: int) -> None:
    seeds = [100 * successes / n for successes, n in row.by_seed.values() if n]
    colour = _BLUE if row.cell.method == _OURS else _GREY
    axes.scatter(seeds, [y] * len(seeds), s=9, color=colour, alpha=0.45, linewidths=0)
    if row.rate is not None and row.interval is not None:
        axes.plot([100 * bound for bound in row.interval], [y, y], color=colour, linewidth=1.6)
        axes.scatter([100 * row.rate], [y], s=26, color=colour, zorder=3)
