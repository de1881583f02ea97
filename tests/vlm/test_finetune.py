import dataclasses
import io
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vlm_helpers import ACTIONS, TASKS, alone, fresh, png

from digiq_ray.core.actions import ActionType, format_action, press
from digiq_ray.core.errors import InputError, ModelError
from digiq_ray.vlm.batching import answer_logprobs
from digiq_ray.vlm.finetune import (
    ChangeExample,
    FinetuneSettings,
    FinetuneTrainer,
    accuracy,
    answer_tokens,
    batches,
    change_logits,
    epoch_order,
    pixel_distance,
    stage1_loss,
)
from digiq_ray.vlm.tiny import make_vlm
from emulator_workers.simphone.lessons import random_phone, words
from emulator_workers.simphone.oracle import apply, touch
from emulator_workers.simphone.phone import CALM
from emulator_workers.simphone.screens import render

STATUS_BAR = 1 / 16
KEYS = (ActionType.BACK, ActionType.HOME, ActionType.ENTER, ActionType.WAIT)


def settings(**changes):
    defaults = {"batch": 32, "learning_rate": 2e-3, "weight_decay": 0.01, "rehearsal": 0.0, "clip": 1.0, "seed": 0}
    return FinetuneSettings(**{"steps": 60, **defaults, **changes})


# ---- labels


def test_a_constant_difference_gives_its_square():
    before = torch.full((3, 32, 16), 100, dtype=torch.uint8)
    assert pixel_distance(before, before + 3, 0.0) == 9.0
    assert pixel_distance(before + 3, before, STATUS_BAR) == 9.0


def test_dark_after_bright_does_not_wrap_around():
    before = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    assert pixel_distance(before, torch.zeros_like(before), 0.0) == 255.0**2


def test_equal_pictures_have_no_distance():
    before = torch.randint(0, 256, (3, 32, 16), dtype=torch.uint8)
    assert pixel_distance(before, before.clone(), 0.0) == 0.0


def test_the_status_bar_does_not_count_and_the_row_below_does():
    before = torch.zeros((3, 32, 16), dtype=torch.uint8)
    after = before.clone()
    after[:, :2] = 255
    assert pixel_distance(before, after, STATUS_BAR) == 0.0
    assert pixel_distance(before, after, 0.0) > 0.0
    after[:, 2] = 255
    assert pixel_distance(before, after, STATUS_BAR) == pytest.approx(255**2 / 30)


def test_regions_that_are_ignored_do_not_count_whatever_the_metric():
    before = torch.zeros((3, 10, 10), dtype=torch.uint8)
    after = before.clone()
    after[:, 4:6, 5:] = 200
    assert pixel_distance(before, after, 0.0) == pytest.approx(200**2 / 10)
    assert pixel_distance(before, after, 0.0, metric="mae") == pytest.approx(200 / 10)
    for metric in ("mse", "mae"):
        assert pixel_distance(before, after, 0.0, [[0.5, 0.4, 1.0, 0.6]], metric) == 0.0
        assert pixel_distance(before, after, 0.2, [[0.55, 0.41, 1.0, 0.59]], metric) == 0.0, "a pixel touched is out"
    left = pixel_distance(before, after, 0.0, [[0.0, 0.0, 1.0, 0.5]])
    assert left == pytest.approx(200**2 / 10)


def test_regions_that_leave_nothing_are_an_error():
    picture = torch.zeros((3, 4, 4))
    with pytest.raises(InputError, match=r"cover the whole screen: see finetune\.ignore_boxes"):
        pixel_distance(picture, picture, 0.0, [[0.0, 0.0, 1.0, 0.5], [0.0, 0.5, 1.0, 1.0]])


