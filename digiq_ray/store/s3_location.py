"""Where an object, or a prefix that stands for a directory, lies in S3: ``s3://bucket/key``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from digiq_ray.core.errors import StoreError

SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


@dataclass(frozen=True, slots=True, order=True)
class S3Location:
    """A bucket and a key in it, without a slash at either end; the empty key is the bucket itself."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """The location that ``url`` names; raises ``StoreError`` if it is not ``s3://bucket/prefix``."""
        bucket, _, key = url.removeprefix(SCHEME).partition("/")
        if not url.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
            raise StoreError(f"{url}: is not a place in S3; write s3://BUCKET/PREFIX")
        return cls(bucket, "/".join(part for part in key.split("/") if part))

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> S3Location:
        """The place of ``name`` in here."""
        return S3Location(self.bucket, self.prefix + name)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def prefix(self) -> str:
        """What the keys of everything in here start with."""
        return f"{self.key}/" if self.key else ""
