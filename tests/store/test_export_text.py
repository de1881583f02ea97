"""JSONL and LLaVA exports: text that names pictures beside it, each picture once."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
from export_episodes import episode, picture

from digiq_ray.core.episodes import screen_hash
from digiq_ray.store.export.jsonl import export_jsonl
from digiq_ray.store.export.llava import LlavaCounts, Stage1, export_llava
from digiq_ray.store.schema import EPISODE_SCHEMA, episode_to_rows

_EPISODES = [episode(0, [0, 0, 20]), episode(1, [30, None, 40, 50]), episode(2, [0, 70], split="test")]


def _ignore(done: int) -> None:
    del done


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_holds_the_columns_of_the_store_and_names_its_screen(tmp_path: Path) -> None:
    export_jsonl(_EPISODES, tmp_path, on_episode=_ignore)
    lines = _lines(tmp_path / "train.jsonl")
    rows = [row for one in _EPISODES[:2] for row in episode_to_rows(one)]
    assert [list(line) for line in lines] == [list(row) for row in rows]
    assert set(lines[0]) == set(EPISODE_SCHEMA.names)
    for line, row in zip(lines, rows, strict=True):
        assert {**line, "screen": 0} == {**row, "screen": 0}
        assert (None if line["screen"] is None else (tmp_path / line["screen"]).read_bytes()) == row["screen"]
    assert [line["screen"] is None for line in lines] == [False] * 4 + [True] + [False] * 2


def test_equal_screens_are_written_once(tmp_path: Path) -> None:
    counts = export_jsonl(_EPISODES, tmp_path, on_episode=_ignore)
    files = [path for path in (tmp_path / "screens").rglob("*") if path.is_file()]
    assert sorted(path.stem for path in files) == sorted(screen_hash(picture(g)) for g in (0, 20, 30, 40, 50, 70))
    assert (counts.episodes, counts.rows, counts.lost_screens) == (3, {"train": 7, "test": 2}, 1)


def test_jsonl_opens_in_datasets(tmp_path: Path) -> None:
    export_jsonl(_EPISODES, tmp_path / ".", on_episode=_ignore)
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {"train": 7, "test": 2}


def _changed(screens: list[bytes | None]) -> list[bool | None]:
    return [None if before is None or after is None else before != after for before, after in pairwise(screens)]


def _question(task: str, history: tuple[str, ...], action: str) -> str:
    return f"{task} | {history} | {action}"


def _llava(root: Path) -> tuple[LlavaCounts, list[dict[str, Any]]]:
    stage1 = Stage1(_question, _changed, no="no", yes="yes")
    counts = export_llava(_EPISODES, root, stage1=stage1, on_episode=_ignore)
    return counts, json.loads((root / "train.json").read_text(encoding="utf-8"))


def test_a_conversation_asks_about_a_step_and_answers(tmp_path: Path) -> None:
    _, examples = _llava(tmp_path)
    first, second = _EPISODES[0], _EPISODES[1]
    task = "Find mug 0 für < image >"
    assert [example["conversations"] for example in examples[:2]] == [
        [
            {"from": "human", "value": f"<image>\n{task} | () | tap 0.5 0.0"},
            {"from": "gpt", "value": "no"},
        ],
        [
            {"from": "human", "value": f"<image>\n{task} | ('tap 0.5 0.0',) | tap 0.5 0.1"},
            {"from": "gpt", "value": "yes"},
        ],
    ]
    assert [example["id"] for example in examples] == [
        f"{first.episode_id}_0",
        f"{first.episode_id}_1",
        f"{second.episode_id}_2",
    ]


def test_the_image_of_a_conversation_is_the_screen_before_the_action(tmp_path: Path) -> None:
    _, examples = _llava(tmp_path)
    assert [(tmp_path / example["image"]).read_bytes() for example in examples] == [picture(g) for g in (0, 0, 40)]


def test_steps_beside_a_lost_screen_are_left_out_and_counted(tmp_path: Path) -> None:
    counts, examples = _llava(tmp_path)
    assert len(examples) == 3
    assert (counts.rows, counts.answers, counts.lost_screens) == ({"train": 3, "test": 1}, {"no": 1, "yes": 3}, 1)


def test_the_history_goes_on_past_a_lost_screen(tmp_path: Path) -> None:
    _, examples = _llava(tmp_path)
    assert "('tap 0.5 0.0', 'tap 0.5 0.1') | tap 0.5 0.2" in examples[2]["conversations"][0]["value"]


def test_a_split_without_an_example_is_an_empty_list(tmp_path: Path) -> None:
    stage1 = Stage1(_question, _changed, no="no", yes="yes")
    export_llava([episode(0, [1])], tmp_path, stage1=stage1, on_episode=_ignore)
    assert json.loads((tmp_path / "train.json").read_text()) == []
