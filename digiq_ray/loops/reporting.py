"""From the records of a run's stages to ``report.json``: figures as they were measured, and checks on them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from digiq_ray import __version__
from digiq_ray.evaluation.statistics import intervals_apart
from digiq_ray.loops.alarms import stage_alarms
from digiq_ray.loops.offline import RECIPE
from digiq_ray.loops.run import Run, StageRecord

_LIBRARIES = ("ray", "torch", "transformers")
_CURVES = ("loss", "curve", "q_success", "q_failure")
_OF_EACH = ("items", "mean_weight", "kl")  # of the extraction, told for every trained policy


def build_report(
    command: str, run: Run, records: Mapping[str, StageRecord], *, seconds: float, peak_memory_mb: float
) -> dict[str, Any]:
    """The report of a finished run.

    Args:
        command: What was called.
        run, records: The run and its stages.
        seconds: Wall time of this call; a run that was continued has its stages' own times beside it.
        peak_memory_mb: Largest memory of all processes together in this call.
    """
    settings = run.settings
    evaluated = records["evaluate"].figures
    policies = {name: value for name, value in evaluated.items() if name != "rows"}
    trained = records["train-policy"].figures
    critic = records["train-critic"].figures
    report: dict[str, Any] = {
        "command": command,
        "seed": settings.seed,
        "task_set": settings.tasks.set,
        "config_hash": run.config_hash,
        "versions": versions(),
        "policies": policies,
        "stages": [
            {
                "name": stage.name,
                "seconds": records[stage.name].seconds,
                "rows": records[stage.name].rows,
                "skipped": records[stage.name].skipped,
                "meaning": stage.meaning,
            }
            for stage in RECIPE
            if stage.name in records
        ],
        "collect": records["collect"].figures,
        "candidates": _without_rows(records["candidates"].figures),
        "features": _without_rows(records["embed"].figures),
        "finetune": _without_rows(records["finetune"].figures),
        "critic": _without_rows(critic),
        "extraction": {
            **{k: v for k, v in trained["digi_q"].items() if k not in (*_CURVES, *_OF_EACH, "rows")},
            **{key: {name: one[key] for name, one in trained.items() if name != "rows"} for key in _OF_EACH},
        },
    }
    if "rank" in records:
        report["ranking"] = _without_rows(records["rank"].figures)
    report["alarms"] = [
        alarm.to_json() for name, record in records.items() for alarm in stage_alarms(name, record.figures)
    ]
    report["checks"] = checks(report)
    report["peak_memory_mb"] = round(peak_memory_mb)
    report["seconds"] = round(seconds, 1)
    return report


def versions() -> dict[str, str]:
    """What made a result: this package and the libraries that it stands on."""
    return {"digiq_ray": __version__} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def checks(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What has to hold for the result to mean something, and whether it does."""
    policies = report["policies"]
    new, old = policies["digi_q"], policies["behaviour"]
    found = [
        _gain("Digi-Q at least 20 points above the behaviour policy", new, old, 0.20),
        _check(
            "no episode was lost to the infrastructure",
            sum(policy["infra_errors"] for policy in policies.values()) == 0,
            f"{sum(policy['infra_errors'] for policy in policies.values())} infrastructure errors",
        ),
    ]
    if "random_candidate" in policies:
        control = policies["random_candidate"]
        found.insert(1, _gain("Digi-Q at least 10 points above a random candidate", new, control, 0.10))
    if new.get("relearned") and old.get("relearned"):
        found.append(_gain("better on the tasks that pre-training gets wrong", new["relearned"], old["relearned"], 0.0))
    if "ranking" in report:
        ranking = report["ranking"]
        best, random_, likely = (ranking[name] for name in ("best_candidate", "random_candidate", "most_likely"))
        found.append(
            _check(
                "the critic's favourite makes progress more often than a random or the likeliest candidate",
                intervals_apart(best["ci95"], random_["ci95"]) and best["rate"] > max(random_["rate"], likely["rate"]),
                f"{best['rate']:.0%} against {random_['rate']:.0%} and {likely['rate']:.0%}",
            )
        )
        found.append(
            _check(
                "the critic's favourite is an action that does something",
                ranking["best_is_unparsable"] == 0 and ranking["best_is_noop"] <= 0.05 * ranking["states"],
                f"{ranking['best_is_unparsable']} unparsable, {ranking['best_is_noop']} idle of {ranking['states']}",
            )
        )
    return found


def _gain(name: str, new: Mapping[str, Any], old: Mapping[str, Any], least: float) -> dict[str, Any]:
    gain = new["success_rate"] - old["success_rate"]
    apart = intervals_apart(new["ci95"], old["ci95"])
    detail = f"{100 * gain:+.1f} points, intervals {'apart' if apart else 'overlap'}"
    return _check(name, gain >= least and gain > 0 and apart, detail)


def _check(name: str, passed: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "passed": bool(passed), "detail": detail}


def _without_rows(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != "rows"}
