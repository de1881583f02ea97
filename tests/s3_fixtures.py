"""Fixtures named ``s3_*``: a real S3 server on loopback, a place in it, and a proxy that hurts requests."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_proxy import Proxy
from s3_server import s3_server as serve

BUCKET = "digiq-tests"
REGION = "eu-central-1"
# What the environment of the tests must not bring in: other servers, other credentials, files with either.
_UNSET = (
    "AWS_PROFILE",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server, for the whole session."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        pytest.skip("moto[server] is not installed: pip install 'moto[server]'")
    with serve() as address:
        yield address


@pytest.fixture
def s3_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Points the environment at the server, with a cache of its own; the monkeypatch, to point it elsewhere."""
    for name in _UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "a-key-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "DIGIQ_CACHE_DIR": str(tmp_path / "cache"),
        "DIGIQ_CACHE_BYTES": "1000000000",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture(scope="session")
def s3_bucket(s3_server: str) -> str:
    """The name of a bucket that exists."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=s3_server,
        region_name=REGION,
        aws_access_key_id="a-key-id",
        aws_secret_access_key="a-secret",
    )
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    return BUCKET


@pytest.fixture
def s3_url(s3_environment: pytest.MonkeyPatch, s3_bucket: str) -> str:
    """A place that nobody has used; nothing is there."""
    return f"s3://{s3_bucket}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def s3_session_proxy(s3_server: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy and its address, for the whole session: a client is made for each address, which takes its time."""
    proxy = Proxy(s3_server)
    with proxy.serving() as address:
        yield proxy, address


@pytest.fixture
def s3_proxy(s3_environment: pytest.MonkeyPatch, s3_session_proxy: tuple[Proxy, str]) -> Proxy:
    """A proxy that hurts nothing yet and has seen nothing; from now on the environment points at it."""
    proxy, address = s3_session_proxy
    proxy.reset()
    s3_environment.setenv("AWS_ENDPOINT_URL", address)
    return proxy
