"""Making an object that does not exist yet: in one conditional PUT, or in parts whose completion is conditional.

``If-None-Match: *`` lets exactly one of several writers of a name succeed. An answer may be lost after the server did
what was asked, so the repetition of one's own PUT is refused like somebody else's; each upload therefore carries a
random mark, and a refused writer looks whose mark the object has. Content above ``SINGLE_BYTES`` goes up in parts of at
least ``PART_BYTES``, four at a time, each repeated on its own; an upload that fails is aborted.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from digiq_ray.core.errors import StoreError
from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.s3_client import request
from digiq_ray.store.s3_errors import S3Refusal
from digiq_ray.store.s3_location import S3Location
from digiq_ray.store.s3_objects import HASH_KEY, WRITER_KEY, ObjectInfo, Upload, abort_upload, blocks, look

SINGLE_BYTES = 64 << 20
PART_BYTES = 16 << 20
COPY_BYTES = 5 << 30  # what S3 copies in one request
_COPY_PART_BYTES = 1 << 30
_PARTS = 10_000
_AT_ONCE = 4
_CONFLICTS = 5


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be stored.

    Attributes:
        size: Bytes.
        digest: Their hash, kept with the object.
        read: ``read(start, length)`` gives some of them; called from several threads.
    """

    size: int
    digest: str
    read: Callable[[int, int], bytes]


def put_new(place: S3Location, source: Source) -> bool:
    """Makes the object; ``False`` (and nothing is changed) if there is one already that this call did not make."""
    metadata = {HASH_KEY: source.digest, WRITER_KEY: secrets.token_hex(16)}
    attempt = _put if source.size <= SINGLE_BYTES else _put_parts
    if attempt is _put_parts and look(place) is not None:
        return False
    for _ in range(_CONFLICTS):
        try:
            attempt(place, source, metadata)
        except S3Refusal as refusal:
            if refusal.status not in (404, 412):
                raise
            found = look(place)
            if found is not None:
                return found.metadata.get(WRITER_KEY) == metadata[WRITER_KEY]
            # The object was removed since, or a sweep took the upload: once more.
        else:
            return True
    raise StoreUnreachableError(f"{place}: was refused {_CONFLICTS} times though nothing is there; look at the server")


def copy(source: S3Location, target: S3Location, info: ObjectInfo) -> None:
    """Copies an object, with its metadata, inside the store; replaces what is at ``target``."""
    origin = {"Bucket": source.bucket, "Key": source.key}
    if info.size <= COPY_BYTES:

        async def ask(client: Any) -> Any:
            return await client.copy_object(
                Bucket=target.bucket, Key=target.key, CopySource=origin, CopySourceIfMatch=info.etag
            )

        request(source, "to copy it", ask, size=info.size)
        return

    def part(upload: Upload, number: int, start: int, length: int) -> str:
        async def ask(client: Any) -> Any:
            return await client.upload_part_copy(
                **_named(upload),
                PartNumber=number,
                CopySource=origin,
                CopySourceIfMatch=info.etag,
                CopySourceRange=f"bytes={start}-{start + length - 1}",
            )

        return request(source, "to copy a part of it", ask, size=length)["CopyPartResult"]["ETag"]

    _in_parts(target, info.size, info.metadata, part, part_bytes=_COPY_PART_BYTES, condition={})


def _put(place: S3Location, source: Source, metadata: dict[str, str]) -> None:
    body = source.read(0, source.size)
    md5 = _md5(body)

    async def put(client: Any) -> Any:
        return await client.put_object(
            Bucket=place.bucket, Key=place.key, Body=body, ContentMD5=md5, Metadata=metadata, IfNoneMatch="*"
        )

    request(place, "to publish it", put, size=source.size)


def _put_parts(place: S3Location, source: Source, metadata: dict[str, str]) -> None:
    def part(upload: Upload, number: int, start: int, length: int) -> str:
        body = source.read(start, length)
        md5 = _md5(body)

        async def put(client: Any) -> Any:
            return await client.upload_part(**_named(upload), PartNumber=number, Body=body, ContentMD5=md5)

        return request(place, "to publish a part of it", put, size=length)["ETag"]

    size = max(PART_BYTES, -(-source.size // _PARTS))
    _in_parts(place, source.size, metadata, part, part_bytes=size, condition={"IfNoneMatch": "*"})


def _in_parts(
    place: S3Location,
    size: int,
    metadata: dict[str, str],
    put_part: Callable[[Upload, int, int, int], str],
    *,
    part_bytes: int,
    condition: dict[str, str],
) -> None:
    """A multipart upload; ``put_part(upload, number, start, length)`` sends one part and returns its ETag."""

    async def create(client: Any) -> Any:
        return await client.create_multipart_upload(Bucket=place.bucket, Key=place.key, Metadata=metadata)

    upload = Upload(place, request(place, "to start an upload", create)["UploadId"], datetime.now(UTC))
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            spans = list(enumerate(blocks(size, part_bytes), start=1))
            etags = list(pool.map(lambda span: put_part(upload, span[0], *span[1]), spans))
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, start=1)]

        async def complete(client: Any) -> Any:
            return await client.complete_multipart_upload(
                **_named(upload), MultipartUpload={"Parts": parts}, **condition
            )

        request(place, "to complete an upload", complete, size=size)
    except BaseException as error:
        try:
            abort_upload(upload)
        except StoreError as problem:
            error.add_note(f"its parts stay until a sweep: {problem}")
        raise


def _named(upload: Upload) -> dict[str, str]:
    return {"Bucket": upload.place.bucket, "Key": upload.place.key, "UploadId": upload.upload_id}


def _md5(body: bytes) -> str:
    """What S3 checks the bytes with that arrive."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
