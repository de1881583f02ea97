import asyncio

import pytest

from digiq_ray.core.errors import DeadlineExceededError
from serve.vllm_gate import Gate


async def stay(gate, until, log, name):
    async with gate.reading():
        log.append(f"{name} in")
        await until.wait()
    log.append(f"{name} out")


def test_a_writer_waits_for_those_inside_and_keeps_new_ones_out():
    async def scene():
        gate, until, log = Gate(), asyncio.Event(), []
        first = asyncio.create_task(stay(gate, until, log, "first"))
        await asyncio.sleep(0)

        async def write():
            async with gate.writing(5.0):
                log.append("written")

        writer = asyncio.create_task(write())
        await asyncio.sleep(0)
        second = asyncio.create_task(stay(gate, until, log, "second"))
        await asyncio.sleep(0)
        until.set()
        await asyncio.gather(first, writer, second)
        return log

    assert asyncio.run(scene()) == ["first in", "first out", "written", "second in", "second out"]


def test_a_writer_that_waits_too_long_gives_up_and_lets_readers_in_again():
    async def scene():
        gate, until, log = Gate(), asyncio.Event(), []
        first = asyncio.create_task(stay(gate, until, log, "first"))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceededError, match="1 requests under way"):
            async with gate.writing(0.01):
                log.append("written")
        until.set()
        await asyncio.gather(first, stay(gate, until, log, "second"))
        return log

    assert asyncio.run(scene()) == ["first in", "first out", "second in", "second out"]


def test_a_reader_that_fails_leaves():
    async def scene():
        gate = Gate()
        with pytest.raises(KeyError):
            async with gate.reading():
                raise KeyError
        async with gate.writing(0.1):
            return True

    assert asyncio.run(scene())
