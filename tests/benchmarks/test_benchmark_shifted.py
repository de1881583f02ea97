"""The benchmark of shifted phones: its figures, and that it leaves the run that it reads as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.shifted import CRITICS, DEFAULT, EXTRACTIONS, PLAYED, SEEN, SETS, Shifted, auroc, styled
from digiq_ray.core.errors import InputError
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner.models import load_critic
from digiq_ray.vlm.tiny import SHIPPED
from emulator_workers.simphone.tasks import build
from tests.learner.small_runs import fingerprint_of_settings, make_run, make_settings


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
    assert auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 0.0
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert auroc(np.array([0.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx(0.625)


def test_every_way_is_a_setting_that_there_is():
    for chosen in CRITICS.values():
        RunSettings(critic=chosen)
    for chosen in EXTRACTIONS.values():
        RunSettings(policy=chosen)
    assert set(PLAYED) <= set(SETS)


def test_shifted_phones_look_different_and_are_judged_alike():
    task = next(iter(build("general", "test", 1)))
    screens = {}
    for name, style in SETS.items():
        environment = styled("updated", style)
        screens[name] = environment.reset(task).screen
        environment.close()
    assert len(set(screens.values())) == len(SETS)


def test_a_critic_is_trained_once_and_the_run_stays_as_it_is(tmp_path: Path):
    run = tmp_path / "run"
    paths = make_run(run, fingerprint=fingerprint_of_settings())
    paths.model("feature_vlm").parent.mkdir()
    paths.model("feature_vlm").symlink_to(SHIPPED)
    before = sorted(path for path in run.rglob("*"))
    settings = make_settings()
    shifted = Shifted(run, settings, seeds=2, root=tmp_path / "out")
    told: list[int] = []
    first, other = (shifted.train(DEFAULT, seed, lambda done, total: told.append(done)) for seed in shifted.seeds)
    steps = len(told)
    assert steps == 2 * settings.critic.steps
    assert shifted.train(DEFAULT, shifted.seeds[0], lambda done, total: told.append(done)) == first != other
    assert len(told) == steps
    load_critic(first)
    assert sorted(path for path in run.rglob("*")) == before
    shifted.close()


def test_a_run_without_features_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="has no features and no feature model"):
        Shifted(tmp_path, RunSettings(), seeds=1, root=tmp_path / "out")
    assert SEEN in SETS
