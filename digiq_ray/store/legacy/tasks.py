"""The original's task lists (one goal a line) as task sets, with their duplicates and the goals that splits share.

A set is named by its file (``webshop_test.txt`` is ``webshop/test``), and a task by its line, so that a set without its
overlapping goals keeps the ids of the others. Saved, a set is one JSON file: its name and its tasks, field by field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.core.tasks import Task, TaskSet, normalise_text
from digiq_ray.store.directory import Directory, StorePath, create_directory
from digiq_ray.store.legacy.errors import file_errors

EVALUATED = 96
"""How many tasks the original evaluates: the first of its test split."""

_NAME = re.compile(r"(?P<set>.+)_(?P<split>train|test)(?P<part>\d*)")
_SITE = re.compile(r"\b([\w-]+\.(?:com|org|net))\b")
_HORIZONS = {"general": 10, "webshop": 20}
_LARGEST = 16 << 20


def import_task_lists(
    paths: Sequence[Path], out: StorePath | None = None, *, horizon: int | None = None, drop_overlap: bool = False
) -> dict[str, Any]:
    """Reads task lists, compares the splits of each set, and saves the sets if there is a place for them.

    Args:
        paths: Files named ``SET_train.txt`` or ``SET_test.txt``.
        out: Directory for one JSON file each, or nothing.
        horizon: Largest number of actions; if left out, 10 for General and 20 for Web Shopping.
        drop_overlap: Leaves those tasks out of a test split whose goal is also in the training split.

    Returns:
        Rows and duplicates of each set, and for each pair of splits how many goals they share: as they are written,
        and with quotes, case and spaces made alike.

    Raises:
        InputError: a file is no task list, or nothing would be left of a test split.
    """
    sets = [read_task_list(path, horizon=horizon) for path in paths]
    names = [found.name for found in sets]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two task lists are both {name}; rename one of the files")
    pairs = [
        (train, test)
        for train in sets
        for test in sets
        if train.name.endswith("/train") and test.name == train.name.removesuffix("train") + "test"
    ]
    report: dict[str, Any] = {
        "command": "import",
        "sets": [_counts(found) for found in sets],
        "overlaps": [overlap_counts(train, test) for train, test in pairs],
    }
    if drop_overlap:
        if not pairs:
            raise InputError("--drop-overlap needs both splits of a set: give its training and its test list")
        clean = {test.name: without_overlap(train, test) for train, test in pairs}
        sets = [clean.get(found.name, found) for found in sets]
    if out is not None:
        directory = create_directory(out)
        for found in sets:
            save_task_set(directory, found)
        report["out"] = str(directory.path)
    report["tasks"] = {found.name: len(found) for found in sets}
    return report


def read_task_list(path: Path, *, horizon: int | None = None) -> TaskSet:
    """One list as a task set; raises ``InputError`` if it is not one."""
    match = _NAME.fullmatch(path.stem)
    if match is None:
        raise InputError(f"{path}: its name does not say the split; name it SET_train.txt or SET_test.txt")
    steps = horizon or _HORIZONS.get(match["set"])
    if steps is None:
        raise InputError(f"{path}: the horizon of {match['set']} is not known; give it with --horizon")
    with file_errors(path):
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise InputError(f"{path}: has more than 16 MiB; it is not a list of tasks")
        lines = data.decode().splitlines()
    name = f"{match['set']}{match['part']}/{match['split']}"
    tasks = [
        Task(
            task_id=f"{name}/{number:05d}",
            text=line.strip(),
            horizon=steps,
            split=match["split"],
            kind=site.group(1).lower() if (site := _SITE.search(line)) else "",
        )
        for number, line in enumerate(lines)
        if line.strip()
    ]
    if not tasks:
        raise InputError(f"{path}: holds no task; give a file with one goal a line")
    return TaskSet(name, tasks)


def overlap_counts(train: TaskSet, test: TaskSet) -> dict[str, Any]:
    """How many goals of ``test`` are also in ``train``: different ones, rows, and rows that the original evaluates."""
    return {
        "train": train.name,
        "test": test.name,
        "exact": _shared(train, test, str),
        "normalised": _shared(train, test, normalise_text),
    }


def without_overlap(train: TaskSet, test: TaskSet) -> TaskSet:
    """``test`` without the tasks whose goal is also in ``train``; raises ``InputError`` if none is left."""
    known = {normalise_text(task.text) for task in train}
    left = [task for task in test if normalise_text(task.text) not in known]
    if not left:
        raise InputError(
            f"every goal of {test.name} is also in {train.name}: nothing would be left to test on; "
            "leave out --drop-overlap, and take the test tasks out of the training split"
        )
    return TaskSet(test.name, left)


def save_task_set(directory: Directory, tasks: TaskSet) -> str:
    """Saves a set as ``SET-SPLIT.json`` and returns where; raises ``InputError`` if another set has this name."""
    name = f"{tasks.name.replace('/', '-')}.json"
    content = {"name": tasks.name, "tasks": [asdict(task) for task in tasks]}
    if not directory.publish(name, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()):
        with directory.reading(name) as file:
            if json.loads(bytes(file.read())) != content:
                raise InputError(f"{directory.path / name}: is another task set of this name; give another --out")
    return str(directory.path / name)


def load_task_set(path: Path) -> TaskSet:
    """The set that ``save_task_set`` saved; raises ``StoreError`` if the file is not one."""
    try:
        content = json.loads(path.read_bytes())
        return TaskSet(content["name"], [Task(**task) for task in content["tasks"]])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(f"{path}: is not a saved task set ({error}); make it with digiq import --tasks") from error


def _counts(tasks: TaskSet) -> dict[str, Any]:
    return {
        "name": tasks.name,
        "rows": len(tasks),
        "unique": tasks.unique_texts,
        "duplicates": len(tasks) - tasks.unique_texts,
    }


def _shared(train: TaskSet, test: TaskSet, form: Callable[[str], str]) -> Mapping[str, int]:
    known = {form(task.text) for task in train}
    rows = [form(task.text) in known for task in test]
    return {
        "unique": len({task.text for task, shared in zip(test, rows, strict=True) if shared}),
        "rows": sum(rows),
        "evaluated_rows": sum(rows[:EVALUATED]),
    }
