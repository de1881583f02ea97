"""Parquet exports: Hugging Face ``datasets`` finds splits, types and pictures without being told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from export_episodes import episode, make_store, picture
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.store.export import parquet
from digiq_ray.store.export.files import ExportCounts
from digiq_ray.store.export.parquet import export_parquet
from digiq_ray.store.schema import EPISODE_SCHEMA

_EPISODES = [
    episode(0, [0, 10, 20]),
    episode(1, [30, None, 40, 50], form="JPEG"),
    episode(2, [60, 70], split="test"),
    episode(3, [80, 90], split="held out/2"),
]


def _ignore(done: int) -> None:
    del done


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportCounts]:
    folder = tmp_path_factory.mktemp("export")
    store = make_store(folder / "store", _EPISODES)
    (folder / "out").mkdir()
    return folder / "out", export_parquet(store.episodes(), folder / "out", on_episode=_ignore)


@pytest.fixture(scope="module")
def loaded(exported: tuple[Path, ExportCounts], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return datasets.load_dataset(str(exported[0]), cache_dir=str(tmp_path_factory.mktemp("cache")))


def test_the_splits_are_found(loaded: Any) -> None:
    counts = {split: rows.num_rows for split, rows in loaded.items()}
    assert {split[:8]: count for split, count in counts.items()} == {"train": 7, "test": 2, "held_out": 2}


def test_the_screens_are_pictures(loaded: Any) -> None:
    by_id: dict[tuple[str, int], Any] = {(row["episode_id"], row["step"]): row["image"] for row in loaded["train"]}
    first, second = _EPISODES[:2]
    assert by_id[first.episode_id, 1].getpixel((0, 0)) == (10, 10, 10)
    assert by_id[second.episode_id, 2].format == "JPEG"
    assert by_id[second.episode_id, 1] is None


def test_the_bytes_of_the_screens_are_those_of_the_store(loaded: Any) -> None:
    rows = loaded["test"].cast_column("image", datasets.Image(decode=False))
    assert [row["step"] for row in rows] == [0, 1]
    assert [row["image"]["bytes"] for row in rows] == [picture(60), picture(70)]
    assert [row["image"]["path"] for row in rows] == [f"{row['screen_hash']}.png" for row in rows]


def test_the_other_columns_are_those_of_the_store(loaded: Any, exported: tuple[Path, ExportCounts]) -> None:
    expected = make_store(exported[0].parent / "again", _EPISODES).table(
        [name for name in EPISODE_SCHEMA.names if name != "screen"]
    )
    wanted = [row for row in expected.to_pylist() if row["split"] == "train"]
    assert loaded["train"].remove_columns("image").to_list() == wanted


def test_the_features_have_their_types(loaded: Any) -> None:
    features = loaded["train"].features
    assert features["image"] == datasets.Image()
    assert features["step"] == datasets.Value("int32")
    assert features["reward"] == datasets.Value("float64")
    assert features["is_terminal"] == datasets.Value("bool")


def test_a_single_file_loads_as_it_is(exported: tuple[Path, ExportCounts], tmp_path: Path) -> None:
    file = exported[0] / "data" / "test-00000-of-00001.parquet"
    rows = datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(tmp_path))
    assert rows[0]["image"].size == (18, 32)


def test_what_was_written_is_counted(exported: tuple[Path, ExportCounts]) -> None:
    counts = exported[1]
    assert (counts.episodes, sum(counts.rows.values()), counts.lost_screens) == (4, 11, 1)


def test_the_card_tells_the_splits(exported: tuple[Path, ExportCounts]) -> None:
    card = datasets.load.DatasetCard.load(exported[0] / "README.md")
    (config,) = card.data.configs
    assert {one["split"] for one in config["data_files"]} == set(exported[1].rows)
    assert "4 episodes, 11 observations" in card.text


@given(groups=st.integers(1, 2000), file_bytes=st.integers(1, 3000), count=st.integers(1, 12))
def test_files_of_any_size_hold_every_row_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, groups: int, file_bytes: int, count: int
) -> None:
    root = tmp_path_factory.mktemp("sizes")
    episodes = [episode(number, [number, number + 1]) for number in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "GROUP_BYTES", groups)
        export_parquet(episodes, root, on_episode=_ignore, file_bytes=file_bytes)
    files = sorted((root / "data").iterdir())
    assert [path.name for path in files] == [
        f"train-{number:05}-of-{len(files):05}.parquet" for number in range(len(files))
    ]
    ids = [one for path in files for one in pq.read_table(path, columns=["episode_id"])["episode_id"].to_pylist()]
    assert ids == [one.episode_id for one in episodes for _ in range(2)]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    export_parquet(_EPISODES, tmp_path, on_episode=told.append)
    assert told == [1, 2, 3, 4]
