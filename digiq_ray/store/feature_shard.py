"""The format of one shard of features: an uncompressed Arrow IPC file with one record batch.

Its columns lie in the file as they lie in memory, so mapping a shard reads its header only, whatever its size.
Columns: ``episode_id, step, action`` (null for a state's own feature), the two of ``feature_lookup``, and ``feature``,
a fixed-size list of float16 or float32. The metadata of the schema holds the shard's name, the fingerprint of what made
it, and a hash of the keys and one of the features: broken keys are found when they are read, broken features and a
broken lookup when somebody asks for a verification.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.store.directory import Directory
from digiq_ray.store.feature_lookup import FeatureKey, Lookup, from_batch, hash_keys, make_lookup, to_columns
from digiq_ray.store.fingerprint import Fingerprint
from digiq_ray.store.pages import Range, ask_for, ask_for_ends, let_go, page_range, ranges_of_rows
from digiq_ray.store.schema import SHARD_KEY, check_columns, check_kind, check_shard, make_schema, rows_to_table

SUFFIX = ".arrow"
_FINGERPRINT_KEY = b"digiq.fingerprint"
_KEYS_HASH = b"digiq.keys_hash"
_FEATURES_HASH = b"digiq.features_hash"
_KEYS = make_schema("features", (("episode_id", pa.string()), ("step", pa.int32()), ("action", pa.string())))
_DTYPES = {"float16": pa.float16(), "float32": pa.float32()}
_BLOCK_ROWS = 4096
_HEADER_BYTES = 16_384
_LOOKUP_BYTES = 4 << 20  # larger ones are left to page faults: few keys touch few of their pages


class FeatureValueError(StoreError):
    """A feature is not finite or all zeros: what made it failed, and nothing could be learned from it."""


@dataclass(frozen=True, slots=True)
class MappedShard:
    """A shard whose file is mapped into memory.

    Attributes:
        directory, name: The file.
        mapped: Its mapping.
        fingerprint: What made the features.
        batch: ``pa.RecordBatch`` of ``n`` rows, as the file has it.
        features: ``[n, dim]``, read-only; a page of it is read when it is touched.
        offset: Where the features start in the mapping, in bytes.
    """

    directory: Directory
    name: str
    mapped: mmap.mmap
    fingerprint: Fingerprint
    batch: Any
    features: NDArray[np.floating[Any]]
    offset: int

    @property
    def pin(self) -> str:
        """A hash that names the content: that of the fingerprint and of the hashes in the header."""
        metadata = self.batch.schema.metadata or {}
        parts = (metadata.get(key, b"") for key in (_FINGERPRINT_KEY, _KEYS_HASH, _FEATURES_HASH))
        return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()

    def keys(self) -> Any:
        """The keys as a ``pa.Table``; raises ``StoreError`` if they are not what was written. Reads all of them."""
        with self.directory.content_errors(self.name):
            keys = self.batch.select(_KEYS.names).replace_schema_metadata(None)
            keys.validate(full=True)  # before anything follows an offset: it may lead out of the file
            _check_hash(self.batch.schema.metadata, _KEYS_HASH, _hash_keys(keys))
            return pa.table(keys)

    def verify(self) -> None:
        """Reads everything; raises ``StoreError`` if it is not what was written."""
        self.keys()
        count = len(self.features)
        wanted = (np.arange(i, min(i + _BLOCK_ROWS, count)) for i in range(0, count, _BLOCK_ROWS))
        blocks = (self.take(indices, self.ask(indices)) for indices in wanted)
        with self.directory.content_errors(self.name):
            _check_hash(self.batch.schema.metadata, _FEATURES_HASH, _hash_features(self.features, blocks))
            stored, rebuilt = from_batch(self.batch), self._rebuild_lookup()
            if stored and not all(np.array_equal(one, other) for one, other in zip(stored, rebuilt, strict=True)):
                raise ValueError("its lookup does not match its keys")

    def lookup(self) -> Lookup:
        """Where each key is; the system begins to read it. A shard that was written without has all its keys read."""
        with self.directory.content_errors(self.name):
            found = from_batch(self.batch)
            if found is None:
                return self._rebuild_lookup()
            if 0 < found.hashes.nbytes <= _LOOKUP_BYTES:
                base = self.features.ctypes.data - self.offset
                ask_for(self.mapped, [page_range(part.ctypes.data - base, part.nbytes) for part in found])
            return found

    def slice(self, start: int, stop: int) -> NDArray[np.floating[Any]]:
        """Rows ``[stop - start, dim]`` of the mapping itself, read-only; the system begins to read their pages."""
        row_bytes = self.features.strides[0]
        ask_for(self.mapped, [page_range(self.offset + start * row_bytes, (stop - start) * row_bytes)])
        return self.features[start:stop]

    def ask(self, indices: NDArray[np.int64]) -> list[Range]:
        """Makes the system begin to read the named rows, and no other; the result is for ``take``."""
        row_bytes = self.features.strides[0]
        ranges = ranges_of_rows(self.offset + indices * row_bytes, row_bytes)
        ask_for(self.mapped, ranges)
        return ranges

    def take(
        self, indices: NDArray[np.int64], ranges: list[Range], out: NDArray[np.floating[Any]] | None = None
    ) -> NDArray[np.floating[Any]]:
        """Copies of the named rows, ``[len(indices), dim]``, into ``out``; the pages of ``ranges`` do not stay here."""
        rows = np.take(self.features, indices, axis=0, out=out, mode="clip")
        let_go(self.mapped, ranges)
        return rows

    def _rebuild_lookup(self) -> Lookup:
        columns = (column.to_pylist() for column in self.keys().columns)
        return make_lookup(hash_keys(zip(*columns, strict=True)))


def make_batch(
    shard: str, keys: Sequence[FeatureKey], features: NDArray[np.floating[Any]], fingerprint: Fingerprint
) -> Any:
    """The ``pa.RecordBatch`` of a shard, after a check of everything that can be wrong with it.

    Raises:
        FeatureValueError: a feature is NaN, infinite or all zeros.
        InputError: the shapes or the type do not fit.
    """
    shape = list(features.shape)
    if len(shape) != 2 or shape[0] != len(keys) or not shape[1] or features.dtype.name not in _DTYPES:
        raise InputError(
            f"shard {shard}: features must be [{len(keys)}, dim] of float16 or float32, not {shape} of {features.dtype}"
        )
    _check_values(shard, keys, features)
    values = np.ascontiguousarray(features, dtype=features.dtype.newbyteorder("="))
    flat = pa.Array.from_buffers(_DTYPES[features.dtype.name], values.size, [None, pa.py_buffer(values)])
    table = rows_to_table([key._asdict() for key in keys], _KEYS)
    columns = [column.combine_chunks() for column in table.columns]
    extra = {
        SHARD_KEY: shard.encode(),
        _FINGERPRINT_KEY: fingerprint.to_json().encode(),
        _KEYS_HASH: _hash_keys(pa.RecordBatch.from_arrays(columns, schema=table.schema)),
        _FEATURES_HASH: _hash_features(values, [values]),
    }
    feature = pa.FixedSizeListArray.from_arrays(flat, shape[1])
    lookup, fields = to_columns(make_lookup(hash_keys(keys)))
    schema = pa.schema([*table.schema, *fields, pa.field("feature", feature.type)], metadata=_KEYS.metadata | extra)
    return pa.RecordBatch.from_arrays([*columns, *lookup, feature], schema=schema)


def write_batch(file: BinaryIO, batch: Any) -> None:
    """Writes a shard."""
    with pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def read_fingerprint(directory: Directory, name: str) -> Fingerprint:
    """The fingerprint of a shard; raises ``StoreError`` if the file is broken."""
    with directory.reading(name) as file:
        return _fingerprint(pa.ipc.open_file(file).schema, name)


def map_file(directory: Directory, name: str) -> mmap.mmap:
    """Maps the file of a shard, and makes the system begin to read what ``read_header`` looks at."""
    with directory.mapping(name) as mapped:
        ask_for_ends(mapped, _HEADER_BYTES)
        return mapped


def map_shard(directory: Directory, name: str) -> MappedShard:
    """Maps a shard; raises ``StoreError`` if the file is broken or not a shard of features."""
    return read_header(directory, name, map_file(directory, name))


def read_header(directory: Directory, name: str, mapped: mmap.mmap) -> MappedShard:
    """The shard in a mapped file; raises ``StoreError`` if it is broken or not a shard of features."""
    with directory.content_errors(name):
        whole = pa.py_buffer(mapped)
        file = pa.ipc.open_file(whole)
        fingerprint = _fingerprint(file.schema, name)
        if file.num_record_batches != 1:
            raise ValueError(f"it has {file.num_record_batches} record batches, not one")
        batch = file.get_batch(0)
        check_columns(batch.schema, _KEYS)
        column = batch.column("feature")
        column.validate()  # of the others, what reads them makes sure
        dtype = np.dtype(column.type.value_type.to_pandas_dtype())
        if dtype.name not in _DTYPES or column.null_count:
            raise ValueError(f"its features are {column.type}")
        shape = (batch.num_rows, column.type.list_size)
        if not batch.num_rows:
            return MappedShard(directory, name, mapped, fingerprint, batch, np.empty(shape, dtype), 0)
        data = column.values.buffers()[1]
        offset = data.address - whole.address
        if not 0 <= offset <= whole.size - data.size:
            raise ValueError("its features are compressed")
        if keys_end := offset // mmap.PAGESIZE * mmap.PAGESIZE:
            mapped.madvise(mmap.MADV_NORMAL, 0, keys_end)
        features = np.frombuffer(data, dtype=dtype, count=shape[0] * shape[1]).reshape(shape)
        return MappedShard(directory, name, mapped, fingerprint, batch, features, offset)


def _fingerprint(schema: Any, name: str) -> Fingerprint:
    metadata = schema.metadata or {}
    check_kind(metadata, _KEYS)
    check_shard(metadata, name.removesuffix(SUFFIX))
    return Fingerprint.from_json(metadata[_FINGERPRINT_KEY])


def _check_values(shard: str, keys: Sequence[FeatureKey], features: NDArray[np.floating[Any]]) -> None:
    for start in range(0, len(features), _BLOCK_ROWS):
        block = features[start : start + _BLOCK_ROWS]
        finite = np.isfinite(block).all(axis=1)
        bad = ~finite | ~block.any(axis=1)
        if bad.any():
            row = int(np.argmax(bad))
            what = "all zeros" if finite[row] else "not finite"
            raise FeatureValueError(
                f"shard {shard}, row {start + row} ({keys[start + row]}): the feature is {what}; "
                "nothing of this shard was written: look at the model's type and input"
            )


def _hash_features(whole: NDArray[np.floating[Any]], blocks: Iterable[NDArray[np.floating[Any]]]) -> bytes:
    digest = hashlib.blake2b(f"{whole.dtype.name} {whole.shape}".encode(), digest_size=16)
    for block in blocks:
        digest.update(block.reshape(-1).view(np.uint8).data)
    return digest.hexdigest().encode()


def _hash_keys(keys: Any) -> bytes:
    """Hash of the values of a ``pa.RecordBatch``, which must be valid; how Arrow lays them out does not matter."""
    digest = hashlib.blake2b(digest_size=16)
    for column in keys.columns if keys.num_rows else ():
        digest.update(np.packbits(column.is_null().to_numpy(zero_copy_only=False)).data)
        _, numbers, *text = column.buffers()
        values = np.frombuffer(numbers, dtype=np.int32)[: keys.num_rows + len(text)]  # steps, or offsets into the text
        digest.update(values.data)
        for buffer in text:
            digest.update(memoryview(buffer or b"")[: values[-1]])
    return digest.hexdigest().encode()


def _check_hash(metadata: Mapping[bytes, bytes], key: bytes, found: bytes) -> None:
    if metadata.get(key) != found:
        raise ValueError(f"its content does not match its {key.decode()}")
