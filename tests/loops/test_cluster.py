"""The same command on a cluster that runs already."""

import os
from pathlib import Path

import pytest
import ray
from small_recipe import finish, report_of, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address():
    """Where a Ray of this machine listens, started by somebody else."""
    context = ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()


def test_a_run_joins_the_cluster_that_is_named_and_leaves_it_running(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    before = len(ray.nodes())
    process = start("run", "--out", str(tmp_path / "run"))
    code, out, err = finish(process)
    assert code == 0, out + err
    policies = report_of(tmp_path / "run")["policies"]
    assert isinstance(policies, dict)
    assert set(policies) >= {"behaviour", "digi_q"}
    assert len(ray.nodes()) == before
    jobs = {job["JobID"]: job for job in ray._private.state.jobs()}
    assert any(job["DriverPid"] == process.pid and job["IsDead"] for job in jobs.values())
    assert ray.get(ray.remote(lambda: os.getpid()).remote(), timeout=60) != os.getpid()


def test_an_address_without_a_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    code, _, err = finish(start("run", "--out", str(tmp_path / "run")))
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("digiq: ")]
    assert lines
    assert "there is no Ray cluster at RAY_ADDRESS=127.0.0.1:9" in lines[-1]
