"""Makes the tiny VLM's behaviour policy from nothing but this repository: ``python -m digiq_ray.loops.tiny_vlm``.

First reading lessons with exact answers (what is where on random screens), then cloning of a demonstrator with
systematic mistakes, on the textbook release of the phone only. No episode of the updated release, no reward and no test
wording is seen. About three quarters of an hour on one core; the result ships with the package, so that nobody has to
wait for it.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import nn
from torch.nn.functional import cross_entropy

from digiq_ray.core.actions import format_action
from digiq_ray.vlm.batching import answer_logprobs, pad
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import IMAGE_SIZE, SHIPPED, make_vlm
from emulator_workers.simphone.demonstrator import demonstrate
from emulator_workers.simphone.lessons import questions, random_phone, words
from emulator_workers.simphone.oracle import apply
from emulator_workers.simphone.phone import SimPhone
from emulator_workers.simphone.screens import render
from emulator_workers.simphone.tasks import KINDS, make_task
from emulator_workers.simphone.world import Release

Screen = dict[str, torch.Tensor]
Demonstration = tuple[Screen, list[int], str]
_IGNORED = -100
_POOL = 4000


def screen_of(phone: SimPhone) -> Screen:
    """The phone's screen as the model's transform prepares it."""
    image = render(phone).resize((IMAGE_SIZE, IMAGE_SIZE), 4)
    return {"pixel_values": torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())}


def lesson_loss(vlm: Vlm, rng: random.Random, size: int) -> torch.Tensor:
    """Cross-entropy of the answers about ``size`` random screens; many questions share one screen."""
    screens, rows, labels = [], [], []
    for _ in range(size):
        phone = random_phone(rng)
        screen = screen_of(phone)
        screens.append(screen)
        row: list[int] = []
        label: list[int] = []
        for question, answer in questions(phone, rng):
            whole = vlm.prefix_ids(screen, question, ())
            asked = whole if not row else whole[-_question_length(vlm, question) :]
            answered = vlm.answer_ids(answer)
            row += [*asked, *vlm.act_ids(), *answered]
            label += [_IGNORED] * (len(asked) + len(vlm.act_ids())) + answered
        rows.append(row)
        labels.append(label)
    ids, mask = pad(rows, vlm.pad_id, left=False)
    targets, _ = pad(labels, _IGNORED, left=False)
    images = vlm.transform.batch(screens, torch.float32)
    hidden = vlm.model.model(input_ids=ids, attention_mask=mask, use_cache=False, **images).last_hidden_state
    asked_for = targets[:, 1:] != _IGNORED
    return cross_entropy(vlm.model.lm_head(hidden[:, :-1][asked_for]), targets[:, 1:][asked_for])


def _question_length(vlm: Vlm, question: str) -> int:
    return len(vlm.tokenizer(vlm.template.prefix_text(question, ()), add_special_tokens=False)["input_ids"])


def demonstrations(vlm: Vlm, rng: random.Random) -> Iterator[Demonstration]:
    """Endless states and actions of the demonstrator on the textbook release, in random order."""
    pool: list[Demonstration] = []
    index = 0
    while True:
        while len(pool) < _POOL:
            index += 1
            task = make_task(rng.choice(sorted(KINDS)), "pretrain", index, seed=0)
            phone = SimPhone(task, release=Release.TEXTBOOK)
            history: tuple[str, ...] = ()
            phone.advance()
            for _ in range(task.horizon):
                action = demonstrate(phone, rng)
                screen = screen_of(phone)
                pool.append((screen, vlm.prefix_ids(screen, task.text, history), format_action(action)))
                apply(phone, action)
                phone.advance()
                history = (format_action(action),)
                if phone.succeeded() or action.ends_episode:
                    break
        rng.shuffle(pool)
        yield from pool[: _POOL // 2]
        pool = pool[_POOL // 2 :]


def cloning_loss(vlm: Vlm, stream: Iterator[Demonstration], size: int) -> torch.Tensor:
    """Negative log-likelihood of ``size`` demonstrated actions."""
    batch = [next(stream) for _ in range(size)]
    prompts = [[*prefix, *vlm.act_ids()] for _, prefix, _ in batch]
    answers = [vlm.answer_ids(action) for _, _, action in batch]
    logprobs, _ = answer_logprobs(vlm, [screen for screen, _, _ in batch], prompts, answers)
    return -logprobs.sum(1).mean()


def _train(vlm: Vlm, name: str, steps: int, peak: float, loss_of: Callable[[], torch.Tensor]) -> None:
    optimizer = torch.optim.AdamW(vlm.model.parameters(), peak, weight_decay=0.01, betas=(0.9, 0.98))
    average = math.nan
    vlm.model.train()
    with Progress() as progress:
        bar = progress.add_task(name, total=steps)
        for step in range(steps):
            loss = loss_of()
            for group in optimizer.param_groups:
                falling = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps))
                group["lr"] = peak * min(1.0, (step + 1) / 60) * falling
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(vlm.model.parameters(), 1.0)
            optimizer.step()
            value = float(loss.detach())
            average = value if math.isnan(average) else 0.97 * average + 0.03 * value
            progress.update(bar, advance=1, description=f"{name} (loss {average:.3f})")
            if step % 200 == 199:
                progress.console.print(f"{name}: step {step + 1} of {steps}, loss {average:.3f}", highlight=False)
    vlm.model.eval()


def pretrain(*, lessons: int, clones: int, seed: int, out: Path, work: Path) -> None:
    """Trains a tiny VLM from random weights and saves it to ``out``.

    Args:
        lessons, clones: Updates of the two phases.
        seed: Decides weights, screens and demonstrations.
        out: Where the result goes.
        work: Where the model lies between the phases; if one is there, the lessons are skipped.
    """
    torch.set_num_threads(1)
    if (work / "model.safetensors").is_file():
        vlm = Vlm.load(work)
    else:
        vlm, rng = make_vlm(words(), seed=seed), random.Random(seed)
        _train(vlm, "reading lessons", lessons, 2e-3, lambda: lesson_loss(vlm, rng, 64))
        vlm.save(work, version="lessons")
    stream = demonstrations(vlm, random.Random(seed + 1))
    _train(vlm, "demonstrations", clones, 1.5e-3, lambda: cloning_loss(vlm, stream, 128))
    vlm.save(out, version="behaviour")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lessons", type=int, default=3000, help="updates of the reading lessons")
    parser.add_argument("--clones", type=int, default=3600, help="updates of the cloning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=SHIPPED, help="where the model goes")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny-vlm"), help="where it lies between the phases")
    given = parser.parse_args()
    pretrain(lessons=given.lessons, clones=given.clones, seed=given.seed, out=given.out, work=given.work)


if __name__ == "__main__":
    main()
