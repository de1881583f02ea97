"""Training of all weights and of adapters, in models of several families: what learns, how exactly, in what memory."""

import subprocess
import sys

import pytest
import torch
from vlm_helpers import ACTIONS, TASKS, fresh, png

from digiq_ray.core.errors import ConfigError, ModelError
from digiq_ray.core.schedules import schedule
from digiq_ray.core.settings import TuningSettings
from digiq_ray.vlm.finetune import ChangeExample, stage1_loss
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tuning import Tuner, adapted_layers, held_in

NAMES = ("tiny", "llava_next", "qwen2_5_vl")


@pytest.fixture(params=NAMES)
def vlm(request):
    if request.param == "tiny":
        return fresh(request.getfixturevalue("tiny"))
    return Vlm.load(request.getfixturevalue("family_path")(request.param))


def lora(**options):
    return TuningSettings(method="lora", rank=4, alpha=8.0, **options)


def tuner_of(vlm, settings, rate=2e-3):
    return Tuner(vlm, settings, rate=schedule("linear", rate, 20, 2), weight_decay=0.01, clip=1.0, seed=5)


def examples_of(vlm):
    screens = [vlm.transform.prepare(png(shift=shift)) for shift in (0, 40, 90)]
    return [
        ChangeExample(screen, vlm.prefix_ids(screen, task, ()), action, changed)
        for screen, task, action, changed in zip(screens, TASKS, ACTIONS[2:], (True, False, True), strict=False)
    ]


def train(vlm, settings, steps=6, rate=2e-3):
    """The tuner after some updates, and the losses."""
    tuner, examples, losses = tuner_of(vlm, settings, rate), examples_of(vlm), []
    for index in range(steps):
        loss = tuner.run(stage1_loss, vlm, examples, 0.5)
        tuner.update(index, loss)
        losses.append(float(loss.detach()))
    return tuner, losses


def snapshot(vlm):
    return {name: value.detach().clone() for name, value in vlm.model.state_dict().items()}


def changed(before, after):
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


# ---- what learns


def test_full_training_changes_all_parts_and_lowers_the_loss(vlm):
    before = snapshot(vlm)
    tuner, losses = train(vlm, TuningSettings())
    assert tuner.module() is vlm.model
    assert losses[-1] < losses[0]
    moved = changed(before, snapshot(vlm))
    assert any("vis" in name for name in moved)
    assert any("language_model" in name for name in moved)


def test_adapters_learn_and_nothing_else_does(vlm):
    before = snapshot(vlm)
    tuner, losses = train(vlm, lora())
    assert losses[-1] < losses[0]
    while_learning = {name.replace(".base_layer", ""): value for name, value in snapshot(vlm).items()}
    assert changed(before, while_learning) == set()
    kept = tuner.module().state_dict()
    assert set(kept) == {name.replace(".", "/") for name, _ in vlm.model.named_parameters() if "lora_" in name}
    assert sum(value.numel() for value in kept.values()) < 0.5 * sum(value.numel() for value in before.values())


def test_merged_adapters_make_a_model_like_any_other_that_says_the_same(vlm, tmp_path):
    before, examples = snapshot(vlm), examples_of(vlm)
    tuner, _ = train(vlm, lora(dropout=0.1))
    vlm.model.eval()
    with torch.inference_mode():
        adapted = stage1_loss(vlm, examples, 0.5)
    tuner.finish()
    after = snapshot(vlm)
    assert after.keys() == before.keys()
    assert changed(before, after) == {f"{name}.weight" for name in adapted_layers(vlm, lora())}
    assert all(value.requires_grad for value in vlm.model.parameters())
    vlm.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "adapter_config.json").exists()
    again = Vlm.load(tmp_path / "saved")
    assert again.weights_hash == vlm.weights_hash
    with torch.inference_mode():
        torch.testing.assert_close(stage1_loss(again, examples, 0.5), adapted, atol=1e-5, rtol=1e-5)


def test_the_seed_decides_the_adapters(tiny):
    first = [list(tuner_of(fresh(tiny), lora()).module().state_dict().values()) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*first, strict=True))
    torch.manual_seed(1)
    want = torch.rand(1)
    torch.manual_seed(1)
    tuner_of(fresh(tiny), lora())
    assert torch.equal(torch.rand(1), want), "the random numbers of others are left alone"


def test_adapters_that_are_no_numbers_are_never_merged(tiny):
    tuner = tuner_of(fresh(tiny), lora())
    with torch.no_grad():
        next(iter(tuner.module().parameters())).fill_(torch.nan)
    with pytest.raises(ModelError, match="the trained adapters are broken"):
        tuner.finish()


