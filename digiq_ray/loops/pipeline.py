"""A bulk stage on Ray: a Ray Data pipeline over the shards, whose tasks ask engine actors.

A task reads a shard from the store, asks an engine for what the model has to say, and writes the result: only the
screens of that shard travel, and only to the engine. Ray Data bounds how many shards are under way, repeats a task
whose process died, and hands on what is done as it comes. There is one task more than there are engines, so that
reading and writing go on while every engine is busy.
"""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import ray

from digiq_ray.core.errors import DeadlineExceededError, DigiQError, error_chain
from serve.bulk import Done, Shard, Work
from serve.engine import RemoteEngine


def run_pipeline(
    work: Work,
    shards: Sequence[Shard],
    engines: Sequence[Any],
    on_progress: Callable[[int, int], None],
    *,
    stall: float,
) -> Done:
    """Does ``work`` for every shard.

    Args:
        work: What is done to one.
        shards: All of them, in any order.
        engines: Handles of ``EngineActor``.
        on_progress: Told how many are done, and of how many.
        stall: Seconds without a finished shard after which it gives up.

    Raises:
        DeadlineExceededError: nothing moved for ``stall`` seconds.
        DigiQError: what ``work`` raised.
    """
    if not shards:
        return Done()
    from ray import data
    from ray.data.exceptions import ExecutionTimeoutError

    context = _quiet_context()
    context.execution_no_progress_timeout_s = stall
    tasks = min(len(engines) + 1, len(shards))
    ask = functools.partial(_one, work=work, shards=list(shards), engines=list(engines))
    total = Done()
    with data.DataContext.current(context):
        # In blocks of one row that are made here: reading rows from elsewhere would start processes of its own.
        numbers = data.from_items(
            [{"number": number} for number in range(len(shards))], override_num_blocks=len(shards)
        )
        pipeline = numbers.map(ask, num_cpus=0, compute=data.TaskPoolStrategy(size=tasks))
        try:
            for number, row in enumerate(pipeline.iter_rows(), 1):
                total.add(Done(row["states"], Counter(json.loads(row["failures"]))))
                on_progress(number, len(shards))
        except ExecutionTimeoutError as error:
            raise DeadlineExceededError(f"no shard was finished for {stall:g} s; the same command continues") from error
        except ray.exceptions.RayError as error:
            raise _typed(error) from None
    return total


def _one(row: dict[str, Any], *, work: Work, shards: Sequence[Shard], engines: Sequence[Any]) -> dict[str, Any]:
    number = int(row["number"])
    done = work(shards[number], RemoteEngine(engines[number % len(engines)]))
    return {"states": done.states, "failures": json.dumps(done.failures)}


def _typed(error: ray.exceptions.RayError) -> BaseException:
    """What the work raised, if that was on purpose, without what Ray says around it."""
    causes = (one for one in error_chain(error) if not isinstance(one, ray.exceptions.RayError))
    return next((one for one in causes if isinstance(one, DigiQError)), error)


def _quiet_context() -> Any:
    """Ray Data's settings without its own output: progress is told by whoever calls."""
    from ray import data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Ray Data's own old settings
        context = data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True
    return context
