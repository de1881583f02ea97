"""How a batch is shared: every row once, and a weighted mean over processes is that of the whole batch."""

import pytest

from digiq_ray.core.errors import InputError
from digiq_ray.core.spread import ALONE, Spread


def group(size: int) -> list[Spread]:
    """All processes of a group, as far as they can be told without one."""
    members = []
    for rank in range(size):
        member = Spread()
        member.rank, member.size = rank, size
        members.append(member)
    return members


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [7, 8, 20])
def test_every_row_of_a_batch_is_one_processes_own(size, count):
    rows = list(range(count))
    for parts in ([rows[one.every] for one in group(size)], [rows[one.stretch(count)] for one in group(size)]):
        assert sorted(row for part in parts for row in part) == rows
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_neighbours_stay_together_in_stretches():
    assert [list(range(7))[one.stretch(7)] for one in group(3)] == [[0, 1], [2, 3], [4, 5, 6]]


def test_each_process_has_as_many_of_the_first_rows():
    assert [list(range(10))[one.every][:2] for one in group(3)] == [[0, 3], [1, 4], [2, 5]]


def test_the_mean_of_weighted_means_is_that_of_the_batch():
    values = [3.0, 5.0, 8.0, 1.0, 9.0, 2.0, 4.0]
    shares = [values[one.every] for one in group(3)]
    weighted = [
        one.weight(len(share), len(values)) * sum(share) / len(share)
        for one, share in zip(group(3), shares, strict=True)
    ]
    assert sum(weighted) / 3 == pytest.approx(sum(values) / len(values))


def test_one_process_has_everything_as_it_is():
    assert ALONE.weight(13, 13) == 1.0
    assert ALONE.mean({"loss": 0.1}) == {"loss": 0.1}
    assert ALONE.replicated(object())(max, 1, 2) == ALONE.sharded(object())(max, 1, 2) == 2


def test_a_batch_that_is_too_small_says_how_many_processes_it_is_for():
    ALONE.require(1, "items")
    with pytest.raises(InputError, match=r"a batch of 2 items .* 3 processes: set learner\.workers to 2"):
        group(3)[0].require(2, "items")
