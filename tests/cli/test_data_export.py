"""``digiq data export``: the formats, the figures it reports, and what it refuses."""

from __future__ import annotations

import io
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from digiq_ray.cli.main import main
from digiq_ray.core.actions import tap
from digiq_ray.core.episodes import Episode, Step, StopReason, episode_id
from digiq_ray.core.settings import FinetuneSettings
from digiq_ray.core.tasks import Task
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.vlm.finetune import pixel_distance
from digiq_ray.vlm.prompts import COMPACT, STANDARD

TABLE = {"export": ("digiq_ray.cli.data_export:export", "")}
_PIXELS = [np.full((64, 36, 3), value, dtype=np.uint8) for value in (0, 5, 11, 200)]
_PIXELS[3][4:] = 11  # differs from the one before in the status bar only


def _screen(pixels: Any) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    steps = [
        Step(_screen(one), f"tap 0.5 0.{i}", tap(0.5, i / 10), None, 0.0, None, 0, 1) for i, one in enumerate(_PIXELS)
    ]
    steps[-1] = Step(steps[-1].screen, None, None, None, 0.0, None, 0, 1)
    episode = Episode(
        episode_id("run", "task", 0),
        Task("shop/train/0", "Find a mug", 3, "train"),
        steps,
        StopReason.TIME_LIMIT,
        "v1",
        "sim-1",
        "oracle",
    )
    EpisodeStore.create(tmp_path / "store").append([episode])
    return tmp_path / "store"


def _export(*words: object) -> int:
    return main(["export", *map(str, words)], table=TABLE)


def _report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return report


@pytest.mark.parametrize(
    ("form", "file", "rows"),
    [("parquet", "data/train-00000-of-00001.parquet", 4), ("jsonl", "train.jsonl", 4), ("llava", "train.json", 3)],
)
def test_each_format_is_written_and_reported(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, file: str, rows: int
) -> None:
    out = tmp_path / "out"
    assert _export(store, "--format", form, "--out", out, "--json") == 0
    report = _report(capsys)
    assert (out / file).is_file()
    assert (report["episodes"], report["rows"], report["lost_screens"]) == (1, {"train": rows}, 0)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert (report["files"], report["bytes"]) == (len(files), sum(path.stat().st_size for path in files))


def _conversations(out: Path) -> list[list[str]]:
    examples = json.loads((out / "train.json").read_text())
    return [[part["value"] for part in example["conversations"]] for example in examples]


def test_questions_and_answers_are_those_of_stage_1(store: Path, tmp_path: Path) -> None:
    assert _export(store, "--format", "llava", "--out", tmp_path / "out") == 0
    chosen = FinetuneSettings()
    pictures = [torch.from_numpy(one.transpose(2, 0, 1).copy()) for one in _PIXELS]
    distances = [pixel_distance(before, after, chosen.ignore_top) for before, after in pairwise(pictures)]
    texts = [f"tap 0.5 0.{i}" for i in range(3)]
    assert _conversations(tmp_path / "out") == [
        [
            "<image>\n" + STANDARD.prefix_text("Find a mug", tuple(texts[:i])) + STANDARD.change_text(text),
            "yes" if distance > chosen.threshold else "no",
        ]
        for i, (text, distance) in enumerate(zip(texts, distances, strict=True))
    ]
    assert [answer for _, answer in _conversations(tmp_path / "out")] == ["no", "yes", "no"]


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (["--threshold", 24], ["yes", "yes", "no"]),
        (["--threshold", 25], ["no", "yes", "no"]),
        (["--ignore-top", 0], ["no", "yes", "yes"]),
    ],
)
def test_the_labels_can_be_set(store: Path, tmp_path: Path, words: list[object], answers: list[str]) -> None:
    assert _export(store, "--format", "llava", "--out", tmp_path / "out", *words) == 0
    assert [answer for _, answer in _conversations(tmp_path / "out")] == answers


def test_the_prompts_can_be_chosen(store: Path, tmp_path: Path) -> None:
    assert _export(store, "--format", "llava", "--out", tmp_path / "out", "--template", "compact") == 0
    question = _conversations(tmp_path / "out")[0][0]
    assert question == "<image>\n" + COMPACT.prefix_text("Find a mug", ()) + COMPACT.change_text("tap 0.5 0.0")


def test_the_answers_are_reported(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _export(store, "--format", "llava", "--out", tmp_path / "out", "--json") == 0
    assert _report(capsys)["answers"] == {"no": 2, "yes": 1}


def test_a_snapshot_is_exported_as_it_was(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = EpisodeStore(store)
    opened.save_snapshot("before")
    (one,) = opened.episodes()
    opened.append([Episode("ff" * 16, one.task, one.steps, one.stop_reason, "v1", "sim-1", "oracle")])
    assert _export(store, "--format", "jsonl", "--out", tmp_path / "out", "--snapshot", "before", "--json") == 0
    assert _report(capsys)["episodes"] == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--format", "jsonl", "--out", "s3://bucket/out"], "an export is written to a local directory"),
        (["--format", "jsonl", "--out", "OUT", "--threshold", "3"], "--threshold is for --format llava only"),
        (["--format", "csv", "--out", "OUT"], "'csv' is not one of"),
        (["--format", "jsonl"], "missing option '--out'"),
        (["--format", "jsonl", "--out", "STORE"], "is there already"),
        (["--format", "jsonl", "--out", "OUT", "--snapshot", "none"], "none"),
    ],
)
def test_wrong_usage_is_one_line_and_nothing_is_written(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    places = {"OUT": str(tmp_path / "out"), "STORE": str(store)}
    before = sorted(path.name for path in store.iterdir())
    assert _export(store, *(places.get(word, word) for word in words)) == 2
    error = capsys.readouterr().err
    assert line in error
    assert len(error.splitlines()) == 1
    assert os.listdir(tmp_path) == ["store"]
    assert sorted(path.name for path in store.iterdir()) == before


def test_a_store_without_episodes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    EpisodeStore.create(tmp_path / "store")
    assert _export(tmp_path / "store", "--format", "jsonl", "--out", tmp_path / "out") == 2
    assert "holds no episodes to export" in capsys.readouterr().err


def test_a_broken_segment_ends_the_export_with_nothing_written(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (segment,) = store.glob("*.parquet")
    segment.write_bytes(segment.read_bytes()[:-50])
    assert _export(store, "--format", "parquet", "--out", tmp_path / "out") == 2
    assert segment.name in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["store"]
