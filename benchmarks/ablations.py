"""The ablation table: every method on the simulated phones, in the shape of the paper's tables.

``python -m benchmarks.ablations [--sets general webshop] [--seeds 0 1 2] [--cells NAME ...] [--episodes 400]
[--set section.key=value ...] [--out DIR] [--serial] [--quick] --json FILE`` (or ``make ablations``): two to three
hours on two cores and 3 GB, so ``make bench`` leaves it out.

A cell is one row of the table on one task set with one seed: the behaviour policy; the control that imitates a random
candidate; filtered BC; AWR; REINFORCE; DigiRL; best of N by a Monte Carlo critic; Digi-Q with all K = 16 candidates,
also on features from before stage 1, with N = 1, 4 and 8, and on a quarter and a half of the episodes; re-ranking by Q;
and Digi-Q and re-ranking by a critic without training, which shows what the support rule does alone. Each is scored on
the same ``--episodes`` test tasks at temperature 1. Nothing is chosen by what comes out. *webshop* has the preset for
long horizons, as everywhere. With N candidates the support rule asks for the same share of draws as with all K.

What cells have in common is done once for each task set and seed, in ``DIR/runs/SET-SEED``: episodes, candidates,
stage 1, features, critic. A cell with other settings has a run of its own beside it, which takes over by hard links
what is the same there; the cells with fewer episodes copy the first ones and do the rest anew (``_ablation_runs``).

A result is one file, ``DIR/cells/SET-SEED-NAME.json``, published whole, with the settings and the version of the code
it was measured with. Killed at any moment, the same command goes on with the cells that are missing; more ``--seeds``,
``--sets`` or ``--cells`` add to what is there; other settings or other code are refused. Several processes may share
DIR if their task sets or seeds differ. Behaviour, random candidate, filtered BC and Digi-Q come first for all
seeds. After each cell ``DIR/ablations.md`` (for ``docs/results.md``) and ``DIR/ablations.svg`` say what is there.

A method that finds nothing to learn from (no success at all, say) is named, the other cells go on, and the exit code
is 1. ``--quick`` learns from 40 episodes for a few updates and plays 12, on *general* with one seed if not told others.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from rich.console import Console

from benchmarks._ablation_board import Board, seconds_left
from benchmarks._ablation_cells import BY_NAME, CELLS, Configuration, Place, Result, Results, in_order
from benchmarks._ablation_runs import Bench
from benchmarks._ablation_table import markdown, plot, rows_of
from benchmarks.report import Report, options
from digiq_ray.core.errors import DigiQError, StoreError
from digiq_ray.learner.training import TrainingDivergedError
from digiq_ray.loops.demo import make_cluster
from digiq_ray.store.publish import replace
from emulator_workers.simphone.tasks import HORIZONS

EPISODES, QUICK_EPISODES = 400, 12
SEEDS = (0, 1, 2)
QUICK = (
    "collect.episodes=40",
    "finetune.steps=8",
    "critic.steps=60",
    "policy.steps=6",
    "policy.digirl_share=0.5",
)
TABLE_WIDTH = 120
Measure = Callable[[Place], Result]


def fill(
    places: Sequence[Place], results: Results, measure: Measure, board: Board, publish: Callable[[], None]
) -> list[str]:
    """Measures the cells that have no result yet; one line for each that has none afterwards.

    Args:
        places: The cells, in this order.
        results: Those that are there are not measured again.
        measure: Carries out one cell.
        board: Is told of the progress.
        publish: Called after each result.
    """
    before = {one.place: one for one in results.all()}
    failed = []
    for number, place in enumerate(places):
        left = [one for one in places[number + 1 :] if one not in before]
        if place in before:
            board.done(before[place], None, measured=False)
            continue
        board.begin(place)
        try:
            result = measure(place)
        except (StoreError, TrainingDivergedError) as error:
            failed.append(f"{place}: {_line(error)}")
            board.failed(place, _line(error))
            continue
        results.publish(result)
        publish()
        board.done(result, seconds_left(results.all(), left))
    return failed


def _line(error: Exception) -> str:
    """What went wrong, in one line: Ray's errors, which hold a traceback of the other process, say their cause."""
    return " ".join(str(getattr(error, "cause", error)).split())


