"""Training a policy from the stores, and stage 1 before it: what they publish, and that a kill changes nothing."""

from typing import get_args

import pytest
import torch
from safetensors.torch import load_file
from small_runs import EXECUTED, make_run, make_settings, png
from transformers import AutoModelForImageTextToText

from digiq_ray.core.errors import CheckpointMismatchError, StoreError
from digiq_ray.core.settings import Control
from digiq_ray.diagnostics.alarms import finetune_alarms
from digiq_ray.learner import policy
from digiq_ray.learner.policy import train_policy
from digiq_ray.learner.stage1 import finetune, label, picture, screen_distance
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.vlm.batching import answer_logprobs
from digiq_ray.vlm.images import Fit
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import make_vlm


def nothing(done: int, total: int) -> None:
    """Nobody wants to know."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Where a small random VLM lies."""
    path = tmp_path_factory.mktemp("vlm")
    make_vlm(["red", "shop"], hidden=16, layers=2, vision=16, vision_layers=1, seed=1).save(path, version="base")
    return str(path)


@pytest.fixture(autouse=True)
def known_critic(monkeypatch):
    class KnownCritic:
        def q(self, features):
            return features[:, 0]

        v = q

    monkeypatch.setattr(policy, "load_critic", lambda directory: KnownCritic())


def settings_of(model: str, **sections):
    return make_settings(vlm={"model": model}, **sections)


def weights(path) -> list[torch.Tensor]:
    return list(Vlm.load(path).model.state_dict().values())


def probability(vlm: Vlm, text: str) -> float:
    screen = vlm.transform.prepare(png((200, 60, 10)))
    prompt = [*vlm.prefix_ids(screen, "shop red", ("tap 0.10 0.10",)), *vlm.act_ids()]
    with torch.no_grad():
        logprobs, _ = answer_logprobs(vlm, [screen], [prompt], [vlm.answer_ids(text)])
    return float(logprobs.sum().exp())


def test_the_policy_is_published_under_its_method_and_has_learned(tmp_path, model):
    paths, seen = make_run(tmp_path), []
    chosen = {"steps": 60, "batch": 4, "min_support": 2, "support_radius": 0.0, "learning_rate": 5e-3}
    figures = train_policy(
        tmp_path, "digi_q", settings_of(model, policy=chosen), lambda done, total: seen.append((done, total))
    )
    trained = Vlm.load(paths.model("digi_q"))
    assert trained.version == f"digi_q-1-{trained.weights_hash}"
    assert probability(trained, "back") > 10 * probability(Vlm.load(model), "back")
    assert (figures["rows"], figures["items"], figures["states"]) == (4, 4, 5)
    assert figures["loss"][-1][1] < figures["loss"][0][1]
    assert seen[-1] == (60, 60)


def test_all_methods_make_the_same_number_of_updates(tmp_path, model):
    make_run(tmp_path)
    for method in ("digi_q", *get_args(Control)):
        seen, settings = [], settings_of(model)
        train_policy(tmp_path, method, settings, lambda done, total, s=seen: s.append((done, total)))
        before = settings.critic.steps if method in ("mc", "digirl") else 0
        assert seen == [(done, before + 4) for done in range(1, before + 5)], method


def test_the_divergence_is_0_without_learning_and_grows_with_it(tmp_path, model):
    moved = []
    for steps, rate in ((1, 1e-12), (4, 1e-3), (40, 5e-3)):
        root = make_run(tmp_path / str(steps)).root
        chosen = {"steps": steps, "batch": 4, "min_support": 2, "support_radius": 0.0, "learning_rate": rate}
        moved.append(train_policy(root, "digi_q", settings_of(model, policy=chosen), nothing)["kl"])
    assert moved[0] == pytest.approx(0.0, abs=1e-6)
    assert moved[0] < moved[1] < moved[2]


