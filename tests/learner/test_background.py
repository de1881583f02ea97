"""Work in the background: one at a time, with errors that arrive and waits that end."""

import threading
import time

import pytest

from digiq_ray.core.errors import DeadlineExceededError
from digiq_ray.learner.background import Background

SOON = 60.0


def fail() -> None:
    raise ValueError("it went wrong")


def test_work_is_done_beside_what_started_it_and_waited_for():
    go, done = threading.Event(), []
    background = Background(SOON)
    background.start("a task", lambda: done.append(go.wait(SOON)))
    background.check()
    assert done == []
    go.set()
    background.wait()
    assert done == [True]


def test_the_next_begins_when_the_one_before_has_ended():
    running, most, lock = [], [], threading.Lock()

    def work() -> None:
        with lock:
            running.append(1)
            most.append(len(running))
        time.sleep(0.01)
        with lock:
            running.pop()

    background = Background(SOON)
    for number in range(5):
        background.start(f"task {number}", work)
    background.wait()
    assert most == [1] * 5


@pytest.mark.parametrize("where", ["wait", "start"])
def test_what_goes_wrong_is_raised_once_where_it_is_waited_for(where):
    background = Background(SOON)
    background.start("a task", fail)
    with pytest.raises(ValueError, match="it went wrong"):
        background.wait() if where == "wait" else background.start("another", lambda: None)
    background.wait()


def test_a_look_raises_what_went_wrong_without_waiting():
    background = Background(SOON)
    background.start("a task", fail)

    def look_until_it_ends() -> None:
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            background.check()

    with pytest.raises(ValueError, match="it went wrong"):
        look_until_it_ends()


def test_a_wait_has_a_deadline_and_says_what_for():
    go = threading.Event()
    background = Background(0.05)
    background.start("writing the checkpoint x", lambda: go.wait(SOON))
    with pytest.raises(
        DeadlineExceededError, match=r"^writing the checkpoint x: not done after 0\.05 s; .*checkpoint_se"
    ):
        background.wait()
    go.set()