# ---- batches


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 30), st.integers(0, 30), st.integers(0, 99))
def test_batches_resumed_at_a_step_are_the_tail(count, size, start, more, seed):
    size, steps = min(size, count), start + more
    whole = {step: list(rows) for step, rows in batches(count, size, steps, seed)}
    tail = {step: list(rows) for step, rows in batches(count, size, steps, seed, start)}
    assert tail == {step: rows for step, rows in whole.items() if step >= start}
    assert list(whole) == list(range(steps))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_an_epoch_takes_each_example_at_most_once_and_leaves_out_less_than_a_batch(count, size, seed):
    size = min(size, count)
    per_epoch = count // size
    for epoch in range(2):
        drawn = [rows for _, rows in batches(count, size, 2 * per_epoch, seed)]
        taken = np.concatenate(drawn[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert len(set(taken)) == len(taken) == per_epoch * size
        assert set(taken) <= set(range(count))


def test_each_epoch_has_an_order_of_its_own():
    orders = [tuple(epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 8), st.integers(0, 99))
def test_what_belongs_together_follows_each_other_in_every_epoch(groups, size, seed):
    size = min(size, len(groups))
    per_epoch = len(groups) // size
    drawn = [row for _, rows in batches(len(groups), size, 2 * per_epoch, seed, together=groups) for row in rows]
    for epoch in (drawn[: per_epoch * size], drawn[per_epoch * size :]):
        assert len(set(epoch)) == len(epoch)
        ordered = [groups[row] for row in epoch]
        assert sum(a != b for a, b in pairwise(ordered)) == len(set(ordered)) - 1


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_examples_that_belong_to_nothing_else_come_in_the_usual_order(count, size, seed):
    size = min(size, count)
    usual, alone = (list(batches(count, size, 9, seed, together=groups)) for groups in (None, range(count)))
    assert [(step, list(rows)) for step, rows in usual] == [(step, list(rows)) for step, rows in alone]


# ---- losses


@pytest.fixture(scope="module")
def examples(tiny):
    screens = [tiny.transform.prepare(png(shift=shift)) for shift in (0, 40, 90)]
    actions = (ACTIONS[0], ACTIONS[5], ACTIONS[4])
    return [
        ChangeExample(screen, tiny.prefix_ids(screen, task, ()), action, changed)
        for screen, task, action, changed in zip(screens, TASKS, actions, (True, False, True), strict=True)
    ]


@torch.inference_mode()
def test_change_logits_follow_the_whole_question(tiny, examples):
    found = change_logits(tiny, [e.screen for e in examples], examples)
    for row, example in zip(found, examples, strict=True):
        whole = alone(tiny, example.screen, [*example.prefix, *tiny.change_ids(example.action)[0]])
        torch.testing.assert_close(row, whole.logits[0, -1], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_loss_is_the_cross_entropy_of_the_answers(tiny, examples):
    no, yes = answer_tokens(tiny)
    logits = torch.log_softmax(change_logits(tiny, [e.screen for e in examples], examples), -1)
    want = -sum(logits[i, yes if e.changed else no] for i, e in enumerate(examples)) / len(examples)
    assert float(stage1_loss(tiny, examples, 0.0)) == pytest.approx(float(want), rel=1e-5)


@torch.inference_mode()
def test_rehearsal_adds_the_behaviour_actions(tiny, examples):
    prompts = [[*example.prefix, *tiny.act_ids()] for example in examples]
    answers = [tiny.answer_ids(example.action) for example in examples]
    logprobs, _ = answer_logprobs(tiny, [e.screen for e in examples], prompts, answers)
    added = float(stage1_loss(tiny, examples, 0.5)) - float(stage1_loss(tiny, examples, 0.0))
    assert added == pytest.approx(-0.5 * float(logprobs.sum(1).mean()), rel=1e-4)


def test_answers_that_begin_alike_are_a_model_error(tiny):
    vlm = fresh(tiny)
    vlm.template = dataclasses.replace(vlm.template, yes="no doubt")
    with pytest.raises(ModelError, match="same token"):
        answer_tokens(vlm)


@torch.inference_mode()
def test_accuracy_counts_the_likelier_answers_that_are_right(tiny, examples):
    no, yes = answer_tokens(tiny)
    logits = change_logits(tiny, [e.screen for e in examples], examples)
    said = [bool(row[yes] > row[no]) for row in logits]
    right = [dataclasses.replace(e, changed=changed) for e, changed in zip(examples, said, strict=True)]
    wrong = [dataclasses.replace(e, changed=not e.changed) for e in right]
    assert accuracy(tiny, right) == accuracy(tiny, right, batch=2) == 1.0
    assert accuracy(tiny, wrong) == 0.0
    assert accuracy(tiny, [*right, wrong[0]]) == 0.75


# ---- learning


def encoded(phone):
    out = io.BytesIO()
    render(phone).save(out, "PNG")
    return out.getvalue()


def transitions(vlm, count, seed):
    """Steps on calm phones: touches of what is there, and keys, which change some screens and not others."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        phone = random_phone(rng)
        phone.hazards = CALM
        state = phone.state
        covered = state.ad is not None or state.loading or state.not_responding
        if covered or state.screen not in ("settings", "home", "notes", "new_alarm"):
            continue
        screens = [vlm.transform.prepare(encoded(phone))]
        action = rng.choice([touch(rng.choice(phone.elements())), *map(press, KEYS)])
        apply(phone, action)
        phone.advance()
        screens.append(vlm.transform.prepare(encoded(phone)))
        changed = pixel_distance(*(screen["pixel_values"] for screen in screens), STATUS_BAR) > 30
        prefix = vlm.prefix_ids(screens[0], TASKS[0], ())
        found.append(ChangeExample(screens[0], prefix, format_action(action), changed))
    return found


@pytest.fixture(scope="module")
def steps():
    """Training and held-out steps."""
    vlm = make_vlm(words(), seed=0)
    return transitions(vlm, 300, 1), transitions(vlm, 200, 2)


def trained(examples, **changes):
    vlm = make_vlm(words(), seed=0)
    trainer = FinetuneTrainer(vlm, examples, settings(**changes))
    losses = [trainer.step(index)["loss"] for index in range(trainer.steps)]
    vlm.model.eval()
    return vlm, losses


def majority(examples):
    share = sum(example.changed for example in examples) / len(examples)
    return max(share, 1 - share)


def test_stage_1_learns_which_actions_change_the_screen(steps):
    training, held_out = steps
    assert majority(held_out) < 0.65
    vlm, losses = trained(training)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert accuracy(vlm, held_out) > majority(held_out) + 0.2


def test_stage_1_learns_nothing_from_shuffled_labels(steps):
    training, held_out = steps
    labels = [example.changed for example in training]
    random.Random(3).shuffle(labels)
    shuffled = [dataclasses.replace(e, changed=label) for e, label in zip(training, labels, strict=True)]
    vlm, _ = trained(shuffled)
    assert accuracy(vlm, held_out) < majority(held_out) + 0.1


def test_training_is_decided_by_its_seed(steps):
    training, _ = steps
    hashes = [trained(training[:16], steps=3, batch=8, seed=seed)[0].weights_hash for seed in (5, 5, 6)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_batch_larger_than_the_examples_takes_them_all(steps):
    _, losses = trained(steps[0][:5], steps=2, batch=32)
    assert len(losses) == 2


def test_a_checkpoint_holds_the_whole_model(tiny, examples):
    trainer = FinetuneTrainer(fresh(tiny), examples, settings(steps=1))
    assert trainer.modules()["vlm"] is trainer.vlm.model
    assert trainer.vlm.model.training