def test_a_policy_training_that_is_killed_and_repeated_publishes_the_same_weights(tmp_path, model):
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done == 3:
            raise Killed

    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    figures = train_policy(whole.root, "digi_q", settings_of(model), nothing)
    with pytest.raises(Killed):
        train_policy(killed.root, "digi_q", settings_of(model), kill)
    assert train_policy(killed.root, "digi_q", settings_of(model), nothing) == figures
    pairs = zip(weights(whole.model("digi_q")), weights(killed.model("digi_q")), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_adapters_that_are_killed_and_repeated_publish_the_same_whole_model(tmp_path, model):
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done == 3:
            raise Killed

    settings = settings_of(model, tuning={"method": "lora", "rank": 2, "dropout": 0.2, "checkpointing": True})
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    figures = train_policy(whole.root, "digi_q", settings, nothing)
    with pytest.raises(Killed):
        train_policy(killed.root, "digi_q", settings, kill)
    (checkpoint,) = killed.checkpoints("digi_q").rglob("*.safetensors")
    held = [name for name in load_file(checkpoint) if name.startswith("module/")]
    assert held, "what is trained is there"
    assert all("/lora_" in name for name in held), "and nothing else"
    assert train_policy(killed.root, "digi_q", settings, nothing) == figures
    for one, other in zip(weights(whole.model("digi_q")), weights(killed.model("digi_q")), strict=True):
        assert torch.equal(one, other)
    moved = zip(weights(model), weights(whole.model("digi_q")), strict=True)
    assert any(not torch.equal(one, other) for one, other in moved)
    loaded, info = AutoModelForImageTextToText.from_pretrained(whole.model("digi_q"), output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for one, other in zip(loaded.state_dict().values(), weights(whole.model("digi_q")), strict=True):
        assert torch.equal(one, other)


def test_a_policy_does_not_go_on_with_adapters_but_may_with_less_memory(tmp_path, model):
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done == 3:
            raise Killed

    paths = make_run(tmp_path)
    with pytest.raises(Killed):
        train_policy(paths.root, "digi_q", settings_of(model), kill)
    with pytest.raises(CheckpointMismatchError, match=r"configuration\.tuning\.method was 'full' and is 'lora'"):
        train_policy(paths.root, "digi_q", settings_of(model, tuning={"method": "lora"}), nothing)
    train_policy(paths.root, "digi_q", settings_of(model, tuning={"checkpointing": True}), nothing)


# Stage 1.


def test_stage_1_trains_adapters_and_a_kill_changes_nothing(tmp_path, model):
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done == 5:
            raise Killed

    chosen = {"steps": 8, "batch": 4, "patience": 3, "evaluate_every": 2, "learning_rate": 5e-3}
    settings = settings_of(model, finetune=chosen, tuning={"method": "lora", "dropout": 0.1})
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    figures = finetune(whole.root, settings, nothing)
    assert figures["loss"][-1][1] < figures["loss"][0][1]
    with pytest.raises(Killed):
        finetune(killed.root, settings, kill)
    assert finetune(killed.root, settings, nothing) == figures
    pairs = zip(weights(whole.model("feature_vlm")), weights(killed.model("feature_vlm")), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_labels_come_from_the_pixels_before_and_after(tmp_path, model):
    paths = make_run(tmp_path)
    training, held_out, distances = label(EpisodeStore(paths.episodes), Vlm.load(model), settings_of(model))
    examples = training + held_out
    assert sorted(example.action for example in examples) == sorted(t for texts in EXECUTED.values() for t in texts)
    assert all(example.changed for example in examples), "each screen of these episodes has another colour"
    strict = settings_of(model, finetune={"steps": 4, "threshold": max(distances) + 1})
    training, held_out, _ = label(EpisodeStore(paths.episodes), Vlm.load(model), strict)
    assert not any(example.changed for example in training + held_out)


def test_whole_episodes_are_held_out(tmp_path, model):
    paths, vlm = make_run(tmp_path), Vlm.load(model)
    episode_of = {text: name for name, texts in EXECUTED.items() for text in texts}
    splits = set()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        settings = settings_of(model, finetune={"held_out": share})
        training, held_out, _ = label(EpisodeStore(paths.episodes), vlm, settings)
        kept, aside = ({episode_of[one.action] for one in part} for part in (training, held_out))
        assert kept.isdisjoint(aside)
        assert len(training) + len(held_out) == len(episode_of)
        splits.add((len(kept), len(aside)))
    assert any(kept and aside for kept, aside in splits), "some share splits the three episodes"


def test_stage_1_publishes_a_model_and_measures_it_on_held_out_episodes(tmp_path, model):
    paths = make_run(tmp_path)
    figures = finetune(tmp_path, settings_of(model, finetune={"steps": 30, "batch": 4, "held_out": 0.5}), nothing)
    assert Vlm.load(paths.model("feature_vlm")).version == "feature_vlm"
    assert figures["rows"] == 5
    assert figures["majority"] == figures["changed_share"] == 1.0
    assert figures["accuracy"] == 1.0
    assert figures["loss"][-1][1] < figures["loss"][0][1]


def test_stage_1_of_no_updates_keeps_the_weights(tmp_path, model):
    paths = make_run(tmp_path)
    figures = finetune(tmp_path, settings_of(model, finetune={"steps": 0}), nothing)
    assert all(torch.equal(a, b) for a, b in zip(weights(paths.model("feature_vlm")), weights(model), strict=True))
    assert figures["loss"] == []
    assert figures["accuracy"] == figures["accuracy_before"]


def test_stage_1_without_a_step_is_a_typed_error(tmp_path, model):
    EpisodeStore.create(tmp_path / "episodes")
    with pytest.raises(StoreError, match="holds no step to learn from: collect episodes first"):
        finetune(tmp_path, settings_of(model), nothing)


def test_labels_can_leave_regions_out_and_use_another_metric(tmp_path, model):
    paths, seen = make_run(tmp_path), []
    whole = settings_of(model, finetune={"ignore_boxes": [[0.0, 0.0, 1.0, 0.9]], "ignore_top": 0.0})
    _, _, distances = label(EpisodeStore(paths.episodes), Vlm.load(model), whole, seen)
    assert len(seen) == len(distances) == 5
    absolute = settings_of(model, finetune={"metric": "mae", "threshold": 5})
    _, _, smaller = label(EpisodeStore(paths.episodes), Vlm.load(model), absolute)
    assert all(0 < one < other for one, other in zip(smaller, distances, strict=True))


def test_stage_1_reports_its_labels_and_warns_of_one_class(tmp_path, model):
    make_run(tmp_path)
    figures = finetune(tmp_path, settings_of(model), nothing)
    assert (figures["labels"]["changed"], figures["labels"]["unchanged"], figures["labels"]["idle"]) == (5, 0, 2)
    assert [alarm.name for alarm in finetune_alarms(figures)] == ["labels_degenerate"]
    assert figures["updates"] == 4
    assert figures["accuracy_curve"] == []


def test_stage_1_stops_early_and_a_kill_changes_nothing(tmp_path, model):
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done == 5:
            raise Killed

    chosen = {"steps": 30, "batch": 4, "patience": 3, "evaluate_every": 2}
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    figures = finetune(whole.root, settings_of(model, finetune=chosen), nothing)
    assert figures["updates"] < 30
    assert len(figures["accuracy_curve"]) == figures["updates"] // 2
    with pytest.raises(Killed):
        finetune(killed.root, settings_of(model, finetune=chosen), kill)
    assert finetune(killed.root, settings_of(model, finetune=chosen), nothing) == figures
    pairs = zip(weights(whole.model("feature_vlm")), weights(killed.model("feature_vlm")), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_large_screen_is_compared_as_a_whole_at_a_quarter_of_its_size():
    prepared = {"pixel_values": torch.zeros(3, 336, 336, dtype=torch.uint8)}
    compared = picture(png((200, 0, 0), size=(1080, 2280)), prepared, Fit.LETTERBOX)
    assert compared.shape == (3, 570, 270)
    assert compared[0].unique().tolist() == [200]


def test_a_small_picture_of_the_whole_screen_is_compared_as_it_is():
    prepared = torch.zeros(3, 96, 96, dtype=torch.uint8)
    assert picture(b"not read", {"pixel_values": prepared}, Fit.STRETCH) is prepared


def test_a_screen_that_was_turned_has_changed():
    upright, turned = torch.zeros(3, 20, 10), torch.zeros(3, 10, 20)
    assert screen_distance(upright, turned, 0.0) == 255.0**2
    assert screen_distance(upright, upright + 2, 0.0) == 4.0
