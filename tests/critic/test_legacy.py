"""The preset ``legacy`` against the released code (``DigiRL-agent/digiq`` at commit 8181379): sizes, numbers, updates.

Expected figures are those that its code gives, or are computed here in plain numbers. Its prompts are tested in
``tests/store/legacy/test_legacy_export.py``, overlaps of its task lists in ``test_legacy_tasks.py`` beside it, its
action strings in ``tests/core/test_actions.py``. What the preset leaves out is said in ``digiq_ray/core/presets.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from digiq_ray.core.config import load_config
from digiq_ray.core.schedules import schedule
from digiq_ray.core.settings import RunSettings
from digiq_ray.critic.dataset import CriticData, EpisodeFrame, build
from digiq_ray.critic.heads import Critic, polyak
from digiq_ray.critic.losses import Regression
from digiq_ray.critic.objectives import n_step
from digiq_ray.critic.training import CriticTrainer
from digiq_ray.learner.critic import shape_of
from digiq_ray.learner.stage1 import label
from digiq_ray.policy.best_of_n import StateCandidates, best_of_n
from digiq_ray.vlm.images import Fit

TEXT, IMAGES, VLM = 768, 2 * 1408, 4096
Q_INPUT, V_INPUT = 5 * TEXT + IMAGES + VLM, 3 * TEXT + IMAGES


def legacy(*overrides: str) -> RunSettings:
    return load_config(RunSettings, None, ["preset=legacy", *overrides])


def test_its_settings_are_those_of_the_released_configuration() -> None:
    critic, policy = legacy().critic, legacy().policy
    assert (critic.gamma, critic.tau, critic.learning_rate, critic.clip) == (0.95, 0.10, 1e-5, 0.01)
    assert (critic.steps, critic.batch) == (20 * 40, 32 * 4)
    assert critic.steps * critic.batch == 102_400
    assert (policy.steps, policy.batch, policy.learning_rate, policy.clip) == (30 * 30, 32 * 4, 1e-4, 0.01)
    assert (policy.n, policy.keep_executed, legacy().candidates.k) == (16, True, 64)
    assert critic.weight_decay == policy.weight_decay == critic.dropout == critic.conservative == 0.0
    assert (critic.precision, critic.objective, critic.loss, critic.heads) == ("float32", "td", "mse", 2)


@pytest.mark.parametrize(("section", "rate"), [("critic", 1e-5), ("policy", 1e-4)])
def test_rates_are_the_same_in_every_update(section: str, rate: float) -> None:
    chosen = getattr(legacy(), section)
    at = schedule(chosen.schedule, chosen.learning_rate, chosen.steps, chosen.warmup)
    assert {at(index) for index in range(chosen.steps)} == {rate}


def test_its_heads_have_the_released_inputs_layers_and_parameters() -> None:
    with torch.device("meta"):
        critic = Critic(shape_of(legacy().critic, V_INPUT, Q_INPUT))
    for heads, widths, parameters in (
        (critic.q_heads, [10752, 10752, 3840, 3840, 3840, 1], 186_410_497),
        (critic.v_heads, [5120, 2304, 2304, 2304, 1], 22_422_529),
    ):
        assert len(heads.heads) == 2
        for head in heads.heads:
            linear = [layer for layer in head if isinstance(layer, torch.nn.Linear)]
            assert [linear[0].in_features, *(layer.out_features for layer in linear)] == widths
            assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU"] * (len(widths) - 2) + ["Linear"]
            assert sum(one.numel() for one in head.parameters()) == parameters
        assert heads.normalise.kind == "none"
    assert sum(one.numel() for one in critic.parameters()) == 417_666_052
    encoders = 3 * 124_645_632  # roberta-base with its pooler
    assert round((encoders + 417_666_052) / 1e6, 1) == 791.6


def test_the_target_starts_from_weights_of_its_own_which_fade() -> None:
    trainer = _trainer()
    start, weights = (_weights(one.q_heads.heads[0]) for one in (trainer.target, trainer.critic))
    assert start != weights
    left = {}
    for update in range(1, 45):
        polyak(trainer.target, trainer.critic, trainer.settings.tau)
        now = _weights(trainer.target.q_heads.heads[0])
        left[update] = (now[0] - weights[0]) / (start[0] - weights[0])
    assert (left[10], left[20], left[44]) == pytest.approx((1 - 0.6513, 0.1216, 1 - 0.9903), abs=1e-4)


# A critic small enough for plain numbers, and two episodes: a success, and one that the step limit ended.

_STATES = torch.tensor([[0.3, -0.2], [0.1, 0.9], [-0.7, 0.4], [0.8, 0.5], [0.2, -0.6]])
_ACTIONS = torch.tensor([[0.5, 0.1, -0.3], [-0.4, 0.8, 0.2], [0.9, -0.1, 0.6]])
_FRAMES = [
    EpisodeFrame([0.0, 1.0], True, [0, 1, 2], [0, 1], [[0, 2], [1]], [[0.5, 0.5], [1.0]]),
    EpisodeFrame([0.0], False, [3, 4], [2], [[2, 0]], [[0.5, 0.5]]),
]
_ROWS = [(0, 0, 0.0, 0, 1), (1, 1, 1.0, 1, 2), (3, 2, 0.0, 1, 4)]
"""State, action, reward, done and next state of each transition, as the released buffer holds them."""


def _trainer(**critic: Any) -> CriticTrainer:
    chosen = legacy().critic.model_copy(
        update={"q_widths": [0, 4, 4, 4], "v_widths": [3, 3, 3], "batch": 5, "steps": 3, **critic}
    )
    data: CriticData = build(
        _FRAMES,
        _STATES,
        _ACTIONS,
        gamma=chosen.gamma,
        steps=chosen.n_step,
        truncated_ends=chosen.truncation == "end",
    )
    return CriticTrainer(Critic(shape_of(chosen, 2, 3), seed=3), data, chosen, seed=5)


def _weights(head: torch.nn.Module) -> list[float]:
    return [value for parameter in head.parameters() for value in parameter.flatten().tolist()]


@dataclass
class Mlp:
    """A head in plain numbers: linear layers ``(weights, biases)`` with ReLU between."""

    layers: list[tuple[list[list[float]], list[float]]]

    @classmethod
    def of(cls, head: Any) -> Mlp:
        return cls([(one.weight.tolist(), one.bias.tolist()) for one in head if isinstance(one, torch.nn.Linear)])

    def numbers(self) -> list[float]:
        return list(chain.from_iterable([*chain.from_iterable(weights), *biases] for weights, biases in self.layers))

    def set(self, numbers: list[float]) -> None:
        left = iter(numbers)
        self.layers = [
            ([[next(left) for _ in row] for row in weights], [next(left) for _ in biases])
            for weights, biases in self.layers
        ]

    def passed(self, inputs: list[float]) -> list[list[float]]:
        """Inputs of each layer, and the output."""
        found = [inputs]
        for number, (weights, biases) in enumerate(self.layers):
            sums = [
                sum(w * x for w, x in zip(row, found[-1], strict=True)) + b
                for row, b in zip(weights, biases, strict=True)
            ]
            found.append(sums if number == len(self.layers) - 1 else [max(0.0, value) for value in sums])
        return found

    def value(self, inputs: list[float]) -> float:
        return self.passed(inputs)[-1][0]

    def gradient(self, inputs: list[float], slope: float) -> list[float]:
        """Of ``slope`` times the value, in the order of ``numbers``."""
        passed, back, found = self.passed(inputs), [slope], []
        for (weights, _), given in zip(self.layers[::-1], passed[-2::-1], strict=True):
            found = [s * x for s in back for x in given] + back + found
            back = [
                sum(s * row[i] for s, row in zip(back, weights, strict=True)) if x > 0 else 0.0
                for i, x in enumerate(given)
            ]
        return found


class Released:
    """Updates of the released critic in plain numbers: four errors, one clipped gradient, Adam, a moving average."""

    def __init__(self, trainer: CriticTrainer) -> None:
        self.heads, self.targets = (
            [Mlp.of(head) for heads in (one.q_heads, one.v_heads) for head in heads.heads]
            for one in (trainer.critic, trainer.target)
        )
        size = sum(len(head.numbers()) for head in self.heads)
        self.moments, self.squares, self.updates = [0.0] * size, [0.0] * size, 0

    def update(self, rows: list[int]) -> tuple[float, float]:
        """Root mean squared errors of Q and of V, over the batch and both heads; the update follows."""
        gradients = [[0.0] * len(head.numbers()) for head in self.heads]
        squares = [0.0] * 4
        for row in rows:
            state, action, reward, done, after = _ROWS[row]
            s, a, s_after = _STATES[state].tolist(), _ACTIONS[action].tolist(), _STATES[after].tolist()
            for i in (0, 1):
                y_q = reward + (1 - done) * 0.95 * self.targets[2 + i].value(s_after)
                y_v = self.targets[i].value(a)
                for head, seen, target in ((i, a, y_q), (2 + i, s, y_v)):
                    error = self.heads[head].value(seen) - target
                    squares[head] += error**2 / len(rows)
                    slopes = self.heads[head].gradient(seen, 2 * error / len(rows))
                    gradients[head] = [one + other for one, other in zip(gradients[head], slopes, strict=True)]
        self._adam(list(chain.from_iterable(gradients)))
        for head, target in zip(self.heads, self.targets, strict=True):
            target.set([0.9 * slow + 0.1 * fast for slow, fast in zip(target.numbers(), head.numbers(), strict=True)])
        return math.sqrt(sum(squares[:2]) / 2), math.sqrt(sum(squares[2:]) / 2)

    def _adam(self, gradient: list[float]) -> None:
        norm = math.sqrt(sum(value**2 for value in gradient))
        gradient = [value * min(1.0, 0.01 / (norm + 1e-6)) for value in gradient]
        self.updates += 1
        self.moments = [0.9 * m + 0.1 * g for m, g in zip(self.moments, gradient, strict=True)]
        self.squares = [0.999 * v + 0.001 * g**2 for v, g in zip(self.squares, gradient, strict=True)]
        rises = iter(
            [
                1e-5 * (m / (1 - 0.9**self.updates)) / (math.sqrt(v / (1 - 0.999**self.updates)) + 1e-8)
                for m, v in zip(self.moments, self.squares, strict=True)
            ]
        )
        for head in self.heads:
            head.set([number - next(rises) for number in head.numbers()])


def test_three_updates_have_the_released_losses_weights_and_targets() -> None:
    trainer = _trainer()
    released, start = Released(trainer), [_weights(head) for head in trainer.critic.q_heads.heads]
    for update in range(3):
        rows = np.random.default_rng([5, update]).integers(3, size=5).tolist()
        figures = trainer.step(update)
        assert (figures["td_error"], figures["v_error"]) == pytest.approx(released.update(rows), rel=1e-5)
        for one, plain in ((trainer.critic, released.heads), (trainer.target, released.targets)):
            for head, numbers in zip([*one.q_heads.heads, *one.v_heads.heads], plain, strict=True):
                assert _weights(head) == pytest.approx(numbers.numbers(), abs=3e-7)  # an update moves them by 1e-5
    moved = [
        abs(a - b)
        for head, old in zip(trainer.critic.q_heads.heads, start, strict=True)
        for a, b in zip(_weights(head), old, strict=True)
    ]
    assert max(moved) > 2.5e-5


def test_the_worked_example_has_the_losses_of_these_numbers() -> None:
    trainer = _trainer()
    with torch.no_grad():
        for one, value in ((trainer.critic, 0.5), (trainer.target, 0.2)):
            for number, head in enumerate([*one.q_heads.heads, *one.v_heads.heads]):
                for parameter in head.parameters():
                    parameter.zero_()
                head[-1].bias.fill_(value + 0.1 * number)
    rows = np.random.default_rng([5, 0]).integers(3, size=5)
    # Q is 0.5 and 0.6 everywhere, V 0.7 and 0.8; the target's Q 0.2 and 0.3, its V 0.4 and 0.5.
    y_q = {0: (0.95 * 0.4, 0.95 * 0.5), 1: (1.0, 1.0), 2: (0.0, 0.0)}  # goes on, succeeds, is cut off
    errors = [(0.5 - y_q[row][0]) ** 2 + (0.6 - y_q[row][1]) ** 2 for row in rows.tolist()]
    figures = trainer.step(0)
    assert 2 * figures["td_error"] ** 2 == pytest.approx(sum(errors) / 5, rel=1e-5)
    assert 2 * figures["v_error"] ** 2 == pytest.approx(0.5**2 + 0.5**2, rel=1e-5)


def test_an_advantage_is_the_larger_q_less_the_larger_v() -> None:
    critic = _trainer().critic
    q, v = critic.q_heads.values(_ACTIONS), critic.v_heads.values(_STATES[:3])
    expected = (
        [max(column) for column in zip(*q.tolist(), strict=True)],
        [max(column) for column in zip(*v.tolist(), strict=True)],
    )
    assert (critic.q(_ACTIONS).tolist(), critic.v(_STATES[:3]).tolist()) == expected


@pytest.mark.parametrize("output", [-1.3, 0.0, 2.1])
def test_classified_returns_have_the_cross_entropy_of_two_outputs(output: float) -> None:
    trainer = _trainer(objective="mc", loss="logistic")
    with torch.no_grad():
        for heads in (trainer.critic.q_heads, trainer.critic.v_heads):
            for head in heads.heads:
                for parameter in head.parameters():
                    parameter.zero_()
                head[-1].bias.fill_(output)
    rows = torch.tensor([0, 1, 2])
    labels = [1, 1, 0]  # whether what followed was worth anything
    assert trainer.data.returns.tolist() == pytest.approx([0.95, 1.0, 0.0])
    y_q, _ = trainer._targets(rows)
    found = trainer.critic.q_heads.readout.error(trainer.critic.q_heads(_ACTIONS), y_q)
    exponents = [1.0, math.exp(output)]
    entropy = [-math.log(exponents[one] / sum(exponents)) for one in labels]
    assert float(found.detach()) == pytest.approx(2 * sum(entropy) / 3, rel=1e-5)


def test_regressed_returns_do_not_broadcast() -> None:
    returns = torch.tensor([0.0, 1.0, 2.0, 3.0])
    released = (returns[:, None] - returns).square().mean()  # (B, 1) against (B,)
    assert float(released) == 2.5
    assert float(Regression().error(returns[None, :, None], returns)) == 0.0


def test_the_return_of_a_success_at_the_fifth_step() -> None:
    found = n_step([0, 0, 0, 0, 1], terminal=True, gamma=legacy().critic.gamma, steps=0)
    assert found.reward[0] == pytest.approx(0.81450625)


@pytest.mark.parametrize(
    ("tasks", "advantage", "weight"),
    [("webshop", 0.05, 0), ("webshop", 0.0501, 1), ("general", 0.10, 0), ("general", 0.1001, 1)],
)
def test_what_is_imitated_is_better_by_more_than_the_cut_of_its_tasks(
    tasks: str, advantage: float, weight: int
) -> None:
    chosen = legacy(f"tasks.set={tasks}").policy
    candidates = StateCandidates(["?", "back"], [None, object()], [1, 1])  # type: ignore[list-item]
    choice = best_of_n(
        candidates,
        np.array([9.0, advantage]),  # what does not parse is never imitated
        0.0,
        margin=chosen.margin,
        min_support=chosen.min_support,
        radius=chosen.support_radius,
    )
    assert (choice.index is not None) == bool(weight)


def test_a_cut_that_is_given_counts_on_every_task_set() -> None:
    assert legacy("tasks.set=webshop", "policy.margin=0.2").policy.margin == 0.2


@pytest.mark.parametrize(("wide", "width", "changed"), [(5, 11, False), (51, 110, True)])
def test_a_screen_has_changed_beyond_a_mean_square_of_30(wide: int, width: int, changed: bool) -> None:
    """``wide`` columns of ``width`` differ by 6, the others by 5: mean squares of 30.0 and 30.1."""
    before, after = torch.zeros(3, 4, width, dtype=torch.uint8), torch.full((3, 4, width), 5, dtype=torch.uint8)
    after[:, :, :wide] = 6
    assert float((after.float() - before.float()).square().mean()) == pytest.approx(30.1 if changed else 30.0)
    pictures = {b"before": before, b"after": after}
    transform = SimpleNamespace(fit=Fit.STRETCH, prepare=lambda screen: {"pixel_values": pictures[screen][None]})
    vlm: Any = SimpleNamespace(transform=transform, prefix_ids=lambda *prompt: [])
    steps = [SimpleNamespace(screen=screen, action_text="back", action=None) for screen in pictures]
    episode = SimpleNamespace(episode_id="one", steps=steps, task=SimpleNamespace(text="go"))
    store: Any = SimpleNamespace(episodes=lambda: [episode])
    training, held_out, _ = label(store, vlm, legacy())
    assert [one.changed for one in training + held_out] == [changed]
