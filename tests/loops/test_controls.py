"""The recipe with every control that there is, serially: each has a result, and re-ranking needs no training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from small_recipe import report_of, small_settings

from digiq_ray.core.settings import Control
from digiq_ray.loops.demo import whole_run
from digiq_ray.loops.evaluate import policies_of
from digiq_ray.loops.run import Run
from digiq_ray.store.episodes import EpisodeStore

pytestmark = pytest.mark.slow
TRAINED = {"digi_q", *get_args(Control)} - {"q_rerank"}
MORE = [f"policy.controls=[{','.join(get_args(Control))}]", "policy.digirl_share=0.5", "critic.steps=30"]


class Quiet:
    """Shows nothing."""

    def watch(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: None

    def stage(self, name: str, meaning: str, seconds: float, rows: int, skipped: bool) -> None:
        """Nobody wants to know."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("runs") / "run"
    whole_run("run", found, small_settings(*MORE), serial=True, show=Quiet())
    return found


def test_every_control_has_a_result(root: Path) -> None:
    policies = report_of(root)["policies"]
    assert set(policies) == {"behaviour", *TRAINED, "q_rerank"}
    assert {name for name, result in policies.items() if "greedy" not in result} == {"q_rerank"}
    assert {result["n"] for result in policies.values()} == {12}


def test_each_method_says_what_it_learnt_from_and_how_far_it_moved(root: Path) -> None:
    record = Run(root, small_settings(*MORE)).record("train-policy")
    assert record is not None
    assert set(record.figures) - {"rows"} == TRAINED
    for name in TRAINED:
        figures = record.figures[name]
        assert figures["items"] > 0
        assert figures["kl"] >= 0.0
        if name != "reinforce":
            assert figures["mean_weight"] == pytest.approx(1.0)
    assert set(report_of(root)["extraction"]["items"]) == TRAINED


def test_re_ranking_acts_by_the_behaviour_policy_and_can_be_scored_elsewhere(root: Path) -> None:
    assert set(policies_of(root)) == {"behaviour", *TRAINED, "q_rerank"}
    assert not (root / "models" / "q_rerank").exists()
    played = EpisodeStore(root / "evaluation" / "q_rerank" / "sampled")
    versions = {episode.policy_version for episode in played.episodes()}
    assert versions == {episode.policy_version for episode in EpisodeStore(root / "episodes").episodes()}
