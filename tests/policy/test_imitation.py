"""Imitation by a tiny VLM, and policy extraction as a whole on states whose Q is known.

The same acceptance is put to deliberately broken extraction, which must fail it.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from digiq_ray.core.errors import InputError
from digiq_ray.policy import best_of_n as extraction
from digiq_ray.policy.imitation import ImitationSettings, ImitationTrainer, Item, imitation_loss, weighted_loss
from digiq_ray.vlm.batching import answer_logprobs
from digiq_ray.vlm.sampling import sample

RED, GREEN = (220, 30, 30), (30, 220, 30)
COLOURS = [RED, GREEN]


def settings(steps: int = 150, **options) -> ImitationSettings:
    defaults = {"batch": 4, "learning_rate": 3e-3, "weight_decay": 0.0, "clip": 1.0, "seed": 0}
    return ImitationSettings(steps=steps, **defaults | options)


def probability(vlm, item: Item) -> float:
    with torch.no_grad():
        logprobs, _ = answer_logprobs(
            vlm, [item.screen], [[*item.prefix, *vlm.act_ids()]], [vlm.answer_ids(item.action)]
        )
    return float(logprobs.sum().exp())


def train(vlm, items: list[Item], **options) -> ImitationTrainer:
    trainer = ImitationTrainer(vlm, items, settings(**options))
    for index in range(trainer.steps):
        trainer.step(index)
    vlm.model.eval()
    return trainer


def weights_of(vlm) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in vlm.model.parameters()]


def test_actions_become_likely_in_the_states_that_they_belong_to(small_vlm, make_state):
    items = [
        Item(*make_state(small_vlm, RED), "tap 0.20 0.20"),
        Item(*make_state(small_vlm, GREEN), "type green"),
    ]
    assert max(probability(small_vlm, item) for item in items) < 0.01
    train(small_vlm, items)
    assert min(probability(small_vlm, item) for item in items) > 0.9


def test_items_of_weight_0_teach_nothing(small_vlm, make_state):
    before = weights_of(small_vlm)
    train(small_vlm, [Item(*make_state(small_vlm, RED), "back", weight=0.0)], steps=3)
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(small_vlm), strict=True))


def test_of_two_actions_in_one_state_the_heavier_wins(small_vlm, make_state):
    state = make_state(small_vlm, RED)
    light, heavy = Item(*state, "back", weight=0.1), Item(*state, "home", weight=1.0)
    train(small_vlm, [light, heavy])
    assert probability(small_vlm, heavy) > 4 * probability(small_vlm, light)


def test_the_loss_is_the_weighted_mean_of_negative_log_probabilities(small_vlm, make_state):
    items = [Item(*make_state(small_vlm, RED), "back", 2.0), Item(*make_state(small_vlm, GREEN), "type red", 0.5)]
    expected = -np.mean([item.weight * np.log(probability(small_vlm, item)) for item in items])
    loss = ImitationTrainer(small_vlm, items, settings()).step(0)["loss"]
    assert loss == pytest.approx(expected, rel=1e-4)


def test_the_same_seed_trains_the_same_weights(small_vlm, make_state):
    items = [Item(*make_state(small_vlm, colour), "back") for colour in COLOURS]
    start = {name: value.clone() for name, value in small_vlm.model.state_dict().items()}
    train(small_vlm, items, steps=4, batch=1)
    first = weights_of(small_vlm)
    small_vlm.model.load_state_dict(start)
    train(small_vlm, items, steps=4, batch=1)
    assert all(torch.equal(a, b) for a, b in zip(first, weights_of(small_vlm), strict=True))


def test_a_disliked_action_becomes_unlikely_and_the_loss_stays_bounded(small_vlm, make_state):
    disliked = Item(*make_state(small_vlm, RED), "back", weight=-1.0)
    wanted = Item(*make_state(small_vlm, GREEN), "type green", weight=1.0)
    train(small_vlm, [wanted])
    train(small_vlm, [Item(disliked.screen, disliked.prefix, disliked.action), wanted])
    assert probability(small_vlm, disliked) > 0.5
    trainer = train(small_vlm, [disliked, wanted])
    assert probability(small_vlm, disliked) < 0.01
    assert probability(small_vlm, wanted) > 0.9, "what is wanted elsewhere survives"
    assert abs(trainer.step(0)["loss"]) < 4.0


def test_the_loss_ends_only_for_actions_that_are_disliked_and_already_unlikely():
    logprobs = torch.tensor([-50.0, -50.0, -2.0, -2.0], requires_grad=True)
    weights = torch.tensor([1.0, -1.0, 1.0, -1.0])
    weighted_loss(logprobs, weights).backward()
    assert logprobs.grad.tolist() == [-0.25, 0.0, -0.25, 0.25]


def test_items_of_one_state_have_the_same_loss_and_gradients_in_one_row(small_vlm, make_state):
    red, green = (make_state(small_vlm, colour) for colour in COLOURS)
    items = [
        Item(*red, "back", 2.0),
        Item(*green, "type green", 0.5),
        Item(*red, "type red shop", -0.5),
        Item(*red, "home"),
    ]
    found = []
    for packing in (True, False):
        small_vlm.model.zero_grad(set_to_none=True)
        loss = imitation_loss(small_vlm, items, packing=packing)
        loss.backward()
        grads = [value.grad for value in small_vlm.model.parameters() if value.grad is not None]
        found.append((float(loss.detach()), grads))
    (loss, grads), (want, wanted) = found
    assert loss == pytest.approx(want, abs=1e-5)
    assert any(bool(grad.any()) for grad in grads)
    for one, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_batch_runs_each_of_its_states_once(small_vlm, make_state):
    states = [make_state(small_vlm, colour) for colour in [*COLOURS, (0, 0, 0)]]
    items = [Item(*state, action) for action in ("back", "home", "type red") for state in states]
    trainer, images = ImitationTrainer(small_vlm, items, settings(steps=3, batch=3)), []
    small_vlm.model.model.register_forward_pre_hook(
        lambda module, given, named: images.append(len(named["pixel_values"])), with_kwargs=True
    )
    for index in range(3):
        trainer.step(index)
    assert images == [1, 1, 1], "the three items of a state came together, and as one row"


def test_without_items_there_is_nothing_to_train(small_vlm):
    with pytest.raises(InputError, match="there is nothing to imitate"):
        ImitationTrainer(small_vlm, [], settings())


# Extraction as a whole.

CANDIDATES = {"tap 0.20 0.20": 4, "back": 8, "type red": 3, "tap red": 9}
Q = {RED: [0.9, 0.2, 0.1, 2.0], GREEN: [0.1, 0.2, 0.8, 2.0]}
BEST = {RED: "tap 0.20 0.20", GREEN: "type red"}


def is_accepted(vlm, make_state, make_candidates) -> bool:
    """Whether the policy that is extracted from candidates with known Q takes the best valid one in each state."""
    candidates, items = make_candidates(CANDIDATES), []
    for colour in COLOURS:
        choice = extraction.best_of_n(candidates, np.array(Q[colour]), 0.3, margin=-np.inf, min_support=3, radius=0.05)
        if choice.index is not None:
            items.append(Item(*make_state(vlm, colour), candidates.texts[choice.index]))
    if not items:
        return False
    train(vlm, items)
    states = [make_state(vlm, colour) for colour in COLOURS]
    screens, prefixes = [screen for screen, _ in states], [prefix for _, prefix in states]
    taken = sample(vlm, screens, prefixes, [0] * len(states), temperature=0.0)
    return [text for ((text, _),) in taken] == [BEST[colour] for colour in COLOURS]


def test_the_extracted_policy_takes_the_best_candidate(small_vlm, make_state, make_candidates):
    assert is_accepted(small_vlm, make_state, make_candidates)


def worst_of_n(patch: pytest.MonkeyPatch) -> None:
    chosen = extraction.best_of_n
    patch.setattr(extraction, "best_of_n", lambda one, q, value, **options: chosen(one, -q, -value, **options))


def unparsable_allowed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(extraction.StateCandidates, "valid", property(lambda self: np.ones(len(self.texts), dtype=bool)))
    patch.setattr(extraction, "support", lambda candidates, radius: np.array(candidates.counts))


def most_frequent_of_n(patch: pytest.MonkeyPatch) -> None:
    chosen = extraction.best_of_n

    def by_count(one, q, value, **options):
        return chosen(one, np.array(one.counts, dtype=float), value, **options)

    patch.setattr(extraction, "best_of_n", by_count)


BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "argmin instead of argmax": worst_of_n,
    "unparsable candidates allowed": unparsable_allowed,
    "most frequent instead of best": most_frequent_of_n,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_extraction_is_not_accepted(name, small_vlm, make_state, make_candidates, monkeypatch):
    BROKEN[name](monkeypatch)
    assert not is_accepted(small_vlm, make_state, make_candidates)
