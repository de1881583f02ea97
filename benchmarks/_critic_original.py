"""How the released code trains its critic (``DigiRL-agent/digiq`` at commit 8181379), written again from what it does.

An update is four micro-batches of dictionaries from a ``DataLoader``. For each the texts are parsed and encoded, all
four heads are evaluated one by one, and the target's four heads twice over, of which half the values are thrown away;
then come four errors against discounted returns that are only logged, a backward pass under anomaly detection, and the
norm of the gradient so far is clipped. After the fourth the optimiser steps, and each weight of the target is computed
anew. Every update is followed by a validation on as many samples, which can be left out here.

Two things are easier than there. The three text encoders, which it also trains (373.9 million weights), are a table.
And where V follows all candidates, which the released critic cannot, they are evaluated as its policy update evaluates
them: one column after the other, all four heads for each.
"""

from __future__ import annotations

import ast
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from benchmarks._feature_ways import ReplayBuffer
from digiq_ray.core.settings import CriticSettings
from digiq_ray.critic.heads import Critic, aggregated

MICRO_BATCHES = 4
TEXT_DIM = 768
_TEXTS = np.random.default_rng(0).standard_normal((1024, TEXT_DIM), dtype=np.float32)

Batch = Mapping[str, Any]
Info = dict[str, float]


def encoded(texts: Iterable[str]) -> NDArray[np.float32]:
    """What stands for the text encoders: a vector ``[n, 768]`` that a text always has."""
    return _TEXTS[[zlib.crc32(text.encode()) % len(_TEXTS) for text in texts]]


def parsed_observations(observations: Iterable[str]) -> tuple[list[str], list[str]]:
    """Previous actions and goals."""
    previous, goals = [], []
    for observation in observations:
        action = re.search(r"Previous Actions: (.*?)Goal:", observation)
        goal = re.search(r"Goal: (.*?)</s>", observation)
        previous.append(action.group(1) if action else "")
        goals.append(goal.group(1) if goal else "")
    return previous, goals


