"""Stage 1 done elsewhere: a question about each step and its answer, in the conversation format of LLaVA.

``SPLIT.json`` is a list of ``{"id", "image", "conversations"}``, as ``--data_path`` takes it; ``image`` is relative to
the directory itself, which is ``--image_folder``. What is asked and what counts as a change is handed in: the store
knows neither prompts nor pixels. A step whose screen before or after is lost has no label and is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from digiq_ray.core.episodes import Episode, screen_hash
from digiq_ray.store.export.files import ExportCounts, OnEpisode, safe_name, write_screen

IMAGE_TOKEN = "<image>"
IMAGES = "images"


@dataclass(frozen=True, slots=True)
class Stage1:
    """What stage 1 asks.

    Attributes:
        question: From the task's text, the earlier action texts and the action's text to the question.
        changed: For the screens (encoded) of an episode, ``None`` where lost, whether each step changed the screen:
            one fewer than screens, ``None`` where it cannot be told.
        no, yes: The two answers.
    """

    question: Callable[[str, tuple[str, ...], str], str]
    changed: Callable[[list[bytes | None]], list[bool | None]]
    no: str
    yes: str


@dataclass(slots=True)
class LlavaCounts(ExportCounts):
    """``rows`` are examples; ``answers`` says how many have each answer."""

    answers: dict[str, int] = field(default_factory=dict)


def export_llava(episodes: Iterable[Episode], root: Path, *, stage1: Stage1, on_episode: OnEpisode) -> LlavaCounts:
    """Writes ``SPLIT.json`` and ``images/`` into the empty directory ``root``."""
    counts = LlavaCounts(answers={stage1.no: 0, stage1.yes: 0})
    splits: dict[str, TextIO] = {}
    with ExitStack() as stack:
        for episode in episodes:
            name = safe_name(episode.task.split)
            if name not in splits:
                splits[name] = stack.enter_context(open(root / f"{name}.json", "x", encoding="utf-8"))
                counts.rows[name] = 0
            for example, answer in _examples(episode, root, stage1):
                splits[name].write(("[" if not counts.rows[name] else ",") + "\n" + example)
                counts.rows[name] += 1
                counts.answers[answer] += 1
            counts.episodes += 1
            counts.lost_screens += sum(not step.screen for step in episode.steps)
            on_episode(counts.episodes)
        for name, file in splits.items():
            file.write("\n]\n" if counts.rows[name] else "[]\n")
    return counts


def _examples(episode: Episode, root: Path, stage1: Stage1) -> Iterable[tuple[str, str]]:
    """Each example as JSON, with its answer."""
    screens = [step.screen or None for step in episode.steps]
    history: tuple[str, ...] = ()
    for number, changed in enumerate(stage1.changed(screens)):
        screen, text = screens[number], episode.steps[number].action_text or ""
        if changed is not None and screen is not None:
            answer = stage1.yes if changed else stage1.no
            # The token stands for the picture and must occur once, whatever an agent has typed.
            question = stage1.question(episode.task.text, history, text).replace(IMAGE_TOKEN, "< image >")
            example = {
                "id": f"{episode.episode_id}_{number}",
                "image": write_screen(root, IMAGES, screen, screen_hash(screen)),
                "conversations": [
                    {"from": "human", "value": f"{IMAGE_TOKEN}\n{question}"},
                    {"from": "gpt", "value": answer},
                ],
            }
            yield json.dumps(example, ensure_ascii=False), answer
        history = (*history, text)
