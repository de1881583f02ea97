"""What each guard against unfamiliar states brings, on phones that look unlike those that the data is from.

``python -m benchmarks.shifted [RUN] [--out DIR] [--seeds 3] [--episodes 200] [--states 450] [--quick] --json FILE``.
RUN is the directory of a finished ``digiq demo`` (without it: ``runs/demo-general-seed0``, made first where it is
missing); it is only read. Critics are trained on its stores, each with one guard added or left out, and asked for the
best candidate in states of held-out tasks: on phones as in the data, and on phones with another skin, layout or
language. By the simulator's oracle a candidate makes progress or does not. The same states say how well the novelty of
a state tells shifted phones from those of the data (area under the ROC curve: 0.5 is chance), and the same tasks, how
often re-ranking by the critic succeeds, with and without a limit of novelty.

States are those that the behaviour policy meets. DIR (without it: a temporary one) keeps episodes and critics: the
same command continues there. Figures of critics are the median over the seeds of their training, with the range.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.report import Cell, Report, Spread, options
from digiq_ray.cli.show import Show
from digiq_ray.core.config import load_config
from digiq_ray.core.errors import DigiQError, InputError
from digiq_ray.core.settings import RunSettings
from digiq_ray.critic.novelty import shares_beyond
from digiq_ray.evaluation.judges import OracleJudge
from digiq_ray.evaluation.summary import policy_result
from digiq_ray.learner.critic import train_critic
from digiq_ray.learner.directories import publish_directory
from digiq_ray.learner.models import load_critic, load_novelty
from digiq_ray.learner.paths import RunPaths
from digiq_ray.loops.clusters import SerialCluster
from digiq_ray.loops.demo import whole_run
from digiq_ray.loops.stages.devices import held_out_tasks, relearned_kinds
from digiq_ray.loops.stages.probe import StateReader, StateReading, view
from digiq_ray.loops.stages.ranking import draw_states, ranking_figures, which_progress
from digiq_ray.loops.stages.score import BEHAVIOUR, RERANK, player
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.environment import Environment
from emulator_workers.rollout import make_jobs
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.style import HELD_OUT, Style
from emulator_workers.simphone.world import Release

DEFAULT_RUN = Path("runs") / "demo-general-seed0"
SEEN = "as in the data"
SETS: dict[str, Style | None] = {
    SEEN: None,
    "skin mint": Style("mint"),
    "skin night": Style("night"),
    "layout low": Style(layout="low"),
    "layout mirrored": Style(layout="mirrored"),
    "language de": Style(language="de"),
    "all three": HELD_OUT,
}
PLAYED = (SEEN, "skin night", "layout low", "layout mirrored", "all three")
DEFAULT = "default"
CRITICS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "no conservative term": {"conservative": 0.0},
    "no dropout": {"dropout": 0.0},
    "neither": {"conservative": 0.0, "dropout": 0.0},
    "5 heads, pessimistic": {"heads": 5, "aggregate": "pessimistic"},
    "whitened features": {"normalise": "whiten"},
    "backups: 3 draws": {"backup_support": 3},
    "backups: probability 0.1": {"backup_probability": 0.1},
}
EXTRACTIONS: dict[str, dict[str, Any]] = {
    "choice without support": {"min_support": 1},
    "choice: probability 0.1": {"min_support": 1, "min_probability": 0.1},
    "choice: probability 0.2": {"min_support": 1, "min_probability": 0.2},
}
LIMITS = (1.0, 0.99, 0.9)
QUICK = {"episodes": 12, "states": 24, "seeds": 1, "steps": 60}
TABLE_WIDTH = 200


@dataclass(frozen=True, slots=True)
class States:
    """The states of one set, and which of their candidates make progress."""

    readings: list[StateReading]
    progress: list[NDArray[np.bool_]]


def styled(release: str, style: Style | None) -> Environment:
    """A simulated phone that looks like that, judged by the oracle."""
    return Environment(SimulatedDevice(release=Release(release), style=style), OracleJudge())


def auroc(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Probability that one of ``high`` is above one of ``low``; ties count half."""
    pairs = high[:, None] - low[None, :]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


