"""The store is light: importing all of it brings in neither torch nor Ray nor pandas."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import digiq_ray
from digiq_ray import store


def test_importing_the_store_imports_no_heavy_package() -> None:
    modules = [f"digiq_ray.store.{module.name}" for module in pkgutil.iter_modules(store.__path__)]
    assert "digiq_ray.store.features" in modules
    code = f"import sys, {', '.join(modules)}; print([m for m in ('torch', 'ray', 'pandas') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(Path(digiq_ray.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert result.stdout.strip() == "[]"