# ---- which layers


def test_adapters_sit_on_every_linear_layer_of_the_language_model(vlm):
    names = adapted_layers(vlm, lora())
    layers = [module for module in vlm.language_model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(names) == len(set(names)) == len(layers) > 0
    assert not any("vis" in name or "projector" in name or "lm_head" in name for name in names)


def test_the_vision_tower_gets_adapters_when_asked(vlm):
    more = set(adapted_layers(vlm, lora(vision=True)))
    assert more > set(adapted_layers(vlm, lora()))
    assert any("vis" in name for name in more)
    assert not any("lm_head" in name for name in more)
    before = snapshot(vlm)
    tuner, _ = train(vlm, lora(vision=True))
    tuner.finish()
    assert changed(before, snapshot(vlm)) == {f"{name}.weight" for name in more}


def test_targets_choose_among_the_layers_of_the_language_model(vlm):
    names = adapted_layers(vlm, lora(targets=["q_proj", "v_proj"]))
    assert len(names) == 2 * len(vlm.language_model.layers)
    before = snapshot(vlm)
    tuner, _ = train(vlm, lora(targets=["q_proj", "v_proj"]))
    tuner.finish()
    assert changed(before, snapshot(vlm)) == {f"{name}.weight" for name in names}


def test_a_target_that_does_not_exist_is_answered_with_those_that_do(tiny):
    with pytest.raises(
        ConfigError, match=r"tuning\.targets: the language model has no linear layer 'c_attn'; .*q_proj"
    ):
        tuner_of(fresh(tiny), lora(targets=["q_proj", "c_attn"]))
    with pytest.raises(ConfigError, match="lm_head"):
        tuner_of(fresh(tiny), lora(targets=["lm_head"]))


# ---- memory and precision


def gradients(vlm, settings):
    """The loss, the gradients by name, and how many bytes the graph kept."""
    tuner_of(vlm, settings)
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = stage1_loss(vlm, examples_of(vlm), 0.5)
    loss.backward()
    found = {name: value.grad for name, value in vlm.model.named_parameters() if value.grad is not None}
    return float(loss.detach()), found, sum(kept.values())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_checkpointing_gives_the_same_gradients_and_keeps_less(vlm, method):
    other = fresh(vlm)
    loss, want, whole = gradients(vlm, TuningSettings(method=method))
    again, found, less = gradients(other, TuningSettings(method=method, checkpointing=True))
    assert again == pytest.approx(loss, abs=1e-6)
    assert found.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5, msg=name)
    assert less < 0.8 * whole


def test_checkpointing_ends_with_the_training(tiny):
    vlm = fresh(tiny)
    tuner = tuner_of(vlm, lora(checkpointing=True))
    assert vlm.model.is_gradient_checkpointing
    tuner.finish()
    assert not vlm.model.is_gradient_checkpointing
    assert not vlm.model.training


def test_a_model_without_checkpointing_is_a_configuration_error(tiny, monkeypatch):
    vlm = fresh(tiny)
    monkeypatch.setattr(type(vlm.model), "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match=r"tuning\.checkpointing: Llava\w+ has none"):
        tuner_of(vlm, TuningSettings(checkpointing=True))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_bfloat16_learns_what_float32_learns(vlm, method, tmp_path):
    settings = TuningSettings(method=method, precision="bfloat16")
    vlm.save(tmp_path / "base")
    half = Vlm.load(tmp_path / "base", dtype=held_in(settings, "cpu"))
    _, want = train(vlm, TuningSettings(method=method))
    tuner, losses = train(half, settings)
    assert losses[0] != want[0], "the arithmetic is another one"
    assert losses == pytest.approx(want, rel=0.05)
    assert {value.dtype for value in tuner.module().parameters()} == {torch.float32}
    tuner.finish()
    assert {value.dtype for value in half.model.parameters()} == {held_in(settings, "cpu")}


def test_only_frozen_weights_are_held_in_bfloat16():
    assert held_in(TuningSettings(), "cuda") == held_in(lora(), "cpu") == torch.float32
    assert held_in(lora(), "cuda") == held_in(lora(precision="bfloat16"), "cpu") == torch.bfloat16


def test_peft_is_imported_when_it_is_needed():
    code = "import sys, digiq_ray.vlm.tuning, digiq_ray.learner.policy; print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "False\n", done.stderr
