from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vlm_helpers import ACTIONS, TASKS, alone, png

from digiq_ray.core.policies import ActRequest
from digiq_ray.core.rng import uniforms
from digiq_ray.vlm import sampling
from digiq_ray.vlm.batching import answer_logprobs
from digiq_ray.vlm.sampling import VlmPolicy, draw, sample

CRITICAL = {5: 25.74, 6: 27.86}  # chi-square, 1 in 10,000, by degrees of freedom


def chi_square(observed, expected):
    return float(((np.asarray(observed) - np.asarray(expected)) ** 2 / np.asarray(expected)).sum())


def requests(count=12):
    return [
        ActRequest(png(shift=11 * (i % 4)), TASKS[i % 3], ("back",) if i % 2 else (), seed=1000 + i)
        for i in range(count)
    ]


def prompts(vlm, tasks):
    screen = vlm.transform.prepare(png())
    return [screen] * len(tasks), [vlm.prefix_ids(screen, task, ()) for task in tasks]


# ---- one token


LOGITS = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -3.0])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_tokens_are_drawn_as_often_as_the_softmax_says(temperature):
    count = 20_000
    tokens, _ = draw(LOGITS.expand(count, -1), uniforms(7, np.arange(count)), temperature)
    expected = torch.softmax(LOGITS / temperature, -1).double().numpy() * count
    assert chi_square(np.bincount(tokens.numpy(), minlength=6), expected) < CRITICAL[5]


def test_the_chi_square_notices_a_wrong_temperature():
    count = 20_000
    tokens, _ = draw(LOGITS.expand(count, -1), uniforms(7, np.arange(count)), 1.1)
    expected = torch.softmax(LOGITS, -1).double().numpy() * count
    assert chi_square(np.bincount(tokens.numpy(), minlength=6), expected) > CRITICAL[5]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_logprob_of_a_draw_is_that_of_its_distribution(temperature):
    tokens, logprobs = draw(LOGITS.expand(50, -1), uniforms(3, np.arange(50)), temperature)
    torch.testing.assert_close(logprobs, torch.log_softmax(LOGITS / temperature, -1)[tokens])


def test_temperature_zero_is_the_argmax_whatever_the_random_number():
    tokens, logprobs = draw(LOGITS.expand(9, -1), np.linspace(0, 0.999, 9), 0.0)
    assert tokens.tolist() == [3] * 9
    torch.testing.assert_close(logprobs, torch.log_softmax(LOGITS, -1)[tokens])


@given(st.floats(0, 1, exclude_max=True), st.lists(st.floats(-30, 30), min_size=1, max_size=8))
def test_an_impossible_token_is_never_drawn(uniform, values):
    logits = torch.tensor([[-torch.inf, *values, -torch.inf]])
    tokens, logprobs = draw(logits, np.array([uniform]), 1.0)
    assert 1 <= int(tokens) <= len(values)
    assert torch.isfinite(logprobs).all()


# ---- whole actions


def test_the_same_seed_gives_the_same_action_whatever_the_batch(acting):
    asked = requests()
    whole = [result.text for result in VlmPolicy(acting).act(asked)]
    alone_ = [VlmPolicy(acting).act([one])[0].text for one in asked]
    backwards = [result.text for result in VlmPolicy(acting, batch=5).act(asked[::-1])][::-1]
    assert whole == alone_ == backwards
    assert len(set(whole)) > 2


def test_another_seed_gives_other_actions(acting):
    texts = []
    for offset in (0, 1):
        asked = [ActRequest(png(), TASKS[0], (), seed=2 * i + offset) for i in range(24)]
        texts.append([result.text for result in VlmPolicy(acting).act(asked)])
    assert texts[0] != texts[1]


def test_sample_number_k_does_not_depend_on_how_many_are_drawn(acting):
    screens, prefixes = prompts(acting, TASKS)
    few = sample(acting, screens, prefixes, [1, 2, 3], samples=3)
    many = sample(acting, screens, prefixes, [1, 2, 3], samples=7)
    assert [[text for text, _ in row] for row in few] == [[text for text, _ in row[:3]] for row in many]


