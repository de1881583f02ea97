"""DigiRL's two value functions on state features, trained by classification (arXiv 2406.11896, section 4).

``V(instruction)`` looks at the first observation of an episode (whose features hold the task) and predicts whether the
episode succeeds. ``V(s)`` looks at any state and predicts whether the return from there is positive. Both are heads
like the critic's, with the cross-entropy of one logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from digiq_ray.core.schedules import schedule
from digiq_ray.core.settings import CriticSettings
from digiq_ray.core.spread import ALONE, Spread
from digiq_ray.critic.dataset import EpisodeFrame
from digiq_ray.critic.features import Features, Selection
from digiq_ray.critic.heads import CriticShape, Heads, aggregated


@dataclass(frozen=True, slots=True)
class Labelled:
    """Rows of state features ``[n]``, and whether what followed was a success, ``[n]`` of 0 and 1."""

    rows: torch.Tensor
    labels: torch.Tensor


def labelled(frames: Sequence[EpisodeFrame]) -> tuple[Labelled, Labelled]:
    """First states with whether the episode's rewards sum to more than 0; and states with whether those ahead do.

    As in the released code, the state after a step has the label of the step, so that each step counts its two states.
    """
    first: list[tuple[int, bool]] = []
    states: list[tuple[int, bool]] = []
    for frame in frames:
        ahead = np.cumsum(np.asarray(frame.rewards, dtype=np.float64)[::-1])[::-1]
        first.append((frame.states[0], bool(ahead[0] > 0)))
        for step, rest in enumerate(ahead):
            states += [(frame.states[step], bool(rest > 0)), (frame.states[step + 1], bool(rest > 0))]
    return _tensors(first), _tensors(states)


def _tensors(pairs: Sequence[tuple[int, bool]]) -> Labelled:
    rows, labels = zip(*pairs, strict=True)
    return Labelled(torch.tensor(rows), torch.tensor(labels, dtype=torch.float32))


class ValueHeads(nn.Module):
    """Twin heads for instructions and for states; the smaller of two values counts.

    Args:
        shape: Of the V heads; what it says about losses and their bounds is not used.
        seed: Decides the initial weights.
    """

    def __init__(self, shape: CriticShape, *, seed: int) -> None:
        super().__init__()
        shape = replace(shape, heads=2, loss="logistic", low=0.0, high=1.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.of_instructions = Heads(shape.state_dim, shape.v, shape)
            self.of_states = Heads(shape.state_dim, shape.v, shape)

    def instruction(self, features: torch.Tensor) -> torch.Tensor:
        """V(instruction) ``[n]`` in [0, 1] of the features ``[n, dim]`` of first observations."""
        return aggregated(self.of_instructions.values(features), "min")

    def state(self, features: torch.Tensor) -> torch.Tensor:
        """V(s) ``[n]`` in [0, 1] of the features ``[n, dim]`` of states."""
        return aggregated(self.of_states.values(features), "min")


class ValueTrainer:
    """Trains both value functions at once.

    Args:
        values: What is trained.
        features: f(s), ``[S, dim]``.
        first, states: What the two learn from; see ``labelled``.
        settings: Updates, batch and learning rate are those of the critic.
        seed: Decides the batches; one depends on its step only.
        spread: Over which processes; it may move the value functions to another device.

    Raises:
        InputError: a batch has fewer states than there are processes.
    """

    def __init__(
        self,
        values: ValueHeads,
        features: Features,
        first: Labelled,
        states: Labelled,
        settings: CriticSettings,
        *,
        seed: int,
        spread: Spread = ALONE,
    ) -> None:
        spread.require(settings.batch, "states")
        self.values, self.steps, self._spread = values.train(), settings.steps, spread
        self._features, self._settings, self._seed = features, settings, seed
        self._parts = ((values.of_instructions, first), (values.of_states, states))
        for heads, part in self._parts:
            heads.normalise.fit(Selection(features, part.rows))
        self._run = spread.replicated(values)
        self.optimizer = torch.optim.AdamW(
            values.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._rate = schedule(settings.schedule, settings.learning_rate, settings.steps, settings.warmup)

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds."""
        return {"values": self.values}

    def step(self, index: int) -> dict[str, float]:
        """One update; returns the cross-entropies of the batch, the mean of two heads."""
        rng = np.random.default_rng([self._seed, index])
        drawn = [torch.from_numpy(rng.integers(len(part.rows), size=self._settings.batch)) for _, part in self._parts]
        errors = self._run(self._errors, drawn)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(index)
        self.optimizer.zero_grad(set_to_none=True)
        (errors[0] + errors[1]).backward()
        if self._settings.clip:
            torch.nn.utils.clip_grad_norm_(self.values.parameters(), self._settings.clip)
        self.optimizer.step()
        return self._spread.mean({"instruction_error": errors[0].item() / 2, "state_error": errors[1].item() / 2})

    def _errors(self, drawn: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Of whole batches, the weighted errors of this process's part: of instructions and of states."""
        spread, errors = self._spread, []
        for (heads, part), rows in zip(self._parts, drawn, strict=True):
            own = rows[spread.every]
            mask = None if spread.size == 1 else heads.mask(len(rows))[spread.every]
            outputs = heads(self._features[part.rows[own]].to(heads.normalise.mean.device), mask)
            error = heads.readout.error(outputs, part.labels[own].to(outputs.device))
            errors.append(spread.weight(len(own), len(rows)) * error)
        return errors
