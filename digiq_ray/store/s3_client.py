"""One S3 client a process, and one way to ask it: each request with a deadline, repeated while that may help.

Endpoint, region and credentials come from the environment alone. A client belongs to the process that made it and to
the environment that it was made from; it serves all threads, and a forked child makes its own. Retries of the
libraries below are off: the loop here is the only one, so that a wait has one deadline and a publisher learns of every
answer that may have been lost. One request may take 20 s and the time that its bytes take at 256 KiB/s; a
request with its repetitions is given up after ``DIGIQ_S3_PATIENCE_S`` seconds (60) more than its bytes take.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import s3fs
from fsspec.asyn import sync

from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.s3_errors import FAILURES, final, transient
from digiq_ray.store.s3_location import S3Location

Result = TypeVar("Result")

PATIENCE = "DIGIQ_S3_PATIENCE_S"
SLOWEST_BYTES_PER_S = 256 << 10
_PATIENCE_S = 60.0
_ATTEMPT_S = 20.0
_CONNECT_S = 5.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_CONNECTIONS = 32
_AMAZON = "Amazon S3"


@dataclass(frozen=True, slots=True)
class Client:
    """A connection pool of this process.

    Attributes:
        filesystem: The ``s3fs.S3FileSystem``; nothing that it caches is used.
        endpoint: Host and port, or "Amazon S3": how messages call the other side.
    """

    filesystem: Any
    endpoint: str


_lock = threading.Lock()
_clients: dict[tuple[tuple[str, str], ...], Client] = {}
_inherited: list[Any] = []


def request(place: S3Location, doing: str, ask: Callable[[Any], Awaitable[Result]], *, size: int = 0) -> Result:
    """What the coroutine ``ask(client)`` returns, ``client`` being aiobotocore's.

    Args:
        place: What it is about, for messages.
        doing: What it is for ("to list", "to read"), for messages.
        ask: Makes one request; called again after a failure that may pass, so a repetition must do no harm.
        size: Bytes that it moves at most, in either direction.

    Raises:
        S3Refusal: the answer is 404, 412 or 416.
        StoreUnreachableError: no useful answer before the deadline; or credentials, bucket, region, server or a
            variable of the environment are wrong.
    """
    client = _client()
    patience, moving = _patience(), size / SLOWEST_BYTES_PER_S
    deadline = time.monotonic() + patience + moving

    async def attempt() -> Result:
        return await ask(await client.filesystem.set_session())

    longest = _FIRST_PAUSE_S
    while True:
        limit = min(_ATTEMPT_S + moving, max(deadline - time.monotonic(), 0.1))
        try:
            return sync(client.filesystem.loop, attempt, timeout=limit)
        except FAILURES as error:
            reason = transient(error)
            if reason is None:
                raise final(error, place, client.endpoint) from error
            pause = longest * random.uniform(0.5, 1.0)
            if time.monotonic() + pause >= deadline:
                raise StoreUnreachableError(
                    f"{place}: waited {patience + moving:.0f} s for {client.endpoint} {doing} (last: {reason}); "
                    f"check AWS_ENDPOINT_URL and the network, then run the same command again"
                ) from error
        time.sleep(pause)
        longest = min(_LONGEST_PAUSE_S, 2 * longest)


def endpoint() -> str:
    """Host and port of the S3 server that the environment names, or "Amazon S3"."""
    return _host(_endpoint_url())


def _client() -> Client:
    key = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    with _lock:
        if key not in _clients:
            _clients.clear()
            _clients[key] = _make_client()
        return _clients[key]


def _make_client() -> Client:
    url = _endpoint_url()
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    names = {"endpoint_url": url, "region_name": region}
    filesystem = s3fs.S3FileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        client_kwargs={name: value for name, value in names.items() if value},
        config_kwargs={
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "connect_timeout": _CONNECT_S,
            "read_timeout": _ATTEMPT_S,
            "max_pool_connections": _CONNECTIONS,
            # Older S3 servers know no trailing checksums; uploads carry an MD5, downloads are checked by our own hash.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
    )
    return Client(filesystem, _host(url))


def _endpoint_url() -> str | None:
    name = "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"
    url = os.environ.get(name) or None
    if url is not None and not _host(url):
        raise StoreUnreachableError(f"{name} must look like http://HOST:PORT or https://HOST")
    return url


def _host(url: str | None) -> str:
    if url is None:
        return _AMAZON
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    return parts.hostname if port is None else f"{parts.hostname}:{port}"


def _patience() -> float:
    text = os.environ.get(PATIENCE, "")
    try:
        seconds = float(text) if text else _PATIENCE_S
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise StoreUnreachableError(f"{PATIENCE}={text!r}: must be a number of seconds above 0")
    return seconds


def _forget_after_fork() -> None:
    """Lets a forked child start anew; what it inherited is kept, unused: closing it would disturb the parent."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_clients.values())
    _clients.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
