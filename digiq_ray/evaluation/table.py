"""The report in the terminal: success of each policy, the critic's ranking, where the time went, and the checks.

Fits 80 columns. Says the same as the page (``html.py``) in fewer words; what the report lacks is left out. Texts of
the report are printed as they are, never read as rich's markup.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from digiq_ray.evaluation.wording import (
    Report,
    compact,
    duration,
    figure,
    finite,
    interval,
    number,
    percent,
    percent_range,
    policies_in_order,
    policy_words,
    section,
)

_TIME_BAR = 24  # characters


def print_report(report: Report, console: Console) -> None:
    """Prints what a person wants to know first when a run ends."""
    for part in (_policies(report), _ranking(report), _time(report), _alarms(report), _checks(report)):
        if part is not None:
            console.print()
            console.print(part)


def _policies(report: Report) -> Table | None:
    policies = policies_in_order(report)
    if not policies:
        return None
    tasks = policies[0][1]
    title = f"Success on {number(figure(tasks, 'n'), 0)} tasks of {tasks.get('tasks', 'the task set')}, 95% intervals"
    table = _table(Text(title), "Policy", "Sampled", "Greedy", "Relearned")
    for name, result in policies:
        shapes = (result, section(result, "greedy"), section(result, "relearned"))
        style = "bold" if name == "digi_q" else ""
        table.add_row(Text(policy_words(name).label), *(Text(_rate(shape)) for shape in shapes), style=style)
    return table


def _rate(result: Report) -> str:
    bounds = interval(result)
    rate = percent(figure(result, "success_rate"))
    return rate if bounds is None else f"{rate} ({percent_range(bounds)})"


def _ranking(report: Report) -> Text | None:
    ranking = section(report, "ranking")
    picks = (("highest Q", "best_candidate"), ("most likely", "most_likely"), ("random", "random_candidate"))
    found = [f"{words} {percent(rate)}" for words, key in picks if (rate := figure(ranking, key, "rate")) is not None]
    if not found:
        return None
    most = figure(ranking, "any_candidate", "rate")
    limit = "" if most is None else f"; {percent(most)} hold a right one"
    novel = figure(ranking, "novelty", "beyond_99")
    far = "" if novel is None else f" {percent(novel)} of these states are more novel than 99% of training."
    return Text(f"Right candidate in {number(figure(ranking, 'states'), 0)} states: {', '.join(found)}{limit}.{far}")


def _time(report: Report) -> Table | None:
    stages = [stage for stage in report.get("stages") or () if figure(stage, "seconds") is not None]
    if not stages:
        return None
    longest = max(float(stage["seconds"]) for stage in stages) or 1.0
    whole = figure(report, "seconds")
    title = "Where the time went" if whole is None else f"Where the time went: {duration(whole)} in all"
    table = _table(Text(title), "Stage", "Time", "")
    table.columns[2].justify = "left"
    for stage in stages:
        bar = "█" * round(_TIME_BAR * stage["seconds"] / longest)
        time = "done before" if stage.get("skipped") else duration(stage["seconds"])
        table.add_row(Text(str(stage.get("name", ""))), Text(time), Text(bar, style="blue"))
    return table


def _alarms(report: Report) -> Text | None:
    lines = []
    for alarm in report.get("alarms") or ():
        name = str(alarm.get("name", "")).replace("_", " ")
        figures = f"{compact(finite(alarm.get('value')))}, limit {compact(finite(alarm.get('limit')))}"
        lines.append(f"! {alarm.get('stage', '')}: {name} ({figures}): {alarm.get('change', '')}")
    return Text("\n".join(["Alarms", *lines]), style="yellow") if lines else None


def _checks(report: Report) -> Table | None:
    checks = report.get("checks") or ()
    if not checks:
        return None
    passed = sum(bool(check.get("passed")) for check in checks)
    table = _table(Text(f"Checks: {passed} of {len(checks)} passed"), "", "Check")
    table.columns[1].justify = "left"
    for check in checks:
        mark = Text("passed", style="green") if check.get("passed") else Text("FAILED", style="bold red")
        line = Text(str(check.get("name", "")))
        if check.get("detail"):
            line.append(f"  {check['detail']}", style="dim")
        table.add_row(mark, line)
    return table


def _table(title: Text, *columns: str) -> Table:
    title.stylize("bold")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table
