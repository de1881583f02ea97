import threading

import pytest
from fake_phones import page_task

from emulator_workers.jobs import JobQueue, make_jobs


def jobs_of(count: int):
    return make_jobs([page_task(1, name=f"t/{n}") for n in range(count)], run="r")


def alone() -> bool:
    return False


def many() -> bool:
    return True


def test_jobs_come_in_order():
    jobs = jobs_of(3)
    queue = JobQueue(jobs)
    assert [queue.take(0, others=alone).job for _ in jobs] == jobs
    assert queue.take(0, others=alone) is None


def test_a_failed_job_goes_first_to_another_slot():
    queue = JobQueue(jobs_of(2))
    ticket = queue.take(0, others=many)
    ticket.failed_on = 0
    queue.give_back(ticket)
    assert queue.take(0, others=many) is not ticket
    assert queue.take(1, others=many) is ticket


def test_a_failed_job_goes_to_the_same_slot_if_there_is_no_other():
    queue = JobQueue(jobs_of(1))
    ticket = queue.take(0, others=alone)
    ticket.failed_on = 0
    queue.give_back(ticket)
    assert queue.take(0, others=many) is None
    assert queue.take(0, others=alone) is ticket


def test_a_queue_is_over_when_all_that_was_taken_is_done():
    queue = JobQueue(jobs_of(1))
    queue.take(0, others=alone)
    assert not queue.is_over()
    queue.finished()
    assert queue.is_over()


def test_jobs_can_be_added_until_it_is_over():
    queue = JobQueue(jobs_of(1))
    queue.take(0, others=alone)
    assert queue.add(jobs_of(1))
    queue.take(0, others=alone)
    queue.finished()
    queue.finished()
    assert not queue.add(jobs_of(1))
    assert queue.waiting == 0


def test_draining_leaves_what_nobody_began_to_be_collected():
    jobs = jobs_of(3)
    queue = JobQueue(jobs)
    begun = queue.take(0, others=alone)
    queue.drain()
    assert queue.take(0, others=alone) is None
    assert not queue.add(jobs_of(1))
    assert not queue.is_over(), "an episode goes on"
    queue.give_back(begun)
    assert queue.is_over()
    assert [ticket.job for ticket in queue.collect()] == [jobs[1], jobs[2], jobs[0]]
    assert queue.collect() == []


def test_failed_jobs_are_handed_over_if_wanted():
    queue = JobQueue(jobs_of(2), hand_over=True)
    ticket = queue.take(0, others=alone)
    queue.give_back(ticket)
    assert queue.collect() == [ticket]
    assert queue.waiting == 1


@pytest.mark.parametrize("wake", ["add", "over"])
def test_a_slot_that_waits_is_woken(wake):
    queue, got = JobQueue(jobs_of(1)), []
    queue.take(0, others=alone)
    thread = threading.Thread(target=lambda: got.append(queue.take(1, others=many, wait=True)))
    thread.start()
    if wake == "add":
        queue.add(jobs_of(1))
    else:
        queue.finished()
    thread.join(4.0)  # less than the queue's own look
    assert not thread.is_alive()
    assert (got[0] is None) == (wake == "over")
