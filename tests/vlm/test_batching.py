import pytest
import torch
from vlm_helpers import ACTIONS, TASKS, alone, png

from digiq_ray.vlm.batching import answer_logprobs, inputs, pad, run_prefix, run_suffix

LONG = "go to settings and turn on bluetooth"


@pytest.fixture(scope="module")
def batch(tiny):
    """Screens and prefixes of different lengths."""
    screens = [tiny.transform.prepare(png(shift=shift)) for shift in (0, 40, 90, 40)]
    tasks = ["open mail", LONG, "buy a red mug on ebuy", LONG]
    histories = [(), ("back",), ("swipe 0.50 0.80 0.50 0.20",), ()]
    prefixes = [tiny.prefix_ids(s, t, h) for s, t, h in zip(screens, tasks, histories, strict=True)]
    assert len({len(prefix) for prefix in prefixes}) > 2
    return screens, prefixes


def close(got, want):
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


# ---- padding


def test_left_padding_ends_and_right_padding_begins_every_row_together():
    rows = [[1, 2, 3], [4]]
    ids, mask = pad(rows, 9, left=True)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 3], [9, 9, 4]], [[1, 1, 1], [0, 0, 1]])
    ids, mask = pad(rows, 9, left=False)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 3], [4, 9, 9]], [[1, 1, 1], [1, 0, 0]])


def test_positions_count_tokens_and_not_the_padding(tiny, batch):
    screens, prefixes = batch
    given = inputs(tiny, screens, *pad(prefixes, tiny.pad_id, left=True))
    for row, mask, prefix in zip(given["position_ids"], given["attention_mask"], prefixes, strict=True):
        assert row[mask.bool()].tolist() == list(range(len(prefix)))


# ---- one pass and a cached prefix are the same


@torch.inference_mode()
def test_a_prefix_in_a_batch_is_what_it_is_alone(tiny, batch):
    screens, prefixes = batch
    last = run_prefix(tiny, screens, prefixes).last
    for row, screen, prefix in zip(last, screens, prefixes, strict=True):
        close(row, alone(tiny, screen, prefix).hidden_states[-1][0, -1])


@torch.inference_mode()
def test_a_suffix_after_a_cached_prefix_is_what_one_pass_gives(tiny, batch):
    screens, prefixes = batch
    suffixes = [tiny.act_ids(), *(tiny.change_ids(action)[0] for action in ACTIONS[-3:])]
    prefix = run_prefix(tiny, screens, prefixes)
    ids, mask = pad(suffixes, tiny.pad_id, left=False)
    hidden = run_suffix(tiny, prefix, ids, mask)
    for row, screen, before, after in zip(hidden, screens, prefixes, suffixes, strict=True):
        whole = alone(tiny, screen, [*before, *after])
        close(row[: len(after)], whole.hidden_states[-1][0, len(before) :])
        close(tiny.logits(row[len(after) - 1]), whole.logits[0, -1])


@torch.inference_mode()
def test_many_suffixes_share_one_prefix(tiny, batch):
    screens, prefixes = batch
    rows = torch.tensor([3, 0, 0, 0, 2])
    suffixes = [tiny.change_ids(action)[0] for action in ACTIONS[: len(rows)]]
    prefix = run_prefix(tiny, screens, prefixes).select(rows)
    hidden = run_suffix(tiny, prefix, *pad(suffixes, tiny.pad_id, left=False))
    for got, row, after in zip(hidden, rows, suffixes, strict=True):
        whole = alone(tiny, screens[row], [*prefixes[row], *after])
        close(got[len(after) - 1], whole.hidden_states[-1][0, -1])


@torch.inference_mode()
def test_a_suffix_may_come_in_pieces(tiny, batch):
    screens, prefixes = batch
    piece = torch.tensor([tiny.act_ids() + tiny.answer_ids("tap 0.50 0.24")]).repeat(len(screens), 1)
    whole = run_suffix(tiny, run_prefix(tiny, screens, prefixes), piece, torch.ones_like(piece))
    prefix = run_prefix(tiny, screens, prefixes)
    parts = [run_suffix(tiny, prefix, part, torch.ones_like(part)) for part in piece.split(1, 1)]
    close(torch.cat(parts, 1), whole)


@torch.inference_mode()
def test_screen_task_and_history_all_reach_the_hidden_state(tiny):
    screens = [tiny.transform.prepare(png(shift=shift)) for shift in (0, 90)]
    cases = [(screens[0], TASKS[0], ()), (screens[1], TASKS[0], ()), (screens[0], TASKS[1], ())]
    cases.append((screens[0], TASKS[0], ("back",)))
    prefixes = [tiny.prefix_ids(*case) for case in cases]
    last = run_prefix(tiny, [screen for screen, *_ in cases], prefixes).last
    for other in last[1:]:
        assert (last[0] - other).abs().max() > 1e-2


# ---- log-probabilities of answers


@torch.inference_mode()
def test_answer_logprobs_are_those_of_token_by_token(tiny, batch):
    screens, prefixes = batch
    prompts = [[*prefix, *tiny.act_ids()] for prefix in prefixes]
    answers = [tiny.answer_ids(action) for action in ("back", ACTIONS[5], ACTIONS[2], "type red mug")]
    logprobs, mask = answer_logprobs(tiny, screens, prompts, answers)
    assert mask.sum(1).tolist() == [len(answer) for answer in answers]
    for got, screen, prompt, answer in zip(logprobs, screens, prompts, answers, strict=True):
        for index, token in enumerate(answer):
            want = torch.log_softmax(alone(tiny, screen, [*prompt, *answer[:index]]).logits[0, -1], -1)[token]
            assert float(got[index]) == pytest.approx(float(want), abs=1e-4)
        assert not got[len(answer) :].any()


def test_answer_logprobs_give_gradients_to_language_and_vision(tiny, batch):
    screens, prefixes = batch
    answers = [tiny.answer_ids("back")] * len(prefixes)
    logprobs, _ = answer_logprobs(tiny, screens, [[*p, *tiny.act_ids()] for p in prefixes], answers)
    logprobs.sum().backward()
    named = dict(tiny.model.named_parameters())
    for part in ("vision_tower", "multi_modal_projector", "layers.0", "lm_head"):
        grads = [p.grad for name, p in named.items() if part in name and p.grad is not None]
        assert any(bool(grad.abs().max() > 0) for grad in grads), part
    tiny.model.zero_grad(set_to_none=True)
