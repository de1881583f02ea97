"""The commands of the offline recipe: ``demo``, ``run``, and one command a stage. All continue what they find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from digiq_ray.cli.common import Report, config_options
from digiq_ray.core.errors import InputError
from digiq_ray.core.settings import RunSettings

SHORTCUTS = {
    "--seed": "seed",
    "--task-set": "tasks.set",
    "--device": "devices.kind",
    "--workers": "devices.workers",
}


def _where(function: Callable[..., None]) -> Callable[..., None]:
    function = click.option(
        "--keep-going/--no-keep-going",
        default=True,
        help="Continues a run that is in the directory already (default), or refuses it.",
    )(function)
    function = click.option("--serial", is_flag=True, help="Everything in this process, without Ray.")(function)
    return click.option("--out", type=click.Path(path_type=Path), help="The run's directory.")(function)


def _check(root: Path, keep_going: bool) -> None:
    if not keep_going and (root / "config.yaml").exists():
        raise InputError(f"{root} holds a run already; leave out --no-keep-going to continue it, or give another --out")


@click.command(short_help="the whole recipe on simulated phones, in minutes")
@_where
@config_options(RunSettings, SHORTCUTS)
def demo(config: RunSettings, *, out: Path | None, serial: bool, keep_going: bool) -> Report:
    """Trains an agent with Digi-Q on simulated phones with a tiny VLM, on this machine: before and after.

    Killed at any moment, the same command continues. The task sets are general (short) and webshop (long).
    """
    root = out or Path("runs") / f"demo-{config.tasks.set}-seed{config.seed}"
    return _whole("demo", root, config, serial=serial, keep_going=keep_going)


@click.command(short_help="the offline pipeline from a configuration, skipping what is done")
@_where
@config_options(RunSettings, SHORTCUTS)
def run(config: RunSettings, *, out: Path | None, serial: bool, keep_going: bool) -> Report:
    """Carries out the offline recipe of a configuration, skipping what is done."""
    root = out or Path("runs") / f"{config.tasks.set}-seed{config.seed}"
    return _whole("run", root, config, serial=serial, keep_going=keep_going)


def _whole(command: str, root: Path, config: RunSettings, *, serial: bool, keep_going: bool) -> Report:
    from digiq_ray.cli.show import Show
    from digiq_ray.loops.demo import whole_run

    _check(root, keep_going)
    with Show() as show:
        report = whole_run(command, root, config, serial=serial, show=show)
    show.report(report, root)
    return report


def _stage_command(name: str, meaning: str) -> click.Command:
    @click.command(name, short_help=meaning)
    @_where
    @config_options(RunSettings, SHORTCUTS)
    def command(config: RunSettings, *, out: Path | None, serial: bool, keep_going: bool) -> Report:
        from digiq_ray.cli.show import Show
        from digiq_ray.loops.demo import one_stage

        root = out or Path("runs") / f"{config.tasks.set}-seed{config.seed}"
        _check(root, keep_going or name != "collect")
        with Show() as show:
            return one_stage(name, root, config, serial=serial, show=show)

    command.help = f"{meaning[:1].upper()}{meaning[1:]}. One stage of the recipe; those before must be done."
    return command


STAGES: Mapping[str, str] = {
    "collect": "episodes from the behaviour policy on a farm",
    "candidates": "K actions per state from the behaviour policy, deduplicated",
    "finetune": "stage 1: does this action change the screen?",
    "embed": "frozen intermediate-layer features for states and candidates",
    "train-critic": "TD on features",
    "train-policy": "best-of-N extraction, and the baselines beside it",
    "evaluate": "success rates with confidence intervals on a farm",
    "rank": "whether the critic ranks candidates, by the simulator's oracle",
}
_commands: dict[str, Any] = {name: _stage_command(name, meaning) for name, meaning in STAGES.items()}
collect, candidates, finetune, embed = (_commands[name] for name in ("collect", "candidates", "finetune", "embed"))
train_critic, train_policy = _commands["train-critic"], _commands["train-policy"]
evaluate, rank = _commands["evaluate"], _commands["rank"]
