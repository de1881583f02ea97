"""A full report with made-up figures, as the loops write it, and screens for film strips."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from digiq_ray.evaluation.statistics import wilson


def rate(successes: int, n: int) -> dict[str, Any]:
    return {"success_rate": successes / n, "successes": successes, "n": n, "ci95": list(wilson(successes, n))}


def policy(successes: int) -> dict[str, Any]:
    whole = {
        **rate(successes, 200),
        "infra_errors": 1,
        "tasks": "general/test",
        "unique_tasks": 120,
        "by_kind": {"open": rate(successes // 2, 100), "alarm": rate(successes // 2, 100)},
        "relearned": rate(successes // 2, 100),
        "stop_reasons": {"success": successes, "time_limit": 200 - successes},
        "mean_length": 6.25,
    }
    return {**whole, "greedy": dict(whole)}


def ranked(successes: int) -> dict[str, Any]:
    return {"rate": successes / 300, "successes": successes, "n": 300, "ci95": list(wilson(successes, 300))}


@pytest.fixture
def full_report(report_of_a_run: dict[str, Any]) -> dict[str, Any]:
    """A report that the test may change."""
    return copy.deepcopy(report_of_a_run)


@pytest.fixture(scope="session")
def report_of_a_run() -> dict[str, Any]:
    rng = random.Random(0)
    return {
        "command": "demo",
        "seed": 7,
        "task_set": "general",
        "config_hash": "4f1d9c22",
        "versions": {"digiq_ray": "0.1.0", "torch": "2.13.0"},
        "policies": {
            "digi_q": policy(130),
            "behaviour": policy(62),
            "random_candidate": policy(66),
            "filtered_bc": policy(90),
        },
        "stages": [
            {"name": "collect", "seconds": 30.0, "rows": 9000, "skipped": False, "meaning": "episodes are recorded"},
            {"name": "embed", "seconds": 0.0, "rows": 100, "skipped": True, "meaning": "features are made"},
            {"name": "evaluate", "seconds": 90.0, "rows": 1600, "skipped": False, "meaning": "policies are scored"},
        ],
        "finetune": {
            "accuracy": 0.9,
            "majority": 0.7,
            "changed_share": 0.7,
            "loss": [[i, 1 / (i + 1)] for i in range(9)],
        },
        "critic": {
            "action_sensitivity": 0.42,
            "variance_over_actions": 0.0121,
            "variance_over_states": 0.0288,
            "td_error": 0.0134,
            "curve": [[i, 1 / (i + 1), 0.5 / (i + 1), i / 20] for i in range(9)],
            "q_success": [rng.uniform(0.3, 0.9) for _ in range(50)],
            "q_failure": [rng.uniform(0.0, 0.6) for _ in range(50)],
        },
        "ranking": {
            "states": 300,
            "best_candidate": ranked(234),
            "random_candidate": ranked(123),
            "most_likely": ranked(141),
            "any_candidate": ranked(279),
            "best_is_unparsable": 0,
            "best_is_noop": 3,
            "novelty": {"median": 0.6, "beyond_90": 0.2, "beyond_99": 0.035, "beyond_limit": 0.0, "beyond_all": 0.004},
        },
        "extraction": {
            "states": 4000,
            "kept": 0.8,
            "positive_advantage": 0.72,
            "drawn_once": 0.1,
            "items": {"digi_q": 3210, "filtered_bc": 3211},
            "mean_weight": {"digi_q": 1.0, "filtered_bc": 0.625},
            "kl": {"digi_q": 0.4375, "filtered_bc": 0.3125},
            "too_novel": 0.0,
        },
        "candidates": {"k": 16, "unique_per_state": 8.3, "unparsable": 0.05},
        "checks": [
            {"name": "Digi-Q above behaviour", "passed": True, "detail": "+34 points"},
            {"name": "the critic ranks", "passed": False, "detail": "by 5 points only"},
        ],
        "peak_memory_mb": 3012,
        "seconds": 125.0,
    }


@pytest.fixture(scope="session")
def make_screen() -> Callable[..., bytes]:
    """PNG bytes: one colour, or noise that no format makes small."""

    def make(width: int = 96, height: int = 192, *, noise: bool = False) -> bytes:
        image = Image.effect_noise((width, height), 90) if noise else Image.new("RGB", (width, height), "teal")
        written = io.BytesIO()
        image.save(written, "PNG")
        return written.getvalue()

    return make