def parsed_actions(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Types and typed texts; what is no action stands for both."""
    types, typed = [], []
    for text in texts:
        found = {}
        for key in ("action_type", "touch_point", "lift_point", "typed_text"):
            match = re.search(f'"{key}": "(.*?)"', text)
            found[key] = match.group(1) if match else None
        try:
            for key in ("touch_point", "lift_point"):
                ast.literal_eval(found[key] or "")
            types.append(found["action_type"] or "")
            typed.append(found["typed_text"] or "")
        except (SyntaxError, ValueError):
            types.append(text)
            typed.append(text)
    return types, typed


class Inputs(Protocol):
    """Makes what Q and V heads see, ``[n, action_dim]`` and ``[n, state_dim]``, of a batch's columns."""

    def __call__(
        self, observations: Sequence[str], images: torch.Tensor, actions: Sequence[str], vlm: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


def released_inputs(
    observations: Sequence[str], images: torch.Tensor, actions: Sequence[str], vlm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of the released heads: 10,752 numbers for Q, 5,120 for V."""
    previous, goals = parsed_observations(observations)
    state = [torch.from_numpy(encoded(texts)) for texts in (*parsed_actions(previous), goals)]
    action = [torch.from_numpy(encoded(texts)) for texts in parsed_actions(actions)]
    return torch.cat([*state, images, *action, vlm], dim=1), torch.cat([*state, images], dim=1)


def vlm_inputs(
    observations: Sequence[str], images: torch.Tensor, actions: Sequence[str], vlm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The VLM's features for Q, two images' for V: 4,096 and 2,816 numbers."""
    return vlm, images


class OriginalTrainer:
    """The released training of ``critic``, with the losses that ``settings`` ask for.

    Args:
        critic: Its heads are trained, one at a time.
        target: Where they bootstrap from.
        settings: Of losses, optimiser and target; the conservative term and the other objectives are not there.
        inputs: What the heads see.
    """

    def __init__(self, critic: Critic, target: Critic, settings: CriticSettings, inputs: Inputs) -> None:
        self.critic, self.target, self._settings, self._inputs = critic.train(), target, settings, inputs
        self.optimizer = torch.optim.AdamW(
            critic.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._criterion = nn.MSELoss()

    def train(self, buffer: ReplayBuffer, validation: ReplayBuffer | None) -> Info:
        """One update on a batch drawn from ``buffer``, and the losses on one from ``validation`` if there is one."""
        info = self.update(self._batches(buffer))
        if validation is not None:
            with torch.no_grad():
                found = [self._loss(batch, validation=True) for batch in self._batches(validation)]
            info |= {f"validation.{name}": value for name, value in _mean(found).items()}
        return info

    def update(self, batches: Iterable[Batch]) -> Info:
        """One update on ``MICRO_BATCHES`` micro-batches; returns the means of what is logged."""
        found = []
        with torch.autograd.set_detect_anomaly(True):
            for batch in batches:
                found.append(self._loss(batch))
                if self._settings.clip:
                    nn.utils.clip_grad_norm_(self.critic.parameters(), self._settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        tau = self._settings.tau
        for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            slow.data.copy_(slow.data * (1.0 - tau) + fast.data * tau)
        return _mean(found)

    def _batches(self, buffer: ReplayBuffer) -> Iterable[Batch]:
        sampler = RandomSampler(buffer, replacement=True, num_samples=self._settings.batch)
        return DataLoader(buffer, batch_size=self._settings.batch // MICRO_BATCHES, sampler=sampler)

    def _loss(self, batch: Batch, *, validation: bool = False) -> Info:
        reward, done, mc_return = (batch[name].float().flatten() for name in ("reward", "done", "mc_return"))
        now = (batch["observation"], batch["image_features"])
        q1, q2, v1, v2 = self._heads(self.critic, *now, batch["action"], batch["q_rep_out"])
        with torch.no_grad():
            v1_target, v2_target = self._shared(*self._q_of_actions(batch))
            # The action counts for nothing here.
            _, _, *after = self._heads(
                self.target,
                batch["next_observation"],
                batch["next_image_features"],
                batch["action"],
                batch["q_rep_out"],
            )
            q1_target, q2_target = (
                reward + (1 - done) * value * self._settings.gamma for value in self._shared(*after)
            )
        errors = {
            "q1.loss": self._criterion(q1, q1_target),
            "q2.loss": self._criterion(q2, q2_target),
            "v1.loss": self._criterion(v1, v1_target),
            "v2.loss": self._criterion(v2, v2_target),
        }
        values = {"q1": q1, "q2": q2, "v1": v1, "v2": v2}
        returns = {f"{name}_mc_return_mse": self._criterion(value, mc_return) for name, value in values.items()}
        if not validation:
            (sum(errors.values(), torch.zeros(())) / MICRO_BATCHES).backward()
        values |= {"q_max": torch.maximum(q1, q2), "v_max": torch.maximum(v1, v2)}
        return {name: value.detach().item() for name, value in (errors | returns).items()} | _spread(values)

    def _heads(
        self,
        critic: Critic,
        observations: Sequence[str],
        images: torch.Tensor,
        actions: Sequence[str],
        vlm: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Values of all four heads, ``[n]`` each: two of Q, two of V."""
        found: list[torch.Tensor] = []
        for heads, states in zip(
            (critic.q_heads, critic.v_heads), self._inputs(observations, images, actions, vlm), strict=True
        ):
            ready = heads.dropout(heads.normalise(states))
            found += [head(ready).flatten() for head in heads.heads]
        return tuple(found)

    def _q_of_actions(self, batch: Batch) -> list[torch.Tensor]:
        """What V follows, for each head: Q of the executed action, or the mean over all candidates."""
        now = (batch["observation"], batch["image_features"])
        if self._settings.backup == "executed":
            q1, q2, _, _ = self._heads(self.target, *now, batch["action"], batch["q_rep_out"])
            return [q1, q2]
        texts = [joined.split("<split>") for joined in batch["action_list"]]
        columns = []
        for column in range(batch["q_rep_out_list"].shape[1]):
            actions = [row[column] for row in texts]
            q1, q2, _, _ = self._heads(self.target, *now, actions, batch["q_rep_out_list"][:, column, :])
            columns.append(torch.stack(self._shared(q1, q2)))
        return list(torch.stack(columns).mean(0))

    def _shared(self, one: torch.Tensor, other: torch.Tensor) -> list[torch.Tensor]:
        if self._settings.targets == "own":
            return [one, other]
        return [aggregated(torch.stack([one, other]), self._settings.aggregate)] * 2


def _spread(values: Mapping[str, torch.Tensor]) -> Info:
    found = {}
    for name, tensor in values.items():
        value = tensor.detach().cpu()
        for figure, of in {"mean": torch.mean, "min": torch.min, "max": torch.max, "std": torch.std}.items():
            found[f"{name}.{figure}"] = of(value).item()
    return found


def _mean(infos: Sequence[Info]) -> Info:
    return {name: sum(info[name] for info in infos) / len(infos) for name in infos[0]}
