"""Child process of the concurrency tests: forks writers of one store from a warm parent, so that starting one is cheap.

``python store_fork_writers.py kill TARGET KILLS SEED`` starts one writer after the other, kills each at a random
moment, and prints the numbers of the acknowledged episodes, one a line; writers append single episodes and batches,
append what the killed one was at again, and one in eight compacts and prunes instead.

``python store_fork_writers.py race TARGET WRITERS EPISODES`` starts that many writers at once; each appends its own
episodes, single ones mixed with batches, and again, and then a quarter of its neighbour's.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial

from digiq_ray.core.actions import tap
from digiq_ray.core.episodes import Episode, Step, StopReason, episode_id
from digiq_ray.core.tasks import Task
from digiq_ray.store.compaction import compact
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.pruning import prune

LONGEST_LIFE_S = 0.12


def make_episode(number: int) -> Episode:
    """Episode ``number``: three observations of 2 kB, two of them equal."""
    screens = [number.to_bytes(4, "big") * 500, b"home" * 500, number.to_bytes(4, "big") * 500]
    steps = [Step(screen, f"tap {number}", tap(0.5, 0.5), None, 0.0, None, 1.0, 2.0) for screen in screens[:2]]
    steps.append(Step(screens[2], None, None, None, 0.0, None, 3.0, 3.0))
    task = Task(task_id=f"t/{number}", text=f"task {number}", horizon=2, split="train")
    return Episode(
        episode_id=episode_id("run", task.task_id, 0),
        task=task,
        steps=tuple(steps),
        stop_reason=StopReason.TIME_LIMIT,
        policy_version="v1",
        device="sim",
        judge="oracle",
    )


def kill_writers(target: str, kills: int, seed: int) -> None:
    """Starts and kills ``kills`` writers; prints what they acknowledged."""
    rng = random.Random(seed)
    store = EpisodeStore(target)
    position = 0
    for kill in range(kills):
        store.episode_ids()  # a writer begins with the footers that its parent knows
        receive, send = os.pipe()
        if kill % 8 == 7:
            process = _fork(partial(_compact_forever, target))
        else:
            process = _fork(partial(_append_forever, store, position, send))
        os.close(send)
        acknowledged = _acknowledged_until(receive, time.monotonic() + rng.uniform(0, LONGEST_LIFE_S), process)
        os.close(receive)
        print("\n".join(acknowledged), flush=True)
        position = max([position, *(int(number) + 1 for number in acknowledged if number)])


def race_writers(target: str, writers: int, episodes: int) -> None:
    """Starts ``writers`` at once and waits for them; exits with 1 if one of them failed."""
    started = [_fork(partial(_write_all, target, writer, writers, episodes)) for writer in range(writers)]
    failed = [process for process in started if os.waitpid(process, 0)[1] != 0]
    sys.exit(1 if failed else 0)


def _fork(work: Callable[[], None]) -> int:
    process = os.fork()
    if process:
        return process
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def _append_forever(store: EpisodeStore, position: int, send: int) -> None:
    while True:
        size = 1 + position % 3
        numbers = range(position, position + size)
        batch = [make_episode(number) for number in numbers]
        store.append(batch)
        os.write(send, "".join(f"{number}\n" for number in numbers).encode())
        store.append(batch)
        position += size


def _compact_forever(target: str) -> None:
    while True:
        compact(EpisodeStore(target))
        prune(EpisodeStore(target))


def _acknowledged_until(receive: int, deadline: float, process: int) -> list[str]:
    """Kills ``process`` at the deadline; the whole lines that it wrote."""
    said = b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([receive], [], [], left)[0]:
            said += os.read(receive, 1 << 16)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    while more := os.read(receive, 1 << 16):
        said += more
    return said[: said.rfind(b"\n") + 1].decode().split("\n")


def _write_all(target: str, writer: int, writers: int, episodes: int) -> None:
    rng = random.Random(writer)
    own = range(writer * episodes, (writer + 1) * episodes)
    neighbour = (writer + 1) % writers
    others = range(neighbour * episodes, neighbour * episodes + episodes // 4)
    for numbers in (own, others):
        done = 0
        while done < len(numbers):
            part = numbers[done : done + rng.choice((1, 1, 5, 10))]
            batch = [make_episode(number) for number in part]
            store = _append(target, batch)
            done += len(part)
            if rng.random() < 0.3:
                store.append(batch)


_stores: dict[int, EpisodeStore] = {}


def _append(target: str, batch: Sequence[Episode]) -> EpisodeStore:
    store = _stores.setdefault(os.getpid(), EpisodeStore(target))
    store.append(batch)
    return store


def _warm_up() -> None:
    """Writes once, so that what is loaded by the first write is there before the first fork."""
    with tempfile.TemporaryDirectory() as folder:
        EpisodeStore.create(folder).append([make_episode(0)])


if __name__ == "__main__":
    _warm_up()
    work = {"kill": kill_writers, "race": race_writers}[sys.argv[1]]
    work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
