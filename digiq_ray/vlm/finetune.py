"""Stage 1: fine-tune the VLM to tell whether an action changes the screen, so that its features know which actions do.

One example is one step of an episode; its label comes from the pixels before and after. Asking about screen changes
alone makes other things less readable (whether the screen fits the task), so each batch also rehearses what the model
knew: the behaviour action is predicted beside the answer, with weight ``rehearsal``.
Source: Digi-Q section 4.2; rehearsal is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from digiq_ray.core.errors import InputError, ModelError
from digiq_ray.core.settings import Metric
from digiq_ray.vlm.batching import Screens, answer_logprobs, inputs, pad
from digiq_ray.vlm.early_stop import EarlyStop
from digiq_ray.vlm.model import Vlm


@dataclass(frozen=True, slots=True)
class ChangeExample:
    """One step: the state's prepared screen, its prefix ids, the action's text, and whether the screen changed."""

    screen: dict[str, torch.Tensor]
    prefix: Sequence[int]
    action: str
    changed: bool


def pixel_distance(
    before: torch.Tensor,
    after: torch.Tensor,
    ignore_top: float,
    boxes: Sequence[Sequence[float]] = (),
    metric: Metric = "mse",
) -> float:
    """Mean difference of two ``[3, H, W]`` pictures below the status bar: squared (0 to 255 squared), or absolute.

    Args:
        before, after: The pictures.
        ignore_top: Share of the height, from the top, that is left out (clock, spinner).
        boxes: Other regions that are left out, ``[x0, y0, x1, y1]`` as shares of width and height; a pixel that a box
            touches is out.
        metric: ``mse`` or ``mae``.

    Raises:
        InputError: nothing is left to compare.
    """
    top = round(ignore_top * before.shape[1])
    difference = before[:, top:].float() - after[:, top:].float()
    if boxes:
        difference = difference[:, _outside(boxes, *before.shape[1:])[top:]]
    if not difference.numel():
        raise InputError("the regions that labels leave out cover the whole screen: see finetune.ignore_boxes")
    return float((difference.square() if metric == "mse" else difference.abs()).mean())


def _outside(boxes: Sequence[Sequence[float]], height: int, width: int) -> torch.Tensor:
    """Which pixels no box touches, ``[H, W]``."""
    kept = torch.ones(height, width, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        kept[int(y0 * height) : math.ceil(y1 * height), int(x0 * width) : math.ceil(x1 * width)] = False
    return kept


def change_logits(vlm: Vlm, screens: Screens, examples: Sequence[ChangeExample]) -> torch.Tensor:
    """Logits ``[B, V]`` of the answer's first token."""
    rows = [[*example.prefix, *vlm.change_ids(example.action)[0]] for example in examples]
    given = inputs(vlm, screens, *pad(rows, vlm.pad_id, left=True))
    out = vlm.model.model(**given, use_cache=False)
    return vlm.logits(out.last_hidden_state[:, -1])


def answer_tokens(vlm: Vlm) -> tuple[int, int]:
    """First token ids of "no" and "yes".

    Raises:
        ModelError: both answers begin with the same token, so that they could not be told apart.
    """
    no, yes = vlm.answer_ids(vlm.template.no)[0], vlm.answer_ids(vlm.template.yes)[0]
    if no == yes:
        raise ModelError(f"the tokenizer begins {vlm.template.no!r} and {vlm.template.yes!r} with the same token")
    return no, yes


@torch.inference_mode()
def accuracy(vlm: Vlm, examples: Sequence[ChangeExample], batch: int = 128) -> float:
    """Share of examples whose likelier answer is right."""
    no, yes = answer_tokens(vlm)
    right = 0
    for start in range(0, len(examples), batch):
        part = examples[start : start + batch]
        logits = change_logits(vlm, [e.screen for e in part], part)
        said = (logits[:, yes] > logits[:, no]).cpu()
        right += int((said == torch.tensor([e.changed for e in part])).sum())
    return right / len(examples)


def stage1_loss(vlm: Vlm, examples: Sequence[ChangeExample], rehearsal: float) -> torch.Tensor:
    """Cross-entropy of the answer plus ``rehearsal`` times that of the behaviour action."""
    return stage1_losses(vlm, examples, rehearsal)[0]