class Table:
    """What is published of all results that are there."""

    def __init__(self, given: argparse.Namespace, results: Results, configuration: Configuration) -> None:
        self._given, self._results, self._configuration = given, results, configuration

    def publish(self) -> None:
        """``ablations.md`` and ``ablations.svg``."""
        found = self._results.all()
        have = {one.place for one in found}
        missing = [place for place in _places(self._given) if place not in have]
        text = markdown(found, command=self._command(found), missing=missing)
        replace(self._given.out / "ablations.md", text.encode())
        replace(self._given.out / "ablations.svg", plot(found).encode())

    def report(self) -> None:
        """The table on the terminal, and the benchmark's file."""
        found = self._results.all()
        rows = [row.to_json() for row in rows_of(found)]
        notes = [f"table and plot: {self._given.out / 'ablations.md'}, ablations.svg"]
        console = Console(highlight=False, width=max(Console().width, TABLE_WIDTH))
        report = Report(name="ablations", rows=rows, ratios={}, notes=notes, command=self._command(found))
        report.publish(self._given.json, console)

    def _command(self, found: Sequence[Result]) -> str:
        """What gives these results, whatever calls they came from."""
        sets = dict.fromkeys(one.place.task_set for one in found)
        seeds = sorted({one.place.seed for one in found})
        words = ["python", "-m", "benchmarks.ablations", "--sets", *sets, "--seeds", *map(str, seeds)]
        cells = {one.place.cell.name for one in found}
        if cells != set(BY_NAME):
            words += ["--cells", *(name for name in BY_NAME if name in cells)]
        words += ["--episodes", str(_episodes(self._given))]
        words += [word for one in self._given.set for word in ("--set", one)]
        return shlex.join(words + ["--quick"] * self._given.quick)


def _places(given: argparse.Namespace) -> list[Place]:
    sets = given.sets or (["general"] if given.quick else list(HORIZONS))
    seeds = given.seeds if given.seeds is not None else SEEDS[:1] if given.quick else SEEDS
    return in_order(dict.fromkeys(sets), dict.fromkeys(seeds), [cell for cell in CELLS if cell.name in given.cells])


def _episodes(given: argparse.Namespace) -> int:
    usual = QUICK_EPISODES if given.quick else EPISODES
    return usual if given.episodes is None else int(given.episodes)


def run(given: argparse.Namespace) -> list[str]:
    """Measures what is asked for and publishes the table; one line for each cell that has no result."""
    quick = QUICK if given.quick else ()
    configuration = Configuration((*quick, f"evaluate.episodes={_episodes(given)}", *given.set))
    places = _places(given)
    for place in places:
        configuration.of(place)  # a wrong setting is said now, and not after hours
    results = Results(given.out, configuration)
    table = Table(given, results, configuration)
    with ExitStack() as ends, Board(len(places)) as board:
        settings = configuration.of(places[0])
        cluster = functools.cache(lambda: ends.enter_context(closing(make_cluster(settings, given.serial))))
        bench = Bench(given.out / "runs", configuration, cluster, board.watch)
        failed = fill(places, results, bench.carry_out, board, table.publish)
    if results.all():
        table.publish()
        table.report()
    return failed


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return options(
        __doc__,
        arguments,
        sets={"nargs": "+", "choices": list(HORIZONS), "help": f"task sets (default: {' '.join(HORIZONS)})"},
        seeds={"nargs": "+", "type": int, "metavar": "N", "help": f"default: {' '.join(map(str, SEEDS))}"},
        cells={"nargs": "+", "choices": list(BY_NAME), "default": list(BY_NAME), "help": "rows (default: all)"},
        episodes={"type": int, "metavar": "N", "help": f"test tasks for each cell (default: {EPISODES})"},
        set={"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "a setting of all cells; repeatable"},
        out={
            "type": Path,
            "default": Path("runs") / "ablations",
            "metavar": "DIR",
            "help": "default: runs/ablations",
        },
        serial={"action": "store_true", "help": "everything in this process, without Ray"},
    )


def main() -> None:
    """Command line."""
    given = parse()
    try:
        failed = run(given)
    except DigiQError as error:
        print(f"error: {_line(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    if failed:
        sys.exit("\n".join(["no result:", *failed]))


if __name__ == "__main__":
    main()
