"""Python runs this in every process that vLLM starts, before anything else; see ``digiq_ray.vlm.cpu_builds``.

It stands in front of a ``sitecustomize`` that the environment may have, and so runs that one too.
"""

import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from digiq_ray.vlm.cpu_builds import install

install()
_here = Path(__file__).resolve().parent
_next = PathFinder.find_spec("sitecustomize", [entry for entry in sys.path if Path(entry).resolve() != _here])
if _next is not None and _next.loader is not None:
    _next.loader.exec_module(importlib.util.module_from_spec(_next))