def test_no_random_number_is_used_twice(acting, monkeypatch):
    used = []

    def recorded(seeds, counters):
        used.extend(zip(seeds.tolist(), counters.tolist(), strict=True))
        return uniforms(seeds, counters)

    monkeypatch.setattr(sampling, "uniforms", recorded)
    screens, prefixes = prompts(acting, TASKS)
    sample(acting, screens, prefixes, [1, 2, 3], samples=6)
    assert len(set(used)) == len(used) > 3 * 6


def test_results_come_in_order_with_the_version(acting):
    results = VlmPolicy(acting, batch=4).act(requests())
    assert len(results) == 12
    assert {result.policy_version for result in results} == {acting.version}
    assert VlmPolicy(acting).act([]) == []
    assert sample(acting, [], [], []) == []


def test_actions_are_drawn_as_often_as_their_probabilities_say(acting):
    count = 1500
    screens, prefixes = prompts(acting, TASKS[:1])
    found = Counter(text for text, _ in sample(acting, screens, prefixes, [5], samples=count)[0])
    answers = [acting.answer_ids(action) for action in ACTIONS]
    asked = [[*prefixes[0], *acting.act_ids()]] * len(ACTIONS)
    with torch.inference_mode():
        logprobs, _ = answer_logprobs(acting, screens * len(ACTIONS), asked, answers)
    shares = logprobs.sum(1).exp().double().numpy()
    assert shares.sum() > 0.3
    assert min(shares) * count > 5
    observed = [found[action] for action in ACTIONS]
    rest = count - sum(observed)
    assert chi_square([*observed, rest], [*shares * count, (1 - shares.sum()) * count]) < CRITICAL[6]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_logprob_of_an_action_is_that_of_its_tokens(acting, temperature):
    screens, prefixes = prompts(acting, TASKS)
    checked = 0
    for row, screen, prefix in zip(
        sample(acting, screens, prefixes, [4, 5, 6], samples=6, temperature=temperature), screens, prefixes, strict=True
    ):
        for text, logprob in row:
            if text not in ACTIONS:
                continue
            ids, prompt = acting.answer_ids(text), [*prefix, *acting.act_ids()]
            logits = alone(acting, screen, [*prompt, *ids[:-1]]).logits[0, -len(ids) :]
            want = torch.log_softmax(logits / temperature, -1).gather(-1, torch.tensor(ids)[:, None]).sum()
            assert logprob == pytest.approx(float(want), abs=1e-3)
            checked += 1
    assert checked > 5


def test_equal_actions_of_a_state_have_equal_logprobs(acting):
    screens, prefixes = prompts(acting, TASKS)
    for row in sample(acting, screens, prefixes, [1, 2, 3], samples=24):
        for text, count in Counter(text for text, _ in row).items():
            if count > 1 and text in ACTIONS:
                found = [logprob for other, logprob in row if other == text]
                assert max(found) - min(found) < 1e-4
        assert len({text for text, _ in row}) < 24


def test_temperature_zero_takes_the_likeliest_token_each_time(acting):
    screens, prefixes = prompts(acting, TASKS)
    greedy = sample(acting, screens, prefixes, [1, 2, 3], temperature=0.0)
    assert greedy == sample(acting, screens, prefixes, [7, 8, 9], temperature=0.0)
    for ((text, _),), screen, prefix in zip(greedy, screens, prefixes, strict=True):
        ids: list[int] = []
        while len(ids) < 8 and acting.eos_id not in ids:
            ids.append(int(alone(acting, screen, [*prefix, *acting.act_ids(), *ids]).logits[0, -1].argmax()))
        assert text == acting.text_of(ids)


def test_no_more_tokens_are_written_than_allowed(tiny):
    screens, prefixes = prompts(tiny, TASKS)
    for row in sample(tiny, screens, prefixes, [1, 2, 3], samples=8, max_tokens=3):
        for text, _ in row:
            assert len(tiny.answer_ids(text)) - 1 <= 3


def test_the_cut_does_not_change_what_is_written_before_it(tiny):
    screens, prefixes = prompts(tiny, TASKS)
    short, long = (sample(tiny, screens, prefixes, [1, 2, 3], max_tokens=n) for n in (2, 5))
    for ((few, _),), ((many, _),) in zip(short, long, strict=True):
        assert many.startswith(few)
