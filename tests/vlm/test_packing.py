"""Texts that share a row are worth what they are in rows of their own, in models of several families."""

import pytest
import torch
from vlm_helpers import ACTIONS, FAMILIES, TASKS, fresh, png

from digiq_ray.vlm import packing
from digiq_ray.vlm.batching import answer_logprobs, inputs, pad
from digiq_ray.vlm.finetune import ChangeExample, stage1_losses
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.packing import action_logprobs, can_pack, packed_states

PACKABLE = ("tiny", "llava_next", "idefics3", "qwen2_5_vl")


def load(name, request):
    if name == "tiny":
        return fresh(request.getfixturevalue("tiny"))
    return Vlm.load(request.getfixturevalue("family_path")(name))


@pytest.fixture(params=PACKABLE)
def vlm(request):
    return load(request.param, request)


@pytest.fixture
def states(vlm):
    """Screens of two sizes, and prefixes of different lengths."""
    screens = [vlm.transform.prepare(png(96, 192, shift)) for shift in (0, 60)] + [vlm.transform.prepare(png(120, 80))]
    return screens, [vlm.prefix_ids(s, t, ()) for s, t in zip(screens, TASKS, strict=True)]


def gradients(vlm, loss):
    vlm.model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: value.grad for name, value in vlm.model.named_parameters() if value.grad is not None}


def assert_same(vlm, one, other):
    """Two losses that were computed in different ways: the same values, the same gradients of all weights."""
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    left, right = gradients(vlm, one), gradients(vlm, other)
    assert left.keys() == right.keys()
    assert any("layers.0" in name and bool(grad.any()) for name, grad in left.items())
    largest = max(float(grad.abs().max()) for grad in right.values())
    for name, grad in left.items():
        torch.testing.assert_close(grad, right[name], atol=1e-5 * max(1.0, largest), rtol=1e-5, msg=name)


@torch.inference_mode()
def test_a_text_in_a_shared_row_is_what_it_is_alone(vlm, states):
    screens, prefixes = states
    texts = [
        [vlm.change_ids(ACTIONS[5])[0], vlm.act_ids(), [*vlm.act_ids(), *vlm.answer_ids("back")]],
        [vlm.act_ids()],
        [vlm.answer_ids("home"), vlm.change_ids("back")[0]],
    ]
    found = packed_states(vlm, screens, prefixes, texts)
    pairs = [(row, text) for row, of_row in enumerate(texts) for text in of_row]
    assert [len(one) for one in found] == [len(text) for _, text in pairs]
    for got, (row, text) in zip(found, pairs, strict=True):
        given = inputs(vlm, [screens[row]], *pad([[*prefixes[row], *text]], vlm.pad_id, left=True))
        want = vlm.model.model(**given, use_cache=False).last_hidden_state[0, -len(text) :]
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rehearsal", [0.5, 2.0])
def test_stage_1_has_the_same_loss_and_gradients_packed(vlm, states, rehearsal):
    examples = [
        ChangeExample(screen, prefix, action, bool(number % 2))
        for number, (screen, prefix, action) in enumerate(zip(*states, ACTIONS[3:], strict=True))
    ]
    packed, apart = (stage1_losses(vlm, examples, rehearsal, packing=on) for on in (True, False))
    assert packed[1].item() == pytest.approx(apart[1].item(), abs=1e-5)
    assert_same(vlm, packed[0], apart[0])


def test_several_actions_of_a_state_have_the_same_loss_and_gradients_packed(vlm, states):
    screens, prefixes = states
    actions, weights = [ACTIONS[:3], ACTIONS[4:5], ACTIONS[2:6]], torch.arange(8.0) - 3.0
    packed, apart = (action_logprobs(vlm, screens, prefixes, actions, packing=on) for on in (True, False))
    torch.testing.assert_close(packed, apart, atol=1e-5, rtol=1e-5)
    assert_same(vlm, (weights * packed).mean(), (weights * apart).mean())


def test_each_screen_and_prompt_is_computed_once(tiny):
    screen = tiny.transform.prepare(png())
    passes = []
    hook = tiny.model.model.register_forward_pre_hook(
        lambda module, given, named: passes.append((len(named["pixel_values"]), named["input_ids"].numel())),
        with_kwargs=True,
    )
    prefix = tiny.prefix_ids(screen, TASKS[0], ())
    with torch.inference_mode():
        for on in (True, False):
            action_logprobs(tiny, [screen], [prefix], [list(ACTIONS)], packing=on)
    hook.remove()
    (packed_images, packed_tokens), (images, tokens) = passes
    assert (packed_images, images) == (1, len(ACTIONS))
    assert packed_tokens < tokens / 2


def test_one_action_a_state_goes_the_old_way_to_the_bit(tiny):
    screens = [tiny.transform.prepare(png(shift=shift)) for shift in (0, 40)]
    prefixes = [tiny.prefix_ids(s, t, ()) for s, t in zip(screens, TASKS, strict=False)]
    with torch.inference_mode():
        found = action_logprobs(tiny, screens, prefixes, [["back"], [ACTIONS[4]]])
        prompts = [[*prefix, *tiny.act_ids()] for prefix in prefixes]
        want, _ = answer_logprobs(tiny, screens, prompts, [tiny.answer_ids(a) for a in ("back", ACTIONS[4])])
    assert torch.equal(found, want.sum(1))


# ---- where packing would be wrong


def test_models_whose_image_tokens_see_ahead_are_not_packed(family_path):
    assert not can_pack(Vlm.load(family_path("gemma3")))
    assert set(PACKABLE) - {"tiny"} == set(FAMILIES) - {"gemma3"}


@pytest.mark.parametrize("kinds", [["full_attention", "sliding_attention"], ["linear_attention", "full_attention"]])
def test_layers_that_do_not_see_everything_are_not_packed(tiny, kinds):
    vlm = fresh(tiny)
    assert can_pack(vlm)
    vlm.model.config.get_text_config().layer_types = kinds
    assert not can_pack(vlm)


def test_windows_states_and_kernels_without_masks_are_not_packed(tiny, monkeypatch):
    text = fresh(tiny)
    text.model.config.get_text_config().sliding_window = 64
    assert not can_pack(text)
    kernel = fresh(tiny)
    kernel.model.config.get_text_config()._attn_implementation = "flash_attention_2"
    assert not can_pack(kernel)
    monkeypatch.setattr(type(tiny.language_model), "_is_stateful", True)
    assert not can_pack(tiny)


def test_what_cannot_be_packed_is_computed_in_rows_of_its_own(family_path, monkeypatch):
    vlm = Vlm.load(family_path("gemma3"))
    monkeypatch.setattr(packing, "packed_states", None)
    screen = vlm.transform.prepare(png())
    prefix = vlm.prefix_ids(screen, TASKS[0], ())
    examples = [ChangeExample(screen, prefix, ACTIONS[0], True)]
    with torch.inference_mode():
        assert torch.isfinite(stage1_losses(vlm, examples, 0.5)[0])
        assert action_logprobs(vlm, [screen], [prefix], [ACTIONS[:2]]).shape == (2,)
