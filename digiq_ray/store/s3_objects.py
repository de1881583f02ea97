"""Single requests about S3 objects: look, read a range, list, delete. Each may be repeated without harm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from digiq_ray.core.errors import StoreError
from digiq_ray.store.s3_client import request
from digiq_ray.store.s3_errors import S3Refusal
from digiq_ray.store.s3_location import S3Location

HASH_KEY = "digiq-blake2b"
WRITER_KEY = "digiq-writer"
BLOCK_BYTES = 8 << 20
_TOTAL = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the store says about an object.

    Attributes:
        size: Bytes.
        etag: Changes whenever the content does.
        metadata: What its writer said of it: ``HASH_KEY`` and ``WRITER_KEY``, if that was a ``Directory``.
    """

    size: int
    etag: str
    metadata: dict[str, str]


def look(place: S3Location) -> ObjectInfo | None:
    """What is at ``place``; ``None`` if nothing is."""

    async def head(client: Any) -> Any:
        return await client.head_object(Bucket=place.bucket, Key=place.key)

    try:
        answer = request(place, "to look for it", head)
    except S3Refusal as refusal:
        if refusal.status == 404:
            return None
        raise
    return ObjectInfo(answer["ContentLength"], answer["ETag"], answer.get("Metadata", {}))


def read_tail(place: S3Location, size: int) -> tuple[bytes, ObjectInfo]:
    """The last ``size`` bytes of an object (all, if it is shorter) and what it is, in one request.

    Raises:
        StoreError: it is not there.
    """
    try:
        data, answer = _get(place, f"bytes=-{size}", size, None)
    except S3Refusal as refusal:
        if refusal.status != 416:
            raise _gone(place, refusal) from refusal
        data, answer = _get(place, None, 0, None)  # an empty object has no range
    found = _TOTAL.fullmatch(answer.get("ContentRange", ""))
    total = int(found[2]) if found else len(data)
    if found and int(found[1]) + len(data) != total:
        raise StoreError(f"{place}: {len(data)} bytes came where {total - int(found[1])} were due; look at the server")
    return data, ObjectInfo(total, answer["ETag"], answer.get("Metadata", {}))


def read_range(place: S3Location, start: int, size: int, etag: str) -> bytes:
    """``size`` bytes from ``start`` on; raises ``StoreError`` if the object was replaced since ``etag`` was seen."""
    if not size:
        return b""
    try:
        data, _ = _get(place, f"bytes={start}-{start + size - 1}", size, etag)
    except S3Refusal as refusal:
        raise _gone(place, refusal) from refusal
    return data


def blocks(size: int, block: int = BLOCK_BYTES) -> Iterator[tuple[int, int]]:
    """``(start, length)`` of the blocks that ``size`` bytes are moved in."""
    return ((start, min(block, size - start)) for start in range(0, size, block))


def list_names(place: S3Location) -> list[str]:
    """Names of the objects right under ``place``, however many."""
    names: list[str] = []
    token: dict[str, str] = {}
    while True:

        async def page(client: Any, token: dict[str, str] = token) -> Any:
            return await client.list_objects_v2(Bucket=place.bucket, Prefix=place.prefix, Delimiter="/", **token)

        answer = request(place, "to list it", page)
        names += [item["Key"].removeprefix(place.prefix) for item in answer.get("Contents", ())]
        if not answer.get("IsTruncated"):
            return [name for name in names if name]
        token = {"ContinuationToken": answer["NextContinuationToken"]}


def has_anything(place: S3Location) -> bool:
    """Whether any object lies under ``place``, at any depth."""

    async def first(client: Any) -> Any:
        return await client.list_objects_v2(Bucket=place.bucket, Prefix=place.prefix, MaxKeys=1)

    return bool(request(place, "to open it", first).get("Contents"))


def delete(place: S3Location) -> None:
    """Deletes an object; nothing happens if it is gone already."""

    async def remove(client: Any) -> Any:
        return await client.delete_object(Bucket=place.bucket, Key=place.key)

    request(place, "to delete it", remove)


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was started and neither completed nor aborted."""

    place: S3Location
    upload_id: str
    started: datetime


def list_uploads(place: S3Location) -> list[Upload]:
    """The incomplete multipart uploads right under ``place``, however many."""
    found: list[Upload] = []
    marker: dict[str, str] = {}
    while True:

        async def page(client: Any, marker: dict[str, str] = marker) -> Any:
            return await client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix, **marker)

        answer = request(place, "to list its unfinished uploads", page)
        for item in answer.get("Uploads", ()):
            if "/" not in item["Key"].removeprefix(place.prefix):
                found.append(Upload(S3Location(place.bucket, item["Key"]), item["UploadId"], item["Initiated"]))
        if not answer.get("IsTruncated"):
            return found
        marker = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}


def abort_upload(upload: Upload) -> None:
    """Frees what an upload holds; nothing happens if it is gone already."""

    async def abort(client: Any) -> Any:
        place = upload.place
        return await client.abort_multipart_upload(Bucket=place.bucket, Key=place.key, UploadId=upload.upload_id)

    try:
        request(upload.place, "to abort an upload", abort)
    except S3Refusal as refusal:
        if refusal.status != 404:
            raise


def _get(place: S3Location, span: str | None, size: int, etag: str | None) -> tuple[bytes, Any]:
    """Bytes and answer of one GET of all (``span`` is ``None``) or of a range."""
    options = {name: value for name, value in (("Range", span), ("IfMatch", etag)) if value is not None}

    async def get(client: Any) -> tuple[bytes, Any]:
        answer = await client.get_object(Bucket=place.bucket, Key=place.key, **options)
        async with answer["Body"] as body:
            data = await body.read()
        if len(data) != answer["ContentLength"]:
            raise ConnectionError("the answer was cut")
        return data, answer

    return request(place, "to read it", get, size=size)


def _gone(place: S3Location, refusal: S3Refusal) -> StoreError:
    if refusal.status == 412:
        return StoreError(f"{place}: was replaced while it was read, which no stage does; read it again")
    return StoreError(f"{place}: is gone; restore it from a copy")
