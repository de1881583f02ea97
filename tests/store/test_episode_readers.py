"""The data sets open in other programs without this package: episodes as rows, and each screen found by its hash."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from digiq_ray.core.episodes import Episode
from digiq_ray.store.compaction import compact
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.pruning import prune

MakeEpisode = Callable[..., Episode]
_HOME = b"home" * 20


@pytest.fixture(params=["as written", "compacted"])
def store(request: pytest.FixtureRequest, tmp_path: Path, make_episode: MakeEpisode) -> EpisodeStore:
    """Six episodes that begin and end at one screen, in three segments or in one, and a snapshot."""
    store = EpisodeStore.create(tmp_path / "episodes")
    for number in range(0, 6, 2):
        store.append([_from_home(make_episode(n)) for n in (number, number + 1)])
    if request.param == "compacted":
        compact(store)
        prune(store)
    store.save_snapshot("now")
    return store


def _from_home(episode: Episode) -> Episode:
    first, *between, last = episode.steps
    ends = (dataclasses.replace(step, screen=_HOME) for step in (first, last))
    return dataclasses.replace(episode, steps=(next(ends), *between, next(ends)))


def _files(store: EpisodeStore) -> str:
    return f"{store.path}/*.parquet"


def _check(store: EpisodeStore, rows: list[dict[str, Any]]) -> None:
    """``rows`` (episode_id, step, action, screen) are those of the store, in any order."""
    wanted = store.table(["episode_id", "step", "action", "screen"]).to_pylist()
    assert sorted(rows, key=lambda row: (row["episode_id"], row["step"])) == wanted
    assert len(wanted) == 24


def test_pandas_reads_them(store: EpisodeStore) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.read_parquet(store.path)
    screens = frame.dropna(subset=["screen"]).drop_duplicates("screen_hash").set_index("screen_hash")["screen"]
    frame["screen"] = frame["screen_hash"].map(screens)
    frame["action"] = frame["action"].astype(object).where(frame["action"].notna(), None)
    _check(store, frame[["episode_id", "step", "action", "screen"]].to_dict("records"))


def test_polars_reads_them(store: EpisodeStore) -> None:
    polars = pytest.importorskip("polars", reason="needs polars")
    frame = polars.scan_parquet(_files(store))
    screens = frame.filter(polars.col("screen").is_not_null()).select("screen_hash", "screen").unique("screen_hash")
    joined = frame.drop("screen").join(screens, on="screen_hash", how="left")
    _check(store, joined.select("episode_id", "step", "action", "screen").collect().to_dicts())


def test_duckdb_reads_them(store: EpisodeStore) -> None:
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb")
    query = f"""
        WITH rows AS (FROM '{_files(store)}'),
             screens AS (SELECT screen_hash, any_value(screen) AS screen FROM rows GROUP BY screen_hash)
        SELECT episode_id, step, action, screens.screen FROM rows LEFT JOIN screens USING (screen_hash)
    """
    found = duckdb.sql(query).fetchall()
    _check(store, [dict(zip(("episode_id", "step", "action", "screen"), row, strict=True)) for row in found])


def test_hugging_face_datasets_reads_them(store: EpisodeStore, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    loaded = datasets.load_dataset(
        "parquet", data_files=_files(store), split="train", cache_dir=str(tmp_path / "cache")
    )
    screens = {row["screen_hash"]: row["screen"] for row in loaded if row["screen"] is not None}
    rows = [{key: row[key] for key in ("episode_id", "step", "action")} for row in loaded]
    hashes = (row["screen_hash"] for row in loaded)
    _check(store, [row | {"screen": screens[digest]} for row, digest in zip(rows, hashes, strict=True)])


@pytest.fixture(scope="module")
def ray_data() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    import ray.data

    yield ray.data
    ray.shutdown()


@pytest.mark.slow
def test_ray_data_reads_them(store: EpisodeStore, ray_data: Any) -> None:
    rows = ray_data.read_parquet(str(store.path)).take_all()
    screens = {row["screen_hash"]: row["screen"] for row in rows if row["screen"] is not None}
    columns = ("episode_id", "step", "action")
    _check(store, [{key: row[key] for key in columns} | {"screen": screens[row["screen_hash"]]} for row in rows])
