"""Stage 1: fine-tune the VLM to tell whether an action changes the screen, so that its features know which actions do.

One example is one step of an episode; its label comes from the pixels before and after. Asking about screen changes
alone makes other things less readable (whether the screen fits the task), so each batch also rehearses what the model
knew: the behaviour action is predicted beside the answer, with weight ``rehearsal``. Both follow the same screen and
prompt, which are computed once for the two where the model allows it (``packing.py``).
Source: Digi-Q section 4.2; rehearsal is ours.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from digiq_ray.core.errors import InputError, ModelError
from digiq_ray.core.schedules import schedule
from digiq_ray.core.settings import Metric, TuningSettings
from digiq_ray.core.spread import ALONE, Spread
from digiq_ray.vlm.batching import Screens, answer_logprobs, inputs, pad
from digiq_ray.vlm.early_stop import EarlyStop
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.packing import can_pack, packed_states, text_logprobs
from digiq_ray.vlm.tuning import Tuner


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


def stage1_loss(vlm: Vlm, examples: Sequence[ChangeExample], rehearsal: float, *, packing: bool = True) -> torch.Tensor:
    """Cross-entropy of the answer plus ``rehearsal`` times that of the behaviour action."""
    return stage1_losses(vlm, examples, rehearsal, packing=packing)[0]


def stage1_losses(
    vlm: Vlm, examples: Sequence[ChangeExample], rehearsal: float, *, packing: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """``stage1_loss``, and the cross-entropy of the answer alone."""
    no, yes = answer_tokens(vlm)
    targets = torch.tensor([yes if e.changed else no for e in examples], device=vlm.model.device)
    if not rehearsal:
        answer = cross_entropy(change_logits(vlm, [e.screen for e in examples], examples), targets)
        return answer, answer
    logits, logprobs = (_together if packing and can_pack(vlm) else _apart)(vlm, examples)
    answer = cross_entropy(logits, targets)
    return answer - rehearsal * logprobs.mean(), answer


def _apart(vlm: Vlm, examples: Sequence[ChangeExample]) -> tuple[torch.Tensor, torch.Tensor]:
    """``change_logits``, and the log-probabilities ``[B]`` of the behaviour actions, each from a pass of its own."""
    screens = [example.screen for example in examples]
    prompts = [[*example.prefix, *vlm.act_ids()] for example in examples]
    logits = change_logits(vlm, screens, examples)
    logprobs, _ = answer_logprobs(vlm, screens, prompts, [vlm.answer_ids(e.action) for e in examples])
    return logits, logprobs.sum(1)


def _together(vlm: Vlm, examples: Sequence[ChangeExample]) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, from one pass."""
    answers = [vlm.answer_ids(example.action) for example in examples]
    texts = [
        [vlm.change_ids(example.action)[0], [*vlm.act_ids(), *answer[:-1]]]
        for example, answer in zip(examples, answers, strict=True)
    ]
    states = packed_states(vlm, [e.screen for e in examples], [e.prefix for e in examples], texts)
    asked, acted = states[::2], states[1::2]
    return vlm.logits(torch.stack([one[-1] for one in asked])), text_logprobs(vlm, acted, answers)


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of ``range(count)`` that depends on seed and epoch only."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batches(
    count: int, size: int, steps: int, seed: int, start: int = 0, together: Sequence[Hashable] | None = None
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """``(step, indices)`` for steps ``start`` to ``steps``: whole epochs in turn, resumable at any step.

    Args:
        count, size: Of the examples, and of a batch.
        steps, start: Of the training, and the first one that is wanted.
        seed: Decides the order in each epoch.
        together: For each example what it belongs to; examples of the same follow each other in every epoch.
    """
    per_epoch = max(1, count // size)
    epoch = start // per_epoch
    order = _gathered(epoch_order(count, seed, epoch), together)
    for step in range(start, steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = _gathered(epoch_order(count, seed, epoch), together)
        offset = (step % per_epoch) * size
        yield step, order[offset : offset + size]


def _gathered(order: NDArray[np.int64], together: Sequence[Hashable] | None) -> NDArray[np.int64]:
    """``order`` with each example moved up behind the first one of those that it belongs together with."""
    if together is None:
        return order
    first: dict[Hashable, int] = {}
    places = [first.setdefault(together[example], place) for place, example in enumerate(order)]
    return order[np.argsort(places, kind="stable")]


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
    tuning: TuningSettings = field(default_factory=TuningSettings)


class FinetuneTrainer:
    """Trains ``vlm`` on labelled steps.

    Args:
        vlm: What is trained.
        examples: To learn from.
        settings: See there.
        held_out: What accuracy is measured on, if ``settings.patience`` asks for it.
        spread: Over which processes; the parameters of the model may be others from here on.

    Raises:
        InputError: a batch has fewer examples than there are processes.
    """

    def __init__(
        self,
        vlm: Vlm,
        examples: Sequence[ChangeExample],
        settings: FinetuneSettings,
        held_out: Sequence[ChangeExample] = (),
        spread: Spread = ALONE,
    ) -> None:
        self.vlm, self.examples, self.settings, self.steps = vlm, examples, settings, settings.steps
        self._held_out, self._spread = held_out, spread
        self.early_stop: EarlyStop | None = None
        if settings.patience:
            self.early_stop = EarlyStop(settings.steps, settings.evaluate_every, settings.patience)
        self._tuner = Tuner(
            vlm,
            settings.tuning,
            rate=schedule("linear", settings.learning_rate, settings.steps, warmup=20),
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            seed=settings.seed,
            spread=spread,
        )
        self.optimizer = self._tuner.optimizer
        size = min(settings.batch, len(examples))
        spread.require(size, "examples")
        self._order = dict(batches(len(examples), size, settings.steps, settings.seed))

    def modules(self) -> dict[str, torch.nn.Module]:
        """What a checkpoint holds."""
        kept = {"vlm": self._tuner.module()}
        return kept if self.early_stop is None else {**kept, "early_stop": self.early_stop}

    @property
    def stopped(self) -> bool:
        """Whether the accuracy on held-out examples has not risen for long enough."""
        return self.early_stop is not None and self.early_stop.stopped

    def step(self, index: int) -> dict[str, float]:
        """One update; returns the loss of the batch, and that of its answers alone."""
        batch = self._order[index]
        examples = [self.examples[i] for i in batch[self._spread.stretch(len(batch))]]
        losses = self._tuner.run(
            stage1_losses, self.vlm, examples, self.settings.rehearsal, packing=self.settings.tuning.packing
        )
        loss, answer = (self._spread.weight(len(examples), len(batch)) * each for each in losses)
        self._tuner.update(index, loss)
        if self.early_stop is not None and self.early_stop.is_due(index + 1):
            self.vlm.model.eval()
            self.early_stop.note(self._tuner.run(accuracy, self.vlm, self._held_out))
            self.vlm.model.train()
        return self._spread.mean({"loss": float(loss.detach()), "answer_loss": float(answer.detach())})

    def finish(self) -> None:
        """Ends the training: the model is one like any other again."""
        self._tuner.finish()
