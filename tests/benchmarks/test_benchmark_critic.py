"""The critic's benchmark compares like with like: the same losses and the same update on the same samples."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from benchmarks import _critic_runs, _critic_ways, _feature_sets, critic_training
from benchmarks._critic_original import MICRO_BATCHES, OriginalTrainer, parsed_actions, parsed_observations
from benchmarks._critic_ways import CASES, FILE, INPUTS, empty_batch, settings_of
from benchmarks._feature_ways import replay_buffers
from digiq_ray.critic.training import CriticTrainer
from digiq_ray.learner import critic as stage
from digiq_ray.learner.data import outlines
from digiq_ray.learner.paths import RunPaths
from digiq_ray.store.episodes import EpisodeStore

_COUNT, _BATCH = 12, 16
_PLAIN = {"learning_rate": 0.1, "clip": 0.0, "dropout": 0.0, "conservative": 0.0, "batch": _BATCH}
"""What makes two ways comparable: the original clips after each micro-batch, and has no conservative term."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CANDIDATES": 4, "ACTION_DIM": 16, "STATE_DIM": 6}.items():
        monkeypatch.setattr(_feature_sets, name, value)
    monkeypatch.setattr(_critic_runs, "SHARD_TRAJECTORIES", 5)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    _feature_sets.write_pickle(tmp_path / FILE, _feature_sets.trajectories(_COUNT))
    for name, inputs in INPUTS.items():
        _critic_runs.write_run(tmp_path / name, _COUNT, inputs)
    return tmp_path


class _Caught(Exception):
    pass


@pytest.fixture
def trainer_of(data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the trainer that the stage makes of a case's stores."""

    def catch(trainer: CriticTrainer, **_: Any) -> None:
        raise _Caught(trainer)

    def made(case: str, **critic: Any) -> CriticTrainer:
        monkeypatch.setattr(stage, "train", catch)
        chosen = settings_of(CASES[case], 3, q_widths=[0, 9], v_widths=[7], **critic)
        with pytest.raises(_Caught) as caught:
            stage.train_critic(data / CASES[case].inputs, chosen, lambda done, total: None)
        return caught.value.args[0]

    return made


def _same_samples(trainer: CriticTrainer, data: Path, case: str) -> Iterator[dict[str, Any]]:
    """The first batch of ``trainer``, as the original's micro-batches."""
    episodes = outlines(EpisodeStore(RunPaths(data / CASES[case].inputs).episodes))
    texts = [text for one in episodes for text in one.actions]
    found = replay_buffers(data / FILE)
    samples = {one[i]["action"]: one[i] for one in (found.train, found.validation) for i in range(len(one))}
    rows = np.random.default_rng([trainer._seed, 0]).integers(len(trainer.data), size=_BATCH)
    for part in np.split(rows, MICRO_BATCHES):
        yield default_collate([samples[texts[row]] for row in part])


@pytest.mark.parametrize("case", CASES)
def test_an_update_has_the_same_losses_and_gradients_both_ways(case: str, data: Path, trainer_of: Any) -> None:
    ours = trainer_of(case, **_PLAIN)
    theirs = OriginalTrainer(
        copy.deepcopy(ours.critic), copy.deepcopy(ours.target), ours.settings, INPUTS[CASES[case].inputs]
    )
    for trainer in (ours, theirs):  # moves weights by the gradient, where Adam divides by its size
        trainer.optimizer = torch.optim.SGD(trainer.critic.parameters(), ours.settings.learning_rate)
    before = copy.deepcopy(ours.critic)
    other = theirs.update(_same_samples(ours, data, case))
    one, exact = ours.step(0), ours.settings.precision == "float32"
    for name, error in (("q", "td_error"), ("v", "v_error")):
        assert (other[f"{name}1.loss"] + other[f"{name}2.loss"]) / 2 == pytest.approx(
            one[error] ** 2, rel=1e-4 if exact else 2e-2
        )
    moved = max(
        float((mine - start).detach().abs().max())
        for start, mine in zip(before.parameters(), ours.critic.parameters(), strict=True)
    )
    assert moved > 1e-3
    near = 1e-6 if exact else 0.05 * moved
    for kept, other_kept in ((ours.critic, theirs.critic), (ours.target, theirs.target)):
        for mine, its in zip(kept.parameters(), other_kept.parameters(), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=near)


def test_the_released_heads_see_as_many_numbers_as_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    q, v = INPUTS["released"](*empty_batch())
    assert (q.shape[1], v.shape[1]) == (10_752, 5_120)


def test_texts_are_parsed_as_in_the_released_code() -> None:
    tap = '"action_type": "DUAL_POINT", "touch_point": "[0.5, 0.2]", "lift_point": "[0.5, 0.2]", "typed_text": "a"'
    assert parsed_actions([f"Action Plan: [TYPE] ; Action Decision: {tap}", "no action", ""]) == (
        ["DUAL_POINT", "no action", ""],
        ["a", "no action", ""],
    )
    observations = [f"Previous Actions: {tap} Goal: Go to ebay.com</s>", "Previous Actions: Goal: x</s>", "?"]
    assert parsed_observations(observations) == ([f"{tap} ", "", ""], ["Go to ebay.com", "x", ""])


@pytest.mark.parametrize("way", _critic_ways.WAYS)
def test_a_way_is_measured(way: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _critic_ways.main(way, "paper", str(data), "2")
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["update_s"] > 0
    assert found["peak_mb"] > 10


def test_ratios_have_the_names_of_the_design() -> None:
    found = {f"{case}, {way}": [_figures(case, way)] for case, way in critic_training.RUNS}
    ratios = critic_training.report(found).ratios
    assert ratios["legacy_speedup"].median == ratios["paper_speedup"].median == pytest.approx(4.0)
    assert ratios["legacy_validated_speedup"].median == pytest.approx(8.0)
    assert ratios["peak_memory_ratio"].median == pytest.approx(3.0)


def _figures(case: str, way: str) -> dict[str, float]:
    rate = {"ours": 80.0, "original": 20.0, "original_validated": 10.0}[way]
    seconds, peak = 128 / rate, 100.0 if way == "ours" else 300.0
    return {"samples_per_second": rate, "update_s": seconds, "update_cpu_s": seconds, "peak_mb": peak}


def test_a_way_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(SystemExit, match="paper, ours failed"):
        critic_training.run("paper", "ours", tmp_path, 1)
