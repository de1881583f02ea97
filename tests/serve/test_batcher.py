"""The micro-batcher: common batches, order, errors, deadlines, its end."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from digiq_ray.core.errors import DeadlineExceededError, DigiQError
from serve.batcher import BatcherClosedError, MicroBatcher

SOON = 10.0


class Gate:
    """A handler that squares numbers, notes its batches, and waits at its gate while that is closed."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()

    def __call__(self, key: str, numbers: list[int]) -> list[int]:
        self.batches.append((key, list(numbers)))
        self.entered.set()
        assert self.open.wait(SOON)
        return [number * number for number in numbers]


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def make(gate):
    made = []

    def one(most: int = 8, handle: Callable | None = None) -> MicroBatcher:
        made.append(MicroBatcher(handle or gate, most=most))
        return made[-1]

    yield one
    gate.open.set()
    for batcher in made:
        batcher.close(deadline=SOON)


@pytest.fixture
def callers():
    with ThreadPoolExecutor(20) as pool:
        yield pool


def queue_behind(batcher, gate, callers, calls) -> list[Future]:
    """Closes the gate, lets one call in, and queues ``calls`` behind it, in order; the first result is its own."""
    gate.open.clear()
    futures = [callers.submit(batcher.submit, "a", [0], deadline=SOON)]
    assert gate.entered.wait(SOON)
    for number, (key, requests) in enumerate(calls, 1):
        futures.append(callers.submit(batcher.submit, key, requests, deadline=SOON))
        until(lambda n=number: batcher.waiting == n)
    return futures


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def test_results_come_in_the_order_of_the_requests(make):
    assert make().submit("a", [3, 1, 2], deadline=SOON) == [9, 1, 4]


def test_nothing_asked_is_nothing_answered(make):
    assert make().submit("a", [], deadline=SOON) == []


def test_callers_that_wait_share_the_next_batch(make, gate, callers):
    futures = queue_behind(make(), gate, callers, [("a", [1, 2]), ("a", [3]), ("a", [4])])
    gate.open.set()
    assert [future.result(SOON) for future in futures] == [[0], [1, 4], [9], [16]]
    assert gate.batches == [("a", [0]), ("a", [1, 2, 3, 4])]


def test_different_keys_do_not_share_a_batch(make, gate, callers):
    futures = queue_behind(make(), gate, callers, [("b", [1]), ("a", [2]), ("b", [3])])
    gate.open.set()
    assert [future.result(SOON) for future in futures] == [[0], [1], [4], [9]]
    assert gate.batches == [("a", [0]), ("b", [1, 3]), ("a", [2])]


def test_a_batch_is_not_larger_than_allowed(make, gate, callers):
    futures = queue_behind(make(most=3), gate, callers, [("a", [1, 2]), ("a", [3, 4]), ("a", [5])])
    gate.open.set()
    assert [future.result(SOON) for future in futures] == [[0], [1, 4], [9, 16], [25]]
    assert gate.batches == [("a", [0]), ("a", [1, 2, 5]), ("a", [3, 4])]


def test_a_single_call_that_is_larger_is_not_torn_apart(make, gate):
    assert make(most=2).submit("a", [1, 2, 3], deadline=SOON) == [1, 4, 9]
    assert gate.batches == [("a", [1, 2, 3])]


def test_many_callers_each_get_their_own_results(make, callers):
    batcher = make(most=16)

    def call(start: int) -> bool:
        numbers = list(range(start, start + start % 5))
        return batcher.submit(str(start % 2), numbers, deadline=SOON) == [number**2 for number in numbers]

    assert all(callers.map(call, range(300)))


def test_an_error_reaches_every_caller_of_the_batch_and_nobody_else(make, gate, callers):
    def handle(key, numbers):
        if key == "bad":
            raise ValueError("no such model")
        return gate(key, numbers)

    batcher = make(handle=handle)
    futures = queue_behind(batcher, gate, callers, [("bad", [1]), ("a", [2]), ("bad", [3])])
    gate.open.set()
    assert (futures[0].result(SOON), futures[2].result(SOON)) == ([0], [4])
    for future in (futures[1], futures[3]):
        with pytest.raises(ValueError, match="no such model"):
            future.result(SOON)
    assert batcher.submit("a", [5], deadline=SOON) == [25]


def test_a_time_out_of_the_handler_itself_comes_through_as_it_is(make):
    def handle(key, numbers):
        raise TimeoutError("the GPU is gone")

    with pytest.raises(TimeoutError, match="the GPU is gone"):
        make(handle=handle).submit("a", [1], deadline=SOON)


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]])
def test_a_handler_that_does_not_answer_each_request_is_an_error(make, results):
    with pytest.raises(DigiQError, match=f"there are {len(results)} results for 2 requests"):
        make(handle=lambda key, numbers: results).submit("a", [1, 2], deadline=SOON)


def test_a_deadline_that_passes_is_a_typed_error(make, gate):
    gate.open.clear()
    with pytest.raises(DeadlineExceededError, match=r"the model did not answer 2 requests in 0\.05 s"):
        make().submit("a", [1, 2], deadline=0.05)


def test_what_nobody_waits_for_any_more_is_not_computed(make, gate, callers):
    batcher = make()
    futures = queue_behind(batcher, gate, callers, [])
    with pytest.raises(DeadlineExceededError):
        batcher.submit("a", [1], deadline=0.05)
    gate.open.set()
    assert futures[0].result(SOON) == [0]
    assert batcher.submit("a", [2], deadline=SOON) == [4]
    assert gate.batches == [("a", [0]), ("a", [2])]


def test_closing_answers_what_waits(make, gate, callers):
    batcher = make()
    futures = queue_behind(batcher, gate, callers, [("a", [1]), ("b", [2])])
    closing = callers.submit(batcher.close, deadline=SOON)
    gate.open.set()
    closing.result(SOON)
    assert [future.result(SOON) for future in futures] == [[0], [1], [4]]


def test_after_closing_nothing_is_accepted(make):
    batcher = make()
    batcher.close(deadline=SOON)
    with pytest.raises(BatcherClosedError, match="the batcher was closed"):
        batcher.submit("a", [1], deadline=SOON)
    batcher.close(deadline=SOON)


def test_closing_does_not_wait_for_ever(make, gate, callers):
    batcher = make()
    queue_behind(batcher, gate, callers, [])
    with pytest.raises(DeadlineExceededError, match=r"the batcher did not end in 0\.05 s"):
        batcher.close(deadline=0.05)
    gate.open.set()
