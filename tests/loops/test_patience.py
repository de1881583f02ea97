import pytest

from digiq_ray.core.errors import DeadlineExceededError
from digiq_ray.loops.patience import Patience


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_work_that_moves_may_take_long() -> None:
    clock = Clock()
    patience = Patience("embedding", 10.0, clock)
    for done in range(100):
        clock.now += 9.0
        patience.look(done)


def test_work_that_stands_still_is_ended_by_name() -> None:
    clock = Clock()
    patience = Patience("embedding", 10.0, clock)
    patience.look(3)
    clock.now += 10.5
    with pytest.raises(DeadlineExceededError, match="embedding has not moved for 10 s"):
        patience.look(3)
