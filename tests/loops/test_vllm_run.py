"""The whole recipe through vLLM; its engines killed in the middle change no row."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from small_recipe import descendant, finish, report_of, rows_of, start, wait_for

from digiq_ray.core.errors import InputError
from digiq_ray.store.features import FeatureStore
from serve.backends import check_backend

pytestmark = pytest.mark.timeout(1800)  # each run starts three engines, at 15 s on a machine that is not busy

WORDS = ("--backend", "vllm", "--set", "policy.controls=[]")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        check_backend("vllm")
    except InputError as error:
        if os.environ.get("DIGIQ_REQUIRE_VLLM") == "1":
            pytest.fail(f"DIGIQ_REQUIRE_VLLM=1, but {error}")
        pytest.skip(str(error))
    root = tmp_path_factory.mktemp("unbroken") / "run"
    code, out, err = finish(start("run", "--serial", *WORDS, "--out", str(root)))
    assert code == 0, out + err
    return root


def feature_keys(root: Path, kind: str) -> list[object]:
    rows: list[object] = FeatureStore(root / "features" / kind).open().keys.to_pylist()
    return rows


def kill_engine(process: subprocess.Popen[str], name: str, during: str) -> None:
    engine = wait_for(lambda: descendant(process, name), process, during)
    assert isinstance(engine, psutil.Process)
    os.kill(engine.pid, signal.SIGKILL)


def test_every_stage_goes_through_vllm(unbroken: Path) -> None:
    policies = report_of(unbroken)["policies"]
    assert isinstance(policies, dict)
    assert set(policies) == {"behaviour", "digi_q"}
    assert all(policy["n"] == 12 and policy["infra_errors"] == 0 for policy in policies.values())


def test_killed_engines_change_no_row(unbroken: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    process = start("demo", *WORDS, "--out", str(root))
    wait_for(lambda: list((root / "episodes").glob("*.parquet")), process, "the first episodes")
    kill_engine(process, "EngineCore", "vLLM's engine while it plays")
    wait_for(lambda: (root / "stages" / "finetune.json").exists(), process, "the end of stage 1")
    kill_engine(process, "ray::EngineActor", "the actor that embeds")
    children = psutil.Process(process.pid).children(recursive=True)
    code, out, err = finish(process)
    assert code == 0, out + err
    assert rows_of(root) == rows_of(unbroken)
    for kind in ("states", "actions"):
        assert feature_keys(root, kind) == feature_keys(unbroken, kind)
    _, alive = psutil.wait_procs(children, timeout=40)
    assert not alive, f"processes outlive the command: {alive}"
