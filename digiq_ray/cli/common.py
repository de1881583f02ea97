"""Options that every command has: ``--config``, ``--set``, ``--dry-run`` and ``--json``.

A command is a function of a validated configuration; what it returns is its report. Everything for people may be
printed before, because the report is the last line of stdout (with ``--json``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pydantic_core

from digiq_ray.core.config import Model, dump_yaml, load_config

Report = Mapping[str, object]
Command = Callable[..., Report]


def config_options(
    model_type: type[Model], shortcuts: Mapping[str, str] | None = None
) -> Callable[[Command], Callable[..., None]]:
    """Gives a command the common options; the command gets the loaded configuration as its first argument.

    Args:
        model_type: The command's configuration.
        shortcuts: Options that set one key: ``{"--seed": "seed"}`` makes ``--seed 3`` the same as ``--set seed=3``.
            What ``--set`` says wins.
    """
    names = {f"shortcut_{key.replace('.', '_')}": (flag, key) for flag, key in (shortcuts or {}).items()}

    def decorate(command: Command) -> Callable[..., None]:
        @click.option("--config", "config_file", type=click.Path(path_type=Path), help="Configuration (YAML).")
        @click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Sets one key; repeatable.")
        @click.option("--dry-run", is_flag=True, help="Prints the resolved configuration and ends.")
        @click.option("--json", "as_json", is_flag=True, help="Makes the last line of stdout one JSON object.")
        @functools.wraps(command)
        def run(
            config_file: Path | None, overrides: tuple[str, ...], dry_run: bool, as_json: bool, **arguments: Any
        ) -> None:
            given = {key: arguments.pop(name) for name, (_, key) in names.items()}
            short = [f"{key}={value}" for key, value in given.items() if value is not None]
            config = load_config(model_type, config_file, [*short, *overrides])
            if dry_run:
                click.echo(dump_yaml(config), nl=False)
            report = config.model_dump() if dry_run else command(config, **arguments)
            if as_json:
                click.echo(json_line(report))

        decorated: Callable[..., None] = run
        for name, (flag, key) in names.items():
            decorated = click.option(flag, name, metavar="VALUE", help=f"The same as --set {key}=VALUE.")(decorated)
        return decorated

    return decorate


def json_line(report: Report) -> str:
    """``report`` as JSON in one line. Numbers that JSON lacks (NaN, infinity) become null, paths become texts."""
    return pydantic_core.to_json(report, inf_nan_mode="null", fallback=_fallback).decode()


def _fallback(value: object) -> object:
    item = getattr(value, "item", None)  # numpy's scalars
    return item() if callable(item) else str(value)