class Shifted:
    """Episodes and critics of the benchmark, kept in ``root``.

    Args:
        run: A finished run; only read.
        settings: Its own, with numbers of episodes and states of the benchmark.
        seeds: Critics of each kind.
        root: Gets everything that is made.

    Raises:
        InputError: the run has no features yet.
    """

    def __init__(self, run: Path, settings: RunSettings, *, seeds: int, root: Path) -> None:
        self._run, self._root, self.settings = run.absolute(), root.absolute(), settings
        self.seeds = list(range(settings.seed, settings.seed + seeds))
        paths = RunPaths(self._run)
        if not paths.features.is_dir() or not paths.model("feature_vlm").is_dir():
            raise InputError(f"{run} has no features and no feature model: give a finished run of digiq demo")
        self.tasks = held_out_tasks(settings)
        self._cluster = SerialCluster(settings)

    def close(self) -> None:
        """Ends the models."""
        self._cluster.close()

    def play(self, name: str, policy: str, limit: float, on_progress: Callable[[int, int], None]) -> EpisodeStore:
        """Episodes of the behaviour policy, or of re-ranking by a default critic, on one set."""
        chosen = self.settings.policy.model_copy(update={"max_novelty": limit})
        settings = self.settings.model_copy(update={"policy": chosen})
        who = policy if policy == BEHAVIOUR else f"{policy} {limit:g}"
        store = EpisodeStore.create(self._root / "episodes" / f"{who} {name}".replace(" ", "_"))
        self._cluster.play(
            make_jobs(self.tasks, run=f"shifted/{who}/{name}", seed=settings.seed),
            player=player(settings, self._linked(DEFAULT, self.seeds[0]), policy),
            make_environment=functools.partial(styled, settings.tasks.release, SETS[name]),
            store=str(store.path),
            on_progress=on_progress,
        )
        return store

    def success(self, store: EpisodeStore) -> dict[str, Any]:
        """Success of the episodes of a store."""
        return policy_result(store, tasks=self.tasks, relearned=relearned_kinds(self.settings))

    def states(self, name: str) -> States:
        """States of a set that the behaviour policy met, with its candidates there."""
        store = self.play(name, BEHAVIOUR, 1.0, lambda done, total: None)
        drawn = draw_states(store, self.settings, SETS[name])
        readings = StateReader(self._run, self.settings).read([request for _, request in drawn])
        pairs = zip(drawn, readings, strict=True)
        return States(readings, [which_progress(phone, reading.candidates) for (phone, _), reading in pairs])

    def train(self, critic: str, seed: int, on_progress: Callable[[int, int], None]) -> Path:
        """The directory of a critic, which is trained if it is not there."""
        root = self._linked(critic, seed)
        if not RunPaths(root).model("critic").is_dir():
            chosen = {**self.settings.model_dump(), "seed": seed}
            chosen["critic"] = {**chosen["critic"], **CRITICS[critic]}
            train_critic(root, RunSettings(**chosen), on_progress)
        return RunPaths(root).model("critic")

    def _linked(self, critic: str, seed: int) -> Path:
        """A run's directory for one critic, with the stores of the run that is only read."""
        root = self._root / "critics" / f"{critic}-{seed}".replace(" ", "_")
        (root / "models").mkdir(parents=True, exist_ok=True)
        for part in ("episodes", "candidates", "features", "models/feature_vlm"):
            if not (root / part).exists():
                publish_directory(root / part, functools.partial(_link, self._run / part))
        return root


def _link(source: Path, hidden: Path) -> None:
    """The same files in a directory of its own: a training adds the snapshot that it reads."""
    shutil.copytree(source.resolve(), hidden, copy_function=os.symlink, dirs_exist_ok=True)


def ranking(states: States, critics: Sequence[Path], settings: RunSettings, **chosen: Any) -> list[dict[str, Any]]:
    """The figures of ``ranking_figures`` for each critic."""
    found = []
    for directory in critics:
        critic, novelty = load_critic(directory), load_novelty(directory)
        policy = settings.policy.model_copy(update=chosen)
        views = [view(reading, critic, novelty, policy) for reading in states.readings]
        found.append(ranking_figures(views, states.progress))
    return found


def _percent(rates: Sequence[float]) -> Spread:
    return Spread.of([100 * rate for rate in rates])


def ranking_rows(
    sets: Mapping[str, States], critics: Mapping[str, Sequence[Path]], settings: RunSettings
) -> list[dict[str, Cell]]:
    """How often the best candidate makes progress, in per cent, for each critic; and candidates picked without one."""
    default = {name: ranking(states, critics[DEFAULT], settings) for name, states in sets.items()}
    rows: list[dict[str, Cell]] = [
        {"figure": words, **{name: 100 * found[0][key]["rate"] for name, found in default.items()}}
        for words, key in (
            ("random candidate", "random_candidate"),
            ("likeliest candidate", "most_likely"),
            ("any candidate", "any_candidate"),
        )
    ]
    for critic, directories in critics.items():
        rows.append({"figure": f"highest Q: {critic}"})
        for name, states in sets.items():
            found = default[name] if critic == DEFAULT else ranking(states, directories, settings)
            rows[-1][name] = _percent([one["best_candidate"]["rate"] for one in found])
    for words, chosen in EXTRACTIONS.items():
        rows.append({"figure": f"highest Q: {words}"})
        for name, states in sets.items():
            found = ranking(states, critics[DEFAULT], settings, **chosen)
            rows[-1][name] = _percent([one["best_candidate"]["rate"] for one in found])
    return rows


