"""What each section of a report page says: pure functions from the report to sentences, rows and figures.

A section whose figures are not in the report is ``None`` and is left out of the page. Every figure comes with one
sentence that says what it means. Sentences claim no more than the figures do: two rates are called different only
where the interval of their difference leaves out zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from digiq_ray.evaluation import plots
from digiq_ray.evaluation.plots import Bar
from digiq_ray.evaluation.statistics import Difference, Proportion, difference
from digiq_ray.evaluation.wording import (
    Report,
    compact,
    count,
    duration,
    figure,
    finite,
    interval,
    number,
    percent,
    percent_range,
    points,
    policies_in_order,
    policy_words,
    section,
    short_duration,
)

Section = dict[str, Any] | None


def headline(report: Report) -> dict[str, Any]:
    """The first screen: what was done in one sentence, and the main figures large."""
    policies = dict(policies_in_order(report))
    before, after = policies.get("behaviour"), policies.get("digi_q")
    gain = _gain(after, before)
    shown = [(name, policies[name]) for name in ("behaviour", "digi_q") if name in policies]
    tiles = [_policy_tile(name, result) for name, result in shown or list(policies.items())[:2]]
    if gain is not None:
        bounds = f"95% interval {points(gain.low)} to {points(gain.high)}"
        tiles.append({"label": "Gain in points", "value": points(gain.value), "note": bounds, "colour": "ink"})
    seconds = figure(report, "seconds")
    if seconds is not None:
        memory = figure(report, "peak_memory_mb")
        note = "from start to end" if memory is None else f"at most {count(memory)} MB of memory"
        tiles.append({"label": "Time", "value": short_duration(seconds), "note": note, "colour": "ink"})
    return {"title": _title(report, before, after, gain), "lead": _lead(report, after or before), "tiles": tiles}


def _gain(after: Report | None, before: Report | None) -> Difference | None:
    counts = [figure(result or {}, key) for result in (after, before) for key in ("successes", "n")]
    if None in counts or not counts[1] or not counts[3]:
        return None
    whole = [int(value or 0) for value in counts]
    return difference(Proportion(whole[0], whole[1]), Proportion(whole[2], whole[3]))


def _title(report: Report, before: Report | None, after: Report | None, gain: Difference | None) -> str:
    if before is None or after is None or gain is None:
        policies = policies_in_order(report)
        if len(policies) != 1:
            return f"digiq {report.get('command', 'run')}"
        (name, result), *_ = policies
        return f"{policy_words(name).label}: {percent(figure(result, 'success_rate'))} of the tasks done"
    rates = f"from {percent(figure(before, 'success_rate'))} to {percent(figure(after, 'success_rate'))}"
    if not gain.clear:
        return f"No clear change of success: {rates}"
    return f"Success {'rose' if gain.value > 0 else 'fell'} {rates}"


def _lead(report: Report, result: Report | None) -> str:
    tasks = "" if result is None else f", scored on {count(figure(result, 'n'))} held-out tasks"
    name = f" ({report['task_set']})" if tasks and report.get("task_set") else ""
    if report.get("command") == "iterate":
        return f"Digi-Q in rounds: collect episodes, learn from all of them, collect with what was learnt{tasks}{name}."
    if report.get("command") in ("demo", "run") and "digi_q" in section(report, "policies"):
        return (
            "Digi-Q learnt only from episodes that the behaviour policy had recorded, without touching a phone while "
            f"it learnt{tasks}{name}."
        )
    return f"Episodes of policies{tasks}{name}." if tasks else "What this run did so far."


def _policy_tile(name: str, result: Report) -> dict[str, Any]:
    words = policy_words(name)
    tally = f"{count(figure(result, 'successes'))} of {count(figure(result, 'n'))} tasks"
    return {
        "label": words.label,
        "value": percent(figure(result, "success_rate")),
        "note": f"{tally}, 95% interval {percent_range(interval(result))}",
        "colour": words.colour,
    }


def success(report: Report) -> Section:
    """Success bars of all policies, on all tasks and on the relearned ones, and the table of policies."""
    policies = policies_in_order(report)
    if not policies:
        return None
    relearned = section(policies[0][1], "relearned")
    charts = [
        _success_chart(policies, (), "All tasks", "Share of held-out tasks that were done."),
        _success_chart(
            policies,
            ("relearned",),
            f"Relearned tasks ({count(figure(relearned, 'n'))})" if relearned else "Relearned tasks",
            "Only tasks that need an action which every stage of pre-training would have called wrong.",
        ),
    ]
    errors = sum(int(figure(result, "infra_errors") or 0) for _, result in policies)
    return {
        "charts": [chart for chart in charts if chart is not None],
        "greedy": any(section(result, "greedy") for _, result in policies),
        "note": f"{count(errors)} episodes ended in a device error; they are counted apart." if errors else "",
        "table": _policy_table(policies, section(report, "extraction")),
    }


def _success_chart(policies: Sequence[tuple[str, Report]], path: tuple[str, ...], title: str, means: str) -> Section:
    bars = []
    for name, result in policies:
        words = policy_words(name)
        for pale, shape in ((False, section(result, *path)), (True, section(result, "greedy", *path))):
            rate = figure(shape, "success_rate")
            if rate is not None:
                bars.append(Bar(words.label, rate, interval(shape), words.colour, pale))
    if not bars:
        return None
    return {"title": title, "svg": Markup(plots.interval_bars(bars, label=f"Success: {title}")), "meaning": means}


def _policy_table(policies: Sequence[tuple[str, Report]], extraction: Report) -> dict[str, Any]:
    kinds = sorted({kind for _, result in policies for kind in section(result, "by_kind")})
    heads = [("Sampled", ()), ("Greedy", ("greedy",)), ("Relearned", ("relearned",))]
    columns = [
        *(head for head in heads if any(section(result, *head[1]) for _, result in policies)),
        *((kind or "no kind", ("by_kind", kind)) for kind in kinds),
    ]
    trained = [(head, key) for head, key in (("KL", "kl"), ("Weight", "mean_weight")) if section(extraction, key)]
    rows = []
    for name, result in policies:
        words = policy_words(name)
        cells = [_cell(section(result, *path)) for _, path in columns]
        length = number(figure(result, "mean_length"), 1)
        learnt = [number(figure(extraction, key, name)) for _, key in trained]
        rows.append(
            {"label": words.label, "meaning": words.meaning, "cells": cells, "length": length, "learnt": learnt}
        )
    return {
        "heads": [head for head, _ in columns],
        "kinds": len(kinds),
        "learnt": [head for head, _ in trained],
        "rows": rows,
    }


def _cell(result: Report) -> dict[str, Any]:
    return {
        "rate": percent(figure(result, "success_rate")),
        "tally": f"{count(figure(result, 'successes'))}/{count(figure(result, 'n'))}",
        "bounds": percent_range(interval(result)),
    }


def timeline(report: Report) -> Section:
    """Stages as bars on one axis of time, in their order."""
    stages = [stage for stage in report.get("stages") or () if figure(stage, "seconds") is not None]
    total = sum(stage["seconds"] for stage in stages)
    if not stages:
        return None
    rows, start = [], 0.0
    for stage in stages:
        rows.append(
            {
                "name": stage.get("name", ""),
                "meaning": stage.get("meaning", ""),
                "time": "done before" if stage.get("skipped") else duration(stage["seconds"]),
                "rows": count(figure(stage, "rows")) if figure(stage, "rows") is not None else "",
                "start": round(100 * start / total, 2) if total else 0.0,
                "width": round(100 * stage["seconds"] / total, 2) if total else 0.0,
            }
        )
        start += stage["seconds"]
    longest = max(stages, key=lambda stage: float(stage["seconds"]))
    share = percent(longest["seconds"] / total) if total else ""
    sentence = f"{duration(total)} in stages; {longest.get('name')} took {share} of it."
    return {"rows": rows, "sentence": sentence if total else "All of it was done before."}


def critic(report: Report) -> Section:
    """Does the critic rank actions: its ranking, its learning curve, its values, its sensitivity to the action."""
    values = section(report, "critic")
    charts = [_ranking(report), _distribution(values), _curve(values), _sensitivity(values), _novelty(report)]
    found = [chart for chart in charts if chart is not None]
    return {"charts": found} if found else None


def _sensitivity(values: Report) -> Section:
    ratio = figure(values, "action_sensitivity")
    if ratio is None:
        return None
    actions, states = figure(values, "variance_over_actions"), figure(values, "variance_over_states")
    detail = "" if actions is None or states is None else f" ({number(actions, 4)} against {number(states, 4)})"
    return {
        "title": "Action sensitivity",
        "big": number(ratio),
        "meaning": f"The variance of Q over the candidates of a state is {number(ratio)} times its variance over "
        f"states{detail}. Near 0, Q would have become a V and could not rank actions.",
    }


def _novelty(report: Report) -> Section:
    novelty = section(report, "ranking", "novelty")
    far, beyond = figure(novelty, "beyond_99"), figure(novelty, "beyond_all")
    if far is None:
        return None
    return {
        "title": "Novelty of held-out states",
        "big": percent(far),
        "meaning": f"{percent(far)} of the held-out states lie farther from the critic's training states than 99% of "
        f"those do, {percent(beyond)} farther than all of them (by Mahalanobis distance of the features). Were they "
        "alike, the first would be 1%. Where it is high, Q is a guess (policy.max_novelty leaves such states out).",
    }


_RANKED = (
    ("random_candidate", "Random candidate", "random"),
    ("most_likely", "Most likely", "behaviour"),
    ("best_candidate", "Highest Q", "digiq"),
    ("any_candidate", "Any candidate", "other"),
)


def _ranking(report: Report) -> Section:
    ranking = section(report, "ranking")
    bars = [
        Bar(label, rate, interval(section(ranking, key)), variable)
        for key, label, variable in _RANKED
        if (rate := figure(ranking, key, "rate")) is not None
    ]
    if not bars:
        return None
    odd = [
        f"{count(figure(ranking, key))} times {what}"
        for key, what in (("best_is_unparsable", "no action at all"), ("best_is_noop", "an action without effect"))
        if figure(ranking, key) is not None
    ]
    note = f" The highest Q was {' and '.join(odd)}." if odd else ""
    states = figure(ranking, "states")
    return {
        "title": "Is the candidate with the highest Q right?",
        "svg": Markup(plots.interval_bars(bars, label="Ranking of candidates")),
        "meaning": f"How often each way to pick a candidate finds a right one, in {count(states)} held-out states; "
        f"“any” is the most that a ranking could reach.{note}",
    }


def _curve(values: Report) -> Section:
    curve = [row for row in values.get("curve") or () if len(row) >= 4]
    if len(curve) < 2:
        return None
    error = figure(values, "td_error")
    end = "" if error is None else f" The TD error ended at {number(error, 4)}."
    return {
        "title": "Learning Q and V",
        "svg": Markup(plots.td_curve(curve, label="Errors of the critic and mean Q over updates")),
        "meaning": f"Both errors fall and the mean of Q settles when the critic agrees with its own targets.{end}",
    }


def _distribution(values: Report) -> Section:
    success_q, failure_q = (
        [value for value in values.get(key) or () if finite(value) is not None] for key in ("q_success", "q_failure")
    )
    if not success_q and not failure_q:
        return None
    return {
        "title": "Q of what was done",
        "svg": Markup(plots.q_distribution(success_q, failure_q, label="Distribution of Q")),
        "meaning": "Actions of successful episodes led to a reward: they should lie further to the right.",
    }


def finetune(report: Report) -> Section:
    """Stage 1: does the model know which actions change the screen?"""
    stage = section(report, "finetune")
    accuracy, majority = figure(stage, "accuracy"), figure(stage, "majority")
    bars = [
        Bar(label, rate, None, variable)
        for label, rate, variable in (("Majority class", majority, "behaviour"), ("After stage 1", accuracy, "digiq"))
        if rate is not None
    ]
    charts = []
    if bars:
        share = figure(stage, "changed_share")
        changed = "" if share is None else f" {percent(share)} of all actions changed it."
        charts.append(
            {
                "title": "Does this action change the screen?",
                "svg": Markup(plots.interval_bars(bars, label="Accuracy of stage 1")),
                "meaning": "Share of right answers on held-out episodes, against always giving the more frequent "
                f"answer.{changed}",
            }
        )
        charts[0]["meaning"] += _label_words(section(stage, "labels"))
    loss = [row for row in stage.get("loss") or () if len(row) >= 2]
    if len(loss) > 1:
        svg = Markup(plots.loss_curve(loss, label="Loss of stage 1 over updates"))
        charts.append({"title": "Loss of stage 1", "svg": svg, "meaning": "It falls while the model learns to answer."})
    return {"charts": charts} if charts else None


def _label_words(labels: Report) -> str:
    """Balance and stability of the labels, as sentences to add."""
    parts = []
    if figure(labels, "changed") is not None:
        parts.append(f"labels: {count(figure(labels, 'changed'))} yes, {count(figure(labels, 'unchanged'))} no")
    for share, of, words in (
        ("idle_changed", "idle", "actions that touch nothing say yes all the same (animations, or pages that load)"),
        ("contradicted", "repeated", "repeated steps (same screen, same action) contradict their like"),
    ):
        if figure(labels, share) is not None:
            parts.append(f"{percent(figure(labels, share))} of {count(figure(labels, of))} {words}")
    return f" All {'; '.join(parts)}." if parts else ""


_FIGURES = (
    ("candidates", "k", count, "samples per state", "how often the behaviour policy was asked in each state"),
    ("candidates", "unique_per_state", lambda v: number(v, 1), "different candidates per state", "what Q can rank"),
    ("candidates", "unparsable", percent, "unparsable", "samples that are no action; never imitated"),
    ("extraction", "states", count, "states", "where a candidate could be picked"),
    ("extraction", "kept", percent, "kept", "states whose best candidate was worth imitating"),
    ("extraction", "positive_advantage", percent, "positive advantage", "states whose best candidate has Q above V"),
    ("extraction", "drawn_once", percent, "drawn once", "picked candidates that were sampled a single time"),
    ("extraction", "too_novel", percent, "too novel", "states left out as unlike what the critic learnt from"),
)


def extraction(report: Report) -> Section:
    """Candidates and best-of-N in figures, and how many items each policy learnt from."""
    tiles = [
        {"value": write(value), "label": label, "meaning": means}
        for part, key, write, label, means in _FIGURES
        if (value := figure(report, part, key)) is not None
    ]
    items = section(report, "extraction", "items")
    learnt = ", ".join(f"{policy_words(name).label} {count(finite(value))}" for name, value in items.items())
    sentence = f"Items that each policy imitated: {learnt}." if learnt else ""
    return {"tiles": tiles, "sentence": sentence} if tiles or sentence else None


def checks(report: Report) -> Section:
    """What was checked, and how many of the checks passed."""
    rows = [
        {"name": check.get("name", ""), "passed": bool(check.get("passed")), "detail": check.get("detail", "")}
        for check in report.get("checks") or ()
    ]
    if not rows:
        return None
    passed = sum(row["passed"] for row in rows)
    return {"rows": rows, "passed": passed, "all": passed == len(rows), "sentence": f"{passed} of {len(rows)} passed"}


def alarms(report: Report) -> Section:
    """What went wrong in training without ending it; an empty list says so, an older report says nothing."""
    if report.get("alarms") is None:
        return None
    rows = [
        {
            "name": str(alarm.get("name", "")).replace("_", " "),
            "stage": alarm.get("stage", ""),
            "figures": f"{compact(finite(alarm.get('value')))}, limit {compact(finite(alarm.get('limit')))}",
            "cause": alarm.get("cause", ""),
            "change": alarm.get("change", ""),
        }
        for alarm in report["alarms"]
    ]
    return {"rows": rows, "sentence": f"{len(rows)} in training" if rows else "none"}


def origin(report: Report) -> dict[str, Any]:
    """What made the report, and how to make it again."""
    return {
        "versions": [(str(name), str(version)) for name, version in section(report, "versions").items()],
        "seed": report.get("seed"),
        "config_hash": report.get("config_hash"),
        "command": f"digiq {report.get('command', 'run')} --config config.yaml",
    }
