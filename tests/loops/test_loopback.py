"""What a command starts on this machine cannot be reached from another."""

import ipaddress
from pathlib import Path

import psutil
import pytest
from small_recipe import descendant, kill_tree, start, wait_for


def listening(process: psutil.Process) -> list[tuple[str, str]]:
    """(program, address) of each port of a process and of all that it has started."""
    found = []
    for one in [process, *process.children(recursive=True)]:
        try:
            places = [place.laddr.ip for place in one.net_connections("inet") if place.status == psutil.CONN_LISTEN]
            found += [(one.name(), place) for place in places]
        except psutil.NoSuchProcess:
            continue
    return found


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) is not None and parsed.ipv4_mapped.is_loopback) or parsed.is_loopback


def test_a_local_ray_listens_on_loopback_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    process = start("demo", "--out", str(tmp_path / "run"))
    try:
        wait_for(lambda: descendant(process, "ray::EngineActor"), process, "an engine on Ray")
        wait_for(lambda: list((tmp_path / "run" / "episodes").glob("*.parquet")), process, "the first episodes")
        found = listening(psutil.Process(process.pid))
    finally:
        kill_tree(process)
    assert len(found) > 5
    assert [one for one in found if not is_loopback(one[1])] == []
