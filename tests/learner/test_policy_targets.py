"""What each method imitates: best-of-N and its controls."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import CANDIDATES, EXECUTED, make_run, make_settings

from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner import policy
from digiq_ray.learner.material import Material
from digiq_ray.learner.policy import extract
from digiq_ray.store.features import FeatureStore

EXECUTED_AT = {(name, step): text for name, texts in EXECUTED.items() for step, text in enumerate(texts)}


class KnownCritic:
    """Reads Q and V off the features."""

    def q(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, 0]

    v = q


@pytest.fixture(autouse=True)
def known_critic(monkeypatch):
    monkeypatch.setattr(policy, "load_critic", lambda directory: KnownCritic())


def targets_of(method: str, root: Path, settings: RunSettings) -> tuple[dict[tuple[str, int], str], dict[str, Any]]:
    """What a method imitates, and the figures about it."""
    found = extract(method, Material.open(root), root, settings, lambda done, total: None)
    return found.targets, found.figures


def valid(key: tuple[str, int]) -> set[str]:
    return {text for text in CANDIDATES[key] if text != "tap red"}


def test_digi_q_imitates_the_best_supported_valid_candidate_that_beats_its_state(tmp_path):
    make_run(tmp_path)
    targets, figures = targets_of("digi_q", tmp_path, make_settings())
    assert targets == {
        ("cut", 0): "back",
        ("cut", 1): "enter",
        ("win", 0): "tap 0.10 0.10",
        ("win", 1): "back",
    }
    assert figures == {
        "states": 5,
        "kept": 0.8,
        "positive_advantage": 0.8,
        "drawn_once": 0.0,
        "too_novel": 0.0,
        "items": 4,
        "mean_weight": 1.0,
    }


def test_without_a_rule_on_support_the_rare_candidate_wins(tmp_path):
    make_run(tmp_path)
    settings = make_settings(policy={"min_support": 1, "support_radius": 0.0})
    targets, figures = targets_of("digi_q", tmp_path, settings)
    assert targets["win", 0] == "tap 0.90 0.90"
    assert figures["drawn_once"] == 0.25


#: ``tap 0.90 0.90`` was drawn once, and is likelier than that says.
PROBABILITIES = {"home": 0.45, "back": 0.5, "enter": 0.3, "wait": 0.9, "tap 0.10 0.10": 0.2, "tap 0.90 0.90": 0.25}


def test_support_may_be_a_probability_instead_of_draws(tmp_path):
    make_run(tmp_path, probabilities=PROBABILITIES)
    found = {}
    for least in (0.24, 0.26):
        settings = make_settings(policy={"min_support": 1, "min_probability": least, "support_radius": 0.0})
        found[least], _ = targets_of("digi_q", tmp_path, settings)
    assert found[0.24]["win", 0] == "tap 0.90 0.90"
    assert ("win", 0) not in found[0.26]  # only home is as likely, and its Q is below V
    assert found[0.26]["cut", 0] == "back"


def test_a_probability_of_candidates_that_have_none_is_a_typed_error(tmp_path):
    make_run(tmp_path)
    settings = make_settings(policy={"min_support": 1, "min_probability": 0.2})
    with pytest.raises(InputError, match=r"no log-probabilities: .*policy.min_support"):
        targets_of("digi_q", tmp_path, settings)


class KnownNovelty:
    """The first state in the store is the most novel one."""

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return torch.linspace(1.0, 0.0, len(features))


def test_states_beyond_the_limit_of_novelty_are_left_out_and_counted(tmp_path, monkeypatch):
    paths = make_run(tmp_path)
    asked = []
    monkeypatch.setattr(policy, "load_novelty", lambda directory: asked.append(directory) or KnownNovelty())
    limited = {"min_support": 2, "support_radius": 0.0, "max_novelty": 0.9}
    whole, _ = targets_of("digi_q", tmp_path, make_settings())
    assert asked == []
    targets, figures = targets_of("digi_q", tmp_path, make_settings(policy=limited))
    assert asked == [paths.model("critic")]
    first = min(Material.open(tmp_path).index.states.items(), key=lambda one: one[1])[0]
    assert targets == {key: text for key, text in whole.items() if key != first}
    assert (figures["too_novel"], figures["states"]) == (0.2, 4)
    control, _ = targets_of("random_candidate", tmp_path, make_settings(policy=limited))
    assert control.keys() == targets.keys()


def test_the_margin_is_that_of_the_settings(tmp_path):
    make_run(tmp_path)
    settings = make_settings(policy={"min_support": 2, "support_radius": 0.0, "margin": 0.25})
    assert set(targets_of("digi_q", tmp_path, settings)[0]) == {("cut", 0), ("win", 1)}


def test_a_random_candidate_is_imitated_in_the_same_states(tmp_path):
    make_run(tmp_path)
    best, _ = targets_of("digi_q", tmp_path, make_settings())
    seen = {key: set() for key in best}
    for seed in range(30):
        targets, figures = targets_of("random_candidate", tmp_path, make_settings(seed=seed))
        assert targets.keys() == best.keys()
        assert figures["items"] == len(best)
        for key, text in targets.items():
            seen[key].add(text)
    assert seen == {key: valid(key) for key in best}


def test_the_random_candidate_is_the_same_for_the_same_seed(tmp_path):
    make_run(tmp_path)
    one, other = (targets_of("random_candidate", tmp_path, make_settings(seed=3))[0] for _ in range(2))
    assert one == other


def test_where_only_unparsable_ones_were_drawn_both_keep_the_executed_action(tmp_path):
    make_run(tmp_path, CANDIDATES | {("stop", 0): {"complete": (0, 0.9), "tap red": (8, 1.0)}})
    for method in ("digi_q", "random_candidate"):
        assert targets_of(method, tmp_path, make_settings())[0]["stop", 0] == "complete"


def test_filtered_bc_imitates_what_was_executed_in_successful_episodes(tmp_path):
    make_run(tmp_path)
    targets, figures = targets_of("filtered_bc", tmp_path, make_settings())
    assert targets == {("win", 0): "tap 0.10 0.10", ("win", 1): "back"}
    assert figures == {"items": 2, "mean_weight": 1.0}


def test_nothing_to_imitate_is_a_typed_error(tmp_path):
    make_run(tmp_path)
    settings = make_settings(policy={"min_support": 2, "margin": 9.0})
    with pytest.raises(StoreError, match=r"digi_q finds nothing to imitate: .*collect more episodes"):
        targets_of("digi_q", tmp_path, settings)


def test_an_episode_with_a_state_without_candidates_is_left_out(tmp_path):
    make_run(tmp_path, {key: value for key, value in CANDIDATES.items() if key != ("cut", 1)})
    targets, _ = targets_of("digi_q", tmp_path, make_settings(policy={"min_support": 1}))
    assert targets == {("win", 0): "tap 0.90 0.90", ("win", 1): "back"}


@pytest.mark.parametrize("method", ["digi_q", "random_candidate", "filtered_bc", "awr", "reinforce", "digirl", "mc"])
def test_without_a_success_every_method_says_what_is_missing(tmp_path, method):
    make_run(tmp_path, {key: value for key, value in CANDIDATES.items() if key[0] != "win"})
    with pytest.raises(StoreError, match=rf"{method} finds nothing to imitate: none of 2 episodes .*collect\.episodes"):
        targets_of(method, tmp_path, make_settings())


@pytest.mark.parametrize("method", ["digi_q", "random_candidate"])
def test_one_candidate_leaves_nothing_to_choose(tmp_path, method):
    make_run(tmp_path, {key: {text: (8, 0.9)} for key, text in EXECUTED_AT.items()})
    with pytest.raises(StoreError, match=rf"{method} has nothing to choose from: .*candidates\.k"):
        targets_of(method, tmp_path, make_settings())
    assert len(targets_of("filtered_bc", tmp_path, make_settings())[0]) == 2


def test_an_unparsable_text_is_no_choice(tmp_path):
    options = {key: {text: (8, 0.9), "tap red": (8, 0.9)} for key, text in EXECUTED_AT.items()}
    make_run(tmp_path, options)
    with pytest.raises(StoreError, match="no state has two different candidates that are actions"):
        targets_of("digi_q", tmp_path, make_settings())


def test_a_candidate_without_a_feature_is_never_chosen(tmp_path):
    paths = make_run(tmp_path)
    more = make_run(
        tmp_path / "more", CANDIDATES | {("cut", 0): {"home": (4, 0.2), "back": (2, 0.8), "wait": (2, 9.0)}}
    )
    more.features.rename(tmp_path / "unused")
    paths.features.rename(more.features)
    targets, _ = targets_of("digi_q", more.root, make_settings(policy={"min_support": 1}))
    assert targets[("cut", 0)] == "back"


def test_missing_features_are_a_typed_error(tmp_path):
    paths = make_run(tmp_path)
    for kind in ("states", "actions"):
        for file in FeatureStore(paths.features / kind).path.iterdir():
            file.unlink()
    with pytest.raises(StoreError, match="holds no features; embed them first"):
        targets_of("digi_q", tmp_path, make_settings())