def stage1_losses(vlm: Vlm, examples: Sequence[ChangeExample], rehearsal: float) -> tuple[torch.Tensor, torch.Tensor]:
    """``stage1_loss``, and the cross-entropy of the answer alone."""
    no, yes = answer_tokens(vlm)
    screens = [example.screen for example in examples]
    targets = torch.tensor([yes if e.changed else no for e in examples], device=vlm.model.device)
    answer = loss = cross_entropy(change_logits(vlm, screens, examples), targets)
    if rehearsal > 0:
        prompts = [[*example.prefix, *vlm.act_ids()] for example in examples]
        logprobs, _ = answer_logprobs(vlm, screens, prompts, [vlm.answer_ids(e.action) for e in examples])
        loss = loss - rehearsal * logprobs.sum(1).mean()
    return loss, answer


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of ``range(count)`` that depends on seed and epoch only."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batches(count: int, size: int, steps: int, seed: int, start: int = 0) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """``(step, indices)`` for steps ``start`` to ``steps``: whole epochs in turn, resumable at any step."""
    per_epoch = max(1, count // size)
    epoch = start // per_epoch
    order = epoch_order(count, seed, epoch)
    for step in range(start, steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = epoch_order(count, seed, epoch)
        offset = (step % per_epoch) * size
        yield step, order[offset : offset + size]


LearningRate = Callable[[int], float]


def warm_then_linear(peak: float, steps: int, warmup: int, final: float = 0.1) -> LearningRate:
    """Learning rate that rises over ``warmup`` steps, then falls in a line to ``final * peak``."""
    return lambda step: peak * min(1.0, (step + 1) / max(1, warmup)) * (1.0 - (1.0 - final) * step / max(1, steps))


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """Numbers of stage 1."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    rehearsal: float
    clip: float
    seed: int
    patience: int = 0
    evaluate_every: int = 20


class FinetuneTrainer:
    """Trains ``vlm`` on labelled steps.

    Args:
        vlm: What is trained.
        examples: To learn from.
        settings: See there.
        held_out: What accuracy is measured on, if ``settings.patience`` asks for it.
    """

    def __init__(
        self,
        vlm: Vlm,
        examples: Sequence[ChangeExample],
        settings: FinetuneSettings,
        held_out: Sequence[ChangeExample] = (),
    ) -> None:
        self.vlm, self.examples, self.settings, self.steps = vlm, examples, settings, settings.steps
        self._held_out = held_out
        self.early_stop: EarlyStop | None = None
        if settings.patience:
            self.early_stop = EarlyStop(settings.steps, settings.evaluate_every, settings.patience)
        self.vlm.model.train()
        self.optimizer = torch.optim.AdamW(
            vlm.model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._order = dict(batches(len(examples), min(settings.batch, len(examples)), settings.steps, settings.seed))
        self._rate = warm_then_linear(settings.learning_rate, settings.steps, warmup=20)

    def modules(self) -> dict[str, torch.nn.Module]:
        """What a checkpoint holds."""
        kept: dict[str, torch.nn.Module] = {"vlm": self.vlm.model}
        return kept if self.early_stop is None else {**kept, "early_stop": self.early_stop}

    @property
    def stopped(self) -> bool:
        """Whether the accuracy on held-out examples has not risen for long enough."""
        return self.early_stop is not None and self.early_stop.stopped

    def step(self, index: int) -> dict[str, float]:
        """One update; returns the loss of the batch, and that of its answers alone."""
        examples = [self.examples[i] for i in self._order[index]]
        loss, answer = stage1_losses(self.vlm, examples, self.settings.rehearsal)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(index)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vlm.model.parameters(), self.settings.clip)
        self.optimizer.step()
        if self.early_stop is not None and self.early_stop.is_due(index + 1):
            self.vlm.model.eval()
            self.early_stop.note(accuracy(self.vlm, self._held_out))
            self.vlm.model.train()
        return {"loss": float(loss.detach()), "answer_loss": float(answer.detach())}
