"""vLLM's asynchronous engine with this project's errors: each wait has a deadline and a name, each failure one line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from digiq_ray.core.errors import (
    DeadlineExceededError,
    DigiQError,
    InputError,
    ModelError,
    WorkerLostError,
    error_chain,
)


def start(arguments: dict[str, Any]) -> Any:
    """An ``AsyncLLM`` that is ready; takes tens of seconds. ``vllm_start.prepare`` must have been called.

    Raises:
        ModelError: vLLM could not load the model.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, disable_log_stats=True))
    except (RuntimeError, ValueError, OSError, KeyError, AttributeError, TypeError, AssertionError) as error:
        raise ModelError(f"vLLM cannot serve {arguments['model']!r}: {_first_line(error)}") from error


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
