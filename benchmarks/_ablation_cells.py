"""The cells of the ablation table, the settings of each, their order, and their results as files.

A result is one JSON file, written whole, with the settings and the version of the code that it was measured with: a
file that is there is not measured again, and one of other settings or other code is refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import digiq_ray
import emulator_workers
import serve
from benchmarks.report import machine
from digiq_ray.core.config import config_hash, differences, load_config
from digiq_ray.core.errors import InputError, RunMismatchError, StoreError
from digiq_ray.core.settings import RunSettings
from digiq_ray.evaluation.wording import policy_words
from digiq_ray.loops.reporting import versions
from digiq_ray.store.manifest import read_json, write_json

_COMMANDS = "cli"  # what the commands print bears on no result
_SOURCES = (".py", ".json", ".safetensors")

Changes = Callable[[RunSettings], list[str]]


@dataclass(frozen=True, slots=True)
class Cell:
    """A row of the table.

    Attributes:
        name: On the command line and in files.
        label: In the table.
        method: What is scored: the behaviour policy, re-ranking, or a method of ``train_policy``.
        changes: In what its settings differ from those of the shared run, as ``section.key=value``.
        essential: Measured for all task sets and seeds before any other.
    """

    name: str
    label: str
    method: str
    changes: Changes = lambda shared: []
    essential: bool = False


def _method(name: str, *, essential: bool = False) -> Cell:
    return Cell(name, policy_words(name).label, name, essential=essential)


def _digi_q(name: str, label: str, changes: Changes) -> Cell:
    return Cell(f"digi_q_{name}", f"Digi-Q, {label}", "digi_q", changes)


def _untrained(shared: RunSettings) -> list[str]:
    """What the support rule does alone: of what is drawn often enough, a critic without training takes any."""
    return ["critic.steps=0"]


def _best_of(n: int) -> Changes:
    """N candidates; the support rule asks for the same share of them as of the K."""

    def changes(shared: RunSettings) -> list[str]:
        least = math.ceil(shared.policy.min_support * n / shared.candidates.k)
        return [f"policy.n={n}", f"policy.min_support={least}"]

    return changes


def _share_of_episodes(share: float) -> Changes:
    return lambda shared: [f"collect.episodes={max(1, round(share * shared.collect.episodes))}"]


CELLS = (
    _method("behaviour", essential=True),
    _method("random_candidate", essential=True),
    _method("filtered_bc", essential=True),
    _method("awr"),
    _method("reinforce"),
    _method("digirl"),
    _method("mc"),
    _digi_q("off_the_shelf", "features of the model before stage 1", lambda shared: ["finetune.steps=0"]),
    Cell("digi_q", "Digi-Q, N = K", "digi_q", essential=True),
    *(_digi_q(f"n{n}", f"N = {n}", _best_of(n)) for n in (1, 4, 8)),
    _digi_q("untrained", "a critic without training", _untrained),
    _method("q_rerank"),
    Cell("q_rerank_untrained", "re-ranking by a critic without training", "q_rerank", _untrained),
    _digi_q("quarter", "a quarter of the episodes", _share_of_episodes(1 / 4)),
    _digi_q("half", "half of the episodes", _share_of_episodes(1 / 2)),
)
BY_NAME = {cell.name: cell for cell in CELLS}


class Place(NamedTuple):
    """One cell on one task set with one seed."""

    task_set: str
    seed: int
    cell: Cell

    def __str__(self) -> str:
        return f"{self.task_set}-{self.seed}-{self.cell.name}"


def in_order(sets: Iterable[str], seeds: Iterable[int], cells: Iterable[Cell]) -> list[Place]:
    """The essential cells of every seed and set first, then the others, one row of the table after another."""
    both = [(task_set, seed) for seed in seeds for task_set in sets]
    chosen = list(cells)
    first = [Place(*one, cell) for one in both for cell in chosen if cell.essential]
    return first + [Place(*one, cell) for cell in chosen if not cell.essential for one in both]


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of every cell. ``overrides`` (``section.key=value``) hold for all of them."""

    overrides: Sequence[str] = ()

    def shared(self, task_set: str, seed: int) -> RunSettings:
        """Those of the run that the cells of a task set and a seed share; wrong ones raise ``ConfigError``."""
        return load_config(RunSettings, None, self._overrides(task_set, seed))

    def of(self, place: Place) -> RunSettings:
        """Those of one cell; wrong ones raise ``ConfigError``."""
        shared = self.shared(place.task_set, place.seed)
        return load_config(
            RunSettings, None, [*self._overrides(place.task_set, place.seed), *place.cell.changes(shared)]
        )

    def _overrides(self, task_set: str, seed: int) -> list[str]:
        return [f"tasks.set={task_set}", f"seed={seed}", "evaluate.greedy=false", *self.overrides]


