"""What a person is told of played episodes: how many succeeded, why they stopped, where they lie, what is next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from digiq_ray.evaluation.statistics import wilson
from digiq_ray.evaluation.wording import (
    count,
    interval,
    number,
    percent,
    percent_range,
    policies_in_order,
    policy_words,
)

Figures = Mapping[str, Any]


def next_command(root: Path, command: str) -> str:
    """What continues the run in ``root``, whatever its settings are."""
    return f"digiq {command} --config {root / 'config.yaml'} --out {root}"


def tell_collected(figures: Figures, root: Path) -> dict[str, Any]:
    """Prints what the stage collect left in ``root``; returns what a program may want to know of it as well."""
    reasons: Mapping[str, int] = figures.get("stop_reasons", {})
    judged = sum(reasons.values()) - reasons.get("device_error", 0)
    successes = reasons.get("success", 0)
    bounds = wilson(successes, judged) if judged else None
    rate = f"{percent(successes / judged)} ({percent_range(bounds)})" if judged else "nothing was judged"
    where, then = root / "episodes", next_command(root, "candidates")
    table = Table.grid(padding=(0, 2))
    rows = {
        "episodes": f"{count(figures['episodes'])} with {count(figures['rows'])} steps",
        "success": rate,
        "stopped by": counts(reasons),
        "device errors": counts(figures.get("device_errors", {})),
        "lost workers": counts(figures.get("losses", {})),
        "path": f"{where}   (digiq data info {where})",
        "next": f"{then}   (or digiq run: all that is left)",
    }
    for name, words in rows.items():
        if name != "lost workers" or figures.get("losses"):
            table.add_row(name, Text(words, overflow="fold"))
    _console().print(table)
    return {"ci95": bounds, "path": str(where), "next": then}


def tell_failures(figures: Figures) -> None:
    """Prints how many states got no row, and why; nothing if all did."""
    failures: Mapping[str, int] = figures.get("failures", {})
    if failures:
        total = sum(failures.values())
        _console().print(Text(f"{count(total)} states have no row and are left out of training: {counts(failures)}"))


def tell_scores(report: Figures) -> None:
    """Prints the table of an evaluation: each policy, sampled and greedy, with its 95% interval."""
    policies = policies_in_order(report)
    tasks = {str(result.get("tasks")) for _, result in policies}
    title = f"Success on {', '.join(sorted(tasks))}, devices: {report['device']}"
    table = Table(title=Text(title, "bold"), title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("Policy")
    table.add_column("Actions")
    for name in ("Success (95%)", "Of", "Mean length", "Infra errors"):
        table.add_column(name, justify="right")
    table.add_column("Device errors")
    for name, result in policies:
        for mode, one in {"sampled": result, "greedy": result.get("greedy")}.items():
            if one is not None:
                table.add_row(policy_words(name).label, mode, *_score(one))
    _console().print(table)


def _score(result: Figures) -> tuple[str, ...]:
    bounds, rate = interval(result), percent(result["success_rate"])
    said = rate if bounds is None else f"{rate} ({percent_range(bounds)})"
    length = number(result.get("mean_length"), 1)
    return said, count(result["n"]), length, count(result["infra_errors"]), counts(result.get("device_errors", {}))


def counts(causes: Mapping[str, int]) -> str:
    """``{"SessionLost": 2}`` as ``2 SessionLost``, the most frequent first; ``none`` if there is none."""
    ordered = sorted(causes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number} {name}" for name, number in ordered) or "none"


def _console() -> Console:
    """A console that does not cut lines where there is no terminal (a file, a pipe)."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)
