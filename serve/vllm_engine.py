"""vLLM's asynchronous engine with this project's errors: each wait has a deadline and a name, each failure one line."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from digiq_ray.core.errors import (
    DeadlineExceededError,
    DigiQError,
    InputError,
    ModelError,
    WorkerLostError,
    error_chain,
)
from digiq_ray.vlm.hub import adapter_base, weights_directory
from digiq_ray.vlm.model import Vlm


def start(arguments: dict[str, Any]) -> Any:
    """An ``AsyncLLM`` that is ready; takes tens of seconds. ``vllm_start.prepare`` must have been called.

    Raises:
        ModelError: the model is an adapter that does not fit its base, or vLLM could not load it.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    with whole(arguments["model"], getattr(torch, arguments["dtype"])) as directory:
        try:
            return AsyncLLM.from_engine_args(
                AsyncEngineArgs(**{**arguments, "model": directory}, disable_log_stats=True)
            )
        except (RuntimeError, ValueError, OSError, KeyError, AttributeError, TypeError, AssertionError) as error:
            raise ModelError(f"vLLM cannot serve {arguments['model']!r}: {_first_line(error)}") from error


@contextmanager
def whole(source: str, dtype: torch.dtype) -> Iterator[str]:
    """The directory of all weights of a model; for an adapter a temporary one, merged in ``dtype``.

    Raises:
        ModelError: there is no such model, the adapter does not fit its base, or there is no room for merged weights.
    """
    if adapter_base(source) is None:
        yield str(weights_directory(source))
        return
    with tempfile.TemporaryDirectory(prefix="digiq-merged-") as directory:
        merged = Vlm.load(source, dtype=dtype)
        try:
            merged.save(Path(directory))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"the merged weights of {source!r} cannot be written to {directory}: {error}") from error
        del merged  # as large as the model that is served
        yield directory


@asynccontextmanager
async def named_errors(what: str, deadline: float) -> AsyncIterator[None]:
    """Gives what is awaited inside ``deadline`` seconds, and turns vLLM's errors into typed ones that name ``what``."""
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        async with asyncio.timeout(deadline):
            yield
    except TimeoutError as error:
        raise DeadlineExceededError(f"{what} did not answer in {deadline:g} s") from error
    except (Exception, ExceptionGroup) as error:
        causes = [cause for one in _leaves(error) for cause in error_chain(one)]
        for cause in causes:
            if isinstance(cause, DigiQError):
                raise cause from None
        for cause in causes:
            if isinstance(cause, VLLMValidationError):
                raise InputError(f"{what} refuses the prompt: {_first_line(cause)}") from error
            if isinstance(cause, EngineDeadError):
                raise WorkerLostError(f"{what} has died; it is started again with the next replica") from error
        raise


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