def novelty_rows(sets: Mapping[str, States], critic: Path) -> list[dict[str, Cell]]:
    """How well the novelty of a state tells a set from that of the data, and how much of the set is beyond limits."""
    novelty = load_novelty(critic)
    features = {name: torch.stack([one.state for one in states.readings]) for name, states in sets.items()}
    with torch.inference_mode():
        distances = {name: novelty.distance(rows).double().numpy() for name, rows in features.items()}
        shares = {name: shares_beyond(novelty(rows).tolist(), 1.0) for name, rows in features.items()}
    return [
        {
            "figure": "novelty: area under ROC",
            **{name: auroc(distances[SEEN], far) if name != SEEN else None for name, far in distances.items()},
        },
        *(
            {"figure": f"novelty: % {words}", **{name: 100 * found[key] for name, found in shares.items()}}
            for words, key in (
                ("beyond 0.9", "beyond_90"),
                ("beyond 0.99", "beyond_99"),
                ("beyond all", "beyond_all"),
            )
        ),
    ]


def measure(shifted: Shifted, show: Show, json: Path) -> None:
    """Trains, plays, prints the table and writes the file."""
    critics: dict[str, list[Path]] = {}
    for critic in CRITICS:
        critics[critic] = [shifted.train(critic, seed, show.watch(critic)) for seed in shifted.seeds]
    sets = {}
    for name in SETS:
        show.watch(name)
        sets[name] = shifted.states(name)
    played: list[dict[str, Cell]] = []
    for words, policy, limit in (
        ("success: behaviour", BEHAVIOUR, 1.0),
        *((f"success: re-ranking, max_novelty={limit:g}", RERANK, limit) for limit in LIMITS),
    ):
        row: dict[str, Cell] = {"figure": words}
        for name in SETS:
            if name in PLAYED:
                result = shifted.success(shifted.play(name, policy, limit, show.watch(f"{policy} {name}")))
                low, high = result["ci95"]
                row[name] = f"{100 * result['success_rate']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            else:
                row[name] = None
        played.append(row)
    settings = shifted.settings
    counts = ", ".join(f"{name} {len(states.readings)}" for name, states in sets.items())
    default = critics[DEFAULT][0]
    far = novelty_rows(sets, default)
    Report(
        name="shifted",
        rows=[*ranking_rows(sets, critics, settings), *far, *played],
        ratios={f"auroc {name}": Spread.of([value]) for name, value in far[0].items() if isinstance(value, float)},
        notes=[
            f"{settings.tasks.set}, seed {settings.seed}; critics of {len(shifted.seeds)} seeds; states: {counts}",
            f"success on {len(shifted.tasks)} held-out tasks, in per cent with its 95 % interval",
        ],
    ).publish(json, Console(highlight=False, width=max(Console().width, TABLE_WIDTH)))


def main() -> None:
    """Command line."""
    given = options(
        __doc__,
        positional={"run": {"nargs": "?", "type": Path, "metavar": "RUN", "help": "a finished run of digiq demo"}},
        out={"type": Path, "metavar": "DIR", "help": "keeps episodes and critics; the same command continues"},
        seeds={"type": int, "default": 3, "help": "critics of each kind"},
        episodes={"type": int, "default": 200, "help": "held-out tasks that are played on each set"},
        states={"type": int, "default": 450, "help": "states of each set in which candidates are ranked"},
    )
    chosen = vars(given) | (QUICK if given.quick else {})
    changes = [f"evaluate.episodes={chosen['episodes']}", f"evaluate.ranking_states={chosen['states']}"]
    if given.quick:
        changes.append(f"critic.steps={QUICK['steps']}")
    run = given.run or DEFAULT_RUN
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    try:
        with Show() as show, nullcontext(given.out) if given.out else tempfile.TemporaryDirectory() as root:
            if given.run is None:
                whole_run("demo", run, RunSettings(), serial=False, show=show)
            settings = load_config(RunSettings, run / "config.yaml", changes)
            shifted = Shifted(run, settings, seeds=chosen["seeds"], root=Path(root))
            try:
                measure(shifted, show, given.json)
            finally:
                shifted.close()
    except DigiQError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
