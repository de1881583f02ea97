"""Episodes as a directory that ``datasets.load_dataset`` opens: Parquet files named by split, screens as images.

One row for each observation, in the columns of the store, but for ``screen``, which becomes ``image`` in the layout of
the Image feature of Hugging Face ``datasets``; the feature types are in the metadata of each file, so it loads right
whether as a directory, file by file, or from the Hub. Memory is bounded by a row group of each split.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from digiq_ray.core.episodes import Episode
from digiq_ray.store.export.card import dataset_card
from digiq_ray.store.export.files import ExportCounts, OnEpisode, image_suffix, safe_name
from digiq_ray.store.schema import EPISODE_SCHEMA, episode_to_rows, rows_to_table

GROUP_BYTES = 16_000_000
FILE_BYTES = 500_000_000
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_HF_NAMES = {"double": "float64", "float": "float32"}


def _export_schema() -> Any:
    fields = [pa.field("image", _IMAGE) if one.name == "screen" else one for one in EPISODE_SCHEMA]
    features = {
        one.name: {"_type": "Image"}
        if one.name == "image"
        else {"dtype": _HF_NAMES.get(str(one.type), str(one.type)), "_type": "Value"}
        for one in fields
    }
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


SCHEMA = _export_schema()


def export_parquet(
    episodes: Iterable[Episode], root: Path, *, on_episode: OnEpisode, file_bytes: int = FILE_BYTES
) -> ExportCounts:
    """Writes ``data/SPLIT-00000-of-00002.parquet`` and ``README.md`` into the empty directory ``root``.

    Args:
        episodes: What to write, in this order.
        root: Where.
        on_episode: Told of the progress.
        file_bytes: A file is closed at the first row group that makes it as long as this.
    """
    counts = ExportCounts()
    (root / "data").mkdir()
    splits: dict[str, _SplitWriter] = {}
    with ExitStack() as stack:
        for episode in episodes:
            name = safe_name(episode.task.split)
            if name not in splits:
                splits[name] = stack.enter_context(_SplitWriter(root / "data", name, file_bytes))
            table = _table(episode)
            splits[name].add(table)
            counts.episodes += 1
            counts.rows[name] = counts.rows.get(name, 0) + table.num_rows
            counts.lost_screens += sum(not step.screen for step in episode.steps)
            on_episode(counts.episodes)
    for writer in splits.values():
        writer.name_files()
    (root / "README.md").write_text(dataset_card(counts, SCHEMA.names), encoding="utf-8")
    return counts


def _table(episode: Episode) -> Any:
    table = rows_to_table(episode_to_rows(episode), EPISODE_SCHEMA)
    hashes = table["screen_hash"].to_pylist()
    images = [
        None if digest is None else {"bytes": step.screen, "path": digest + image_suffix(step.screen)}
        for step, digest in zip(episode.steps, hashes, strict=True)
    ]
    index = table.schema.get_field_index("screen")
    return table.set_column(index, SCHEMA.field("image"), pa.array(images, _IMAGE)).replace_schema_metadata(
        SCHEMA.metadata
    )


class _SplitWriter:
    """The files of one split, one after the other, a row group at a time."""

    def __init__(self, folder: Path, split: str, file_bytes: int) -> None:
        self._folder, self._split, self._file_bytes = folder, split, file_bytes
        self._files: list[Path] = []
        self._writer: Any = None
        self._written = 0
        self._group: list[Any] = []
        self._group_bytes = 0

    def __enter__(self) -> _SplitWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def add(self, table: Any) -> None:
        self._group.append(table)
        self._group_bytes += table.nbytes
        if self._group_bytes >= GROUP_BYTES:
            self._flush()

    def name_files(self) -> None:
        """Gives the files the names that say how many there are."""
        for number, path in enumerate(self._files):
            path.rename(self._folder / f"{self._split}-{number:05}-of-{len(self._files):05}.parquet")

    def _flush(self) -> None:
        if not self._group:
            return
        if self._writer is None:
            self._files.append(self._folder / f"{self._split}-{len(self._files):05}.parquet")
            plain = [name for name in SCHEMA.names if name != "image"]
            self._writer = pq.ParquetWriter(
                self._files[-1],
                SCHEMA,
                compression={"image.bytes": "none", "image.path": "zstd"} | dict.fromkeys(plain, "zstd"),
                use_dictionary=plain,
                write_statistics=plain,
                write_page_checksum=True,
            )
        self._writer.write_table(pa.concat_tables(self._group))
        self._written += self._group_bytes
        self._group, self._group_bytes = [], 0
        if self._written >= self._file_bytes:
            self._writer.close()
            self._writer, self._written = None, 0
