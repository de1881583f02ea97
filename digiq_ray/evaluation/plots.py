"""The figures of a report, each a pure function from numbers to an inline SVG (see ``svg.py``).

They are drawn about as wide as a phone's window, so that they stay legible there, and two stand side by side on a
desk. Colours are told apart by people with any kind of colour blindness, and never carry a meaning alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digiq_ray.evaluation.svg import colour, inline_svg

_WIDTH = 400
_ROW, _TALL_ROW, _FEW = 21, 32, 5  # height of one bar with its gap, in pixels; tall where there are few
_BINS = 30
_MOST_POINTS = 400

Curve = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Bar:
    """One rate in [0, 1] with its interval, if there is one.

    Attributes:
        group: Name beside the bar; consecutive bars with the same name stand together under it.
        rate: Length.
        bounds: Ends of the whisker.
        colour: Name of a CSS variable.
        pale: Whether this is the second bar of its kind in the group.
    """

    group: str
    rate: float
    bounds: tuple[float, float] | None
    colour: str
    pale: bool = False


def interval_bars(bars: Sequence[Bar], *, label: str) -> str:
    """Horizontal bars from 0 to 100% with whiskers, the first on top; ``bars`` must not be empty."""
    positions, ticks = _places(bars)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for bar, y in zip(bars, positions, strict=True):
            axes.barh(y, bar.rate, height=0.82, color=colour("card"), zorder=2)
            axes.barh(y, bar.rate, height=0.82, color=colour(bar.colour), alpha=0.4 if bar.pale else 1.0, zorder=2)
            edge = bar.rate
            if bar.bounds is not None:
                for variable, width in (("card", 3.4), ("ink", 1.4)):
                    whisker = {"color": colour(variable), "linewidth": width, "markeredgewidth": width}
                    axes.plot(bar.bounds, (y, y), marker="|", markersize=5 + width, zorder=3, **whisker)
                edge = max(edge, bar.bounds[1])
            axes.text(edge + 0.015, y, f"{100 * bar.rate:.0f}%", va="center", color=colour("ink"), clip_on=False)
        axes.set_yticks(list(ticks.values()), list(ticks), color=colour("ink"))
        axes.set_ylim(max(positions) + 0.6, -0.6)
        axes.set_xlim(0, 1.08)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
        axes.grid(axis="x", zorder=0)
        axes.tick_params(length=0)
        axes.spines[["bottom"]].set_visible(False)

    row = _TALL_ROW if len(bars) < _FEW else _ROW
    return inline_svg(paint, width=_WIDTH, height=round(row * (max(positions) + 1)) + 30, label=label)


def _places(bars: Sequence[Bar]) -> tuple[list[float], dict[str, float]]:
    """Where each bar lies, in heights of a bar from the top, and the middle of each group."""
    positions: list[float] = []
    for index, bar in enumerate(bars):
        gap = 0.0 if index == 0 else 1.0 if bar.group == bars[index - 1].group else 1.45
        positions.append((positions[-1] if positions else 0.0) + gap)
    members: dict[str, list[float]] = {}
    for bar, y in zip(bars, positions, strict=True):
        members.setdefault(bar.group, []).append(y)
    return positions, {group: sum(ys) / len(ys) for group, ys in members.items()}


def td_curve(curve: Curve, *, label: str) -> str:
    """Errors of Q and V (log scale) above the mean of Q, over updates; rows are (step, Q error, V error, mean Q)."""
    steps, td_error, v_error, q_mean = _columns(curve, 4)

    def paint(figure: Any) -> None:
        errors, values = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        errors.plot(steps, td_error, color=colour("digiq"), linewidth=1.8, label="TD error of Q")
        errors.plot(steps, v_error, color=colour("random"), linewidth=1.8, linestyle="--", label="error of V")
        if np.nanmax(np.append(td_error, v_error), initial=0.0) > 0:
            errors.set_yscale("log")
            errors.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            errors.yaxis.set_minor_formatter(lambda value, _: "")
        errors.legend(loc="upper right")
        errors.set_ylabel("squared error")
        values.plot(steps, q_mean, color=colour("digiq"), linewidth=1.8)
        values.set_ylabel("mean Q")
        values.set_xlabel("updates")
        _quiet(errors, values)

    return inline_svg(paint, width=_WIDTH, height=290, label=label)


def loss_curve(loss: Curve, *, label: str) -> str:
    """A loss over updates; rows are (step, value)."""
    steps, values = _columns(loss, 2)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(steps, values, color=colour("digiq"), linewidth=1.8)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("updates")
        axes.set_ylabel("loss")
        _quiet(axes)

    return inline_svg(paint, width=_WIDTH, height=190, label=label)


def q_distribution(success: Sequence[float], failure: Sequence[float], *, label: str) -> str:
    """How Q is spread over executed actions of successful and of failed episodes, as shares of each of the two."""
    groups = (
        ("failed", np.asarray(failure, dtype=np.float64), "bad", "--"),
        ("successful", np.asarray(success, dtype=np.float64), "good", "-"),
    )
    edges = np.histogram_bin_edges(np.concatenate([values for _, values, _, _ in groups]), bins=_BINS)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for name, values, variable, line in groups:
            if not values.size:
                continue
            shares = np.histogram(values, bins=edges)[0] / values.size
            axes.stairs(shares, edges, fill=True, color=colour(variable), alpha=0.28)
            outline = {"color": colour(variable), "linewidth": 1.8, "linestyle": line}
            axes.stairs(shares, edges, label=f"{name}, n={values.size:,}", **outline)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.3)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        axes.legend(loc="upper left", ncols=2, columnspacing=1.2, handlelength=1.6)
        axes.set_xlabel("Q of the executed action")
        axes.set_ylabel("share of actions")
        _quiet(axes)

    return inline_svg(paint, width=_WIDTH, height=260, label=label)


def _columns(rows: Curve, width: int) -> list[NDArray[np.float64]]:
    """The first ``width`` columns, missing values as NaN; of a long curve evenly spaced rows with both ends."""
    kept = np.linspace(0, len(rows) - 1, min(len(rows), _MOST_POINTS)).round().astype(int)
    table = [[np.nan if value is None else float(value) for value in rows[index][:width]] for index in kept]
    return list(np.array(table, dtype=np.float64).T)


def _quiet(*all_axes: Any) -> None:
    for axes in all_axes:
        axes.grid(axis="y", zorder=0)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines[["left"]].set_visible(False)
        axes.locator_params(axis="x", nbins=6)
        axes.margins(x=0.01)