def code_version() -> str:
    """16 hexadecimal digits that depend on all sources that a result may depend on, and on the tiny VLM."""
    digest = hashlib.blake2b(digest_size=8)
    for package in (digiq_ray, emulator_workers, serve):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            if path.suffix in _SOURCES and name.parts[0] != _COMMANDS and "node_modules" not in name.parts:
                digest.update(f"{package.__name__}/{name.as_posix()}\0".encode())
                digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Result:
    """What a cell gave.

    Attributes:
        place: Which cell.
        played: Success on the held-out tasks, as in ``report.json``.
        trained: Figures of the policy's training; empty where none is trained.
        seconds: What its own stages took.
        shared_seconds: What the stages took that it shares with other cells.
        date, machine: When and where it ended.
    """

    place: Place
    played: Mapping[str, Any]
    trained: Mapping[str, Any]
    seconds: float
    shared_seconds: float
    date: str = ""
    machine: str = ""


class Results:
    """The results in a directory, all of one configuration and one version of the code.

    Args:
        directory: Made if missing.
        configuration: That of every cell.
        version: Of the code.

    Raises:
        RunMismatchError: what is in the directory was made by other code.
    """

    def __init__(
        self, directory: Path, configuration: Configuration, version: Callable[[], str] = code_version
    ) -> None:
        self._directory, self._configuration, self._version = directory / "cells", configuration, version
        self._code = version()
        self._directory.mkdir(parents=True, exist_ok=True)
        note = directory / "code.json"  # for runs that are not yet behind any result
        if note.is_file():
            self._check_code(note, read_json(note)["code"])
        else:
            write_json(note, {"code": self._code})

    def all(self) -> list[Result]:
        """Every result that is there, in the order of the table.

        Raises:
            RunMismatchError: one was measured with other settings or other code.
            StoreError: one is broken, or is no result.
        """
        found = [self._read(path) for path in sorted(self._directory.glob("*.json"))]
        rows = list(BY_NAME)
        return sorted(found, key=lambda one: (one.place.task_set, rows.index(one.place.cell.name), one.place.seed))

    def publish(self, result: Result) -> None:
        """Writes a result, whole or not at all.

        Raises:
            RunMismatchError: the sources were changed since the beginning: what made the result is not known.
        """
        now = self._version()
        if now != self._code:
            raise RunMismatchError(
                f"the sources were changed ({self._code} became {now}) while {result.place} was measured: "
                "it is not kept; start again with another --out, from a checkout that nobody edits"
            )
        settings = self._configuration.of(result.place)
        write_json(
            self._directory / f"{result.place}.json",
            {
                "task_set": result.place.task_set,
                "seed": result.place.seed,
                "cell": result.place.cell.name,
                "fingerprint": {"code": self._code, "config": config_hash(settings)},
                "played": result.played,
                "trained": result.trained,
                "seconds": result.seconds,
                "shared_seconds": result.shared_seconds,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": machine(),
                "versions": versions(),
                "settings": settings.model_dump(mode="json"),
            },
        )

    def _read(self, path: Path) -> Result:
        kept = read_json(path)
        try:
            place = Place(kept["task_set"], kept["seed"], BY_NAME[kept["cell"]])
            self._check_code(path, kept["fingerprint"]["code"])
            self._check_settings(path, kept, self._configuration.of(place))
            return Result(
                place,
                kept["played"],
                kept["trained"],
                kept["seconds"],
                kept["shared_seconds"],
                kept["date"],
                kept["machine"],
            )
        except (KeyError, TypeError, ValueError) as error:
            reason = " ".join(repr(error).split())[:120]
            raise StoreError(f"{path}: is no result of a cell ({reason}); delete it to measure it again") from error

    def _check_code(self, path: Path, code: str) -> None:
        if code != self._code:
            raise RunMismatchError(
                f"{path}: was made by other code ({code}, not {self._code}); "
                "give another --out, or go back to that code"
            )

    def _check_settings(self, path: Path, kept: Mapping[str, Any], settings: RunSettings) -> None:
        if kept["fingerprint"]["config"] == config_hash(settings):
            return
        different = differences(RunSettings.model_validate(kept["settings"]), settings)
        if not different:
            raise InputError(f"{path}: its settings do not have its fingerprint; delete it to measure the cell again")
        first = different[0]
        raise RunMismatchError(
            f"{path}: was measured with {first.key}={first.left!r}, not {first.right!r}; "
            "give another --out, or the same options"
        )
