"""S3 behind a network that answers 500 and 503, is slow, and cuts connections: nothing lost, nothing double."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from s3_proxy import FAULTS, Fault, Proxy, first, seeded

from digiq_ray.store import s3_upload
from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.directory import Directory, create_directory, open_directory

MIB = 1 << 20
CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def directory(s3_url: str, s3_proxy: Proxy) -> Directory:
    """Holds one file, ``a.x``."""
    made = create_directory(s3_url)
    made.publish("a.x", CONTENT)
    s3_proxy.done.clear()
    return made


def _read(directory: Directory) -> bytes:
    with directory.reading("a.x") as file:
        return file.read()


def _map(directory: Directory) -> bytes:
    with directory.mapping("a.x") as mapped:
        return mapped[:]


def _set_aside(directory: Directory) -> list[str]:
    directory.set_aside("a.x")
    return directory.names("")


def _remove(directory: Directory) -> list[str]:
    directory.remove("a.x")
    return directory.names("")


USES: dict[str, tuple[Callable[[Directory], Any], Any]] = {
    "open": (lambda directory: open_directory(directory.path).names(""), ["a.x"]),
    "create": (lambda directory: create_directory(directory.path / "new").names(""), []),
    "names": (lambda directory: directory.names(""), ["a.x"]),
    "publish": (lambda directory: directory.publish("b.x", CONTENT), True),
    "publish a name that is taken": (lambda directory: directory.publish("a.x", b"other"), False),
    "reading": (_read, CONTENT),
    "mapping": (_map, CONTENT),
    "digest": (lambda directory: directory.digest("a.x"), hashlib.blake2b(CONTENT, digest_size=16).hexdigest()),
    "set_aside": (_set_aside, []),
    "remove": (_remove, []),
    "sweep": (lambda directory: directory.sweep(), []),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("use", USES)
def test_a_fault_that_passes_is_not_noticed(directory: Directory, s3_proxy: Proxy, use: str, fault: Fault) -> None:
    s3_proxy.plan = first(fault)
    act, expected = USES[use]
    assert act(directory) == expected
    assert s3_proxy.done[fault] == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_each_writer_learns_the_truth_when_every_first_put_is_hurt(
    directory: Directory, s3_proxy: Proxy, fault: Fault
) -> None:
    """Four writers of the same three names: each name has one winner, whose content it holds."""
    s3_proxy.plan = first(fault, 6, method="PUT")
    contents = {(name, writer): f"{name} by {writer}".encode() * 2000 for name in "pqr" for writer in range(4)}
    with ThreadPoolExecutor(4) as pool:
        won = dict(zip(contents, pool.map(lambda key: directory.publish(key[0], contents[key]), contents), strict=True))
    for name in "pqr":
        winners = [writer for writer in range(4) if won[name, writer]]
        assert len(winners) == 1
        with directory.reading(name) as file:
            assert file.read() == contents[name, winners[0]]
    assert s3_proxy.done[fault] == 6


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize("fault", [Fault.INTERNAL, Fault.CUT_REQUEST, Fault.LOST_ANSWER])
def test_a_large_upload_survives_faults_of_each_kind_of_request(
    directory: Directory, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch, fault: Fault, method: str
) -> None:
    monkeypatch.setattr(s3_upload, "SINGLE_BYTES", MIB)
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 * MIB)
    content = os.urandom(6 * MIB)
    s3_proxy.plan = first(fault, 2, method=method)
    assert directory.publish("b.x", content)
    s3_proxy.plan = first(Fault.NONE)
    with directory.reading("b.x") as file:
        assert file.read() == content


@pytest.mark.parametrize("seed", range(3))
def test_a_third_of_all_requests_may_fail(directory: Directory, s3_proxy: Proxy, seed: int) -> None:
    s3_proxy.plan = seeded(seed, 1 / 3)
    names = [f"{number:02}.y" for number in range(10)]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda name: directory.publish(name, name.encode() * 1000), names))
    assert directory.names(".y") == names
    for name in names:
        with directory.reading(name) as file:
            assert file.read() == name.encode() * 1000
    assert sum(s3_proxy.done[fault] for fault in FAULTS) > 5


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault is not Fault.DELAY])
def test_a_fault_that_stays_ends_in_one_line_and_publishes_nothing_false(
    directory: Directory, s3_proxy: Proxy, s3_environment: pytest.MonkeyPatch, fault: Fault
) -> None:
    s3_environment.setenv("DIGIQ_S3_PATIENCE_S", "0.5")
    s3_proxy.plan = first(fault, 1000)
    with pytest.raises(StoreUnreachableError, match=r"waited \d s for 127\.0\.0\.1:\d+ to publish it") as raised:
        directory.publish("b.x", b"content")
    assert "\n" not in str(raised.value)
    s3_environment.delenv("DIGIQ_S3_PATIENCE_S")
    s3_proxy.plan = first(Fault.NONE)
    held = directory.names("")
    assert held in (["a.x"], ["a.x", "b.x"])
    assert directory.publish("b.x", b"again") == (held == ["a.x"])


def test_a_server_that_does_not_answer_says_nothing_about_the_files(
    directory: Directory, s3_proxy: Proxy, s3_environment: pytest.MonkeyPatch
) -> None:
    s3_environment.setenv("DIGIQ_S3_PATIENCE_S", "0.3")
    s3_proxy.plan = first(Fault.INTERNAL, 1000)
    for use in (_read, _map, _set_aside):
        with pytest.raises(StoreUnreachableError):
            use(directory)
