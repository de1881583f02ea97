"""How a report's figures read: rates, intervals, durations, and the name and colour of each policy.

Shared by the page and the terminal table, so that both say the same. A figure that is missing or not a number is an
en dash, never an error: a report may come from a run that stopped half way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTHING = "–"
Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PolicyWords:
    """A policy's name for people, what it learnt from, and its colour (the name of a CSS variable)."""

    label: str
    meaning: str
    colour: str


_POLICIES = {
    "behaviour": PolicyWords("Behaviour policy", "recorded the episodes; where everything starts", "behaviour"),
    "filtered_bc": PolicyWords("Filtered BC", "imitates the steps of successful episodes", "filtered"),
    "random_candidate": PolicyWords("Random candidate", "imitates a candidate drawn without the critic", "random"),
    "awr": PolicyWords("AWR", "imitates executed actions, weighted by their advantage", "awr"),
    "reinforce": PolicyWords("REINFORCE", "follows the critic's policy gradient on executed actions", "reinforce"),
    "digirl": PolicyWords("DigiRL", "imitates steps that raised the value, in surprising successes", "digirl"),
    "mc": PolicyWords("Best of N, Monte Carlo", "as Digi-Q, with a critic of returns instead of TD", "mc"),
    "q_rerank": PolicyWords("Q re-ranking", "behaviour policy that acts by the critic's favourite", "rerank"),
    "digi_q": PolicyWords("Digi-Q", "imitates the candidate with the highest Q", "digiq"),
}


def policy_words(name: str) -> PolicyWords:
    """The words for a policy of the report; a policy that this program does not know keeps its own name."""
    return _POLICIES.get(name) or PolicyWords(name.replace("_", " ").capitalize(), "", "other")


def policies_in_order(report: Report) -> list[tuple[str, Report]]:
    """The policies that have a result: the behaviour policy first, then the controls, then Digi-Q, then others."""
    found = {name: result for name, result in section(report, "policies").items() if figure(result, "n") is not None}
    known = [name for name in _POLICIES if name in found]
    return [(name, found[name]) for name in (*known, *(name for name in found if name not in _POLICIES))]


def section(report: Report, *path: str) -> Report:
    """The mapping at ``path``, or an empty one where there is none."""
    for key in path:
        inner = report.get(key)
        if not isinstance(inner, Mapping):
            return {}
        report = inner
    return report


def figure(report: Report, *path: str) -> float | None:
    """The finite number at ``path``, or ``None`` where there is none."""
    value = section(report, *path[:-1]).get(path[-1])
    return finite(value)


def finite(value: object) -> float | None:
    """``value`` as a number, or ``None`` if it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(result: Report) -> tuple[float, float] | None:
    """The 95% interval of a result, or ``None``."""
    bounds = result.get("ci95")
    if not isinstance(bounds, Sequence) or len(bounds) != 2:
        return None
    low, high = finite(bounds[0]), finite(bounds[1])
    return None if low is None or high is None else (low, high)


def percent(value: float | None) -> str:
    """``0.3125`` as ``31%``."""
    return NOTHING if value is None else f"{100 * value:.0f}%"


def percent_range(bounds: tuple[float, float] | None) -> str:
    """``(0.25, 0.38)`` as ``25–38%``."""
    return NOTHING if bounds is None else f"{100 * bounds[0]:.0f}–{100 * bounds[1]:.0f}%"


def points(value: float) -> str:
    """A difference of rates in points: ``0.31`` as ``+31``."""
    whole = round(100 * value)
    return f"{whole:+d}".replace("-", "−") if whole else "0"


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals."""
    return NOTHING if value is None else f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def compact(value: float | None) -> str:
    """A number with three digits, however large or small."""
    return NOTHING if value is None else f"{value:.3g}".replace("-", "−")


def count(value: float | None) -> str:
    """A whole number with separators of thousands."""
    return number(value, 0)


def duration(seconds: float | None) -> str:
    """``252`` as ``4 min 12 s``; tenths of a second only below ten seconds."""
    if seconds is None:
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def short_duration(seconds: float) -> str:
    """A duration in its largest unit only: ``252`` as ``4.2 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"
