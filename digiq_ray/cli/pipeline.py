"""The commands of the offline recipe: ``demo``, ``run``, and one command a stage. All continue what they find.

``evaluate --run`` scores what another run has trained, on devices of any kind, in a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from digiq_ray.cli.common import Report, config_options
from digiq_ray.core.errors import InputError
from digiq_ray.core.settings import RunSettings
from digiq_ray.vlm.hub import find_model
from serve.backends import check_backend

SHORTCUTS = {
    "--seed": "seed",
    "--task-set": "tasks.set",
    "--device": "devices.kind",
    "--workers": "devices.workers",
    "--backend": "vlm.backend",
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
    _check(root, keep_going)
    require_stage_devices(root, config, ("collect", "evaluate"), serial=serial)
    _check_model(config)
    from digiq_ray.cli.show import Show
    from digiq_ray.loops.demo import whole_run

    with Show() as show:
        report = whole_run(command, root, config, serial=serial, show=show)
    show.report(report, root)
    return report


def _stage_command(name: str, meaning: str) -> click.Command:
    @click.command(name, short_help=meaning)
    @_where
    @config_options(RunSettings, SHORTCUTS)
    def command(config: RunSettings, *, out: Path | None, serial: bool, keep_going: bool) -> Report:
        root = out or Path("runs") / f"{config.tasks.set}-seed{config.seed}"
        _check(root, keep_going or name != "collect")
        return stage(name, root, config, serial=serial)

    command.help = f"{meaning[:1].upper()}{meaning[1:]}. One stage of the recipe; those before must be done."
    return command


def stage(name: str, root: Path, config: RunSettings, *, serial: bool) -> Report:
    """Carries out one stage, and tells what it found where that is for people to read."""
    require_stage_devices(root, config, (name,), serial=serial)  # first: the imports below take seconds
    _check_model(config)
    from digiq_ray.cli.show import Show
    from digiq_ray.cli.told import tell_collected, tell_failures, tell_scores
    from digiq_ray.loops.demo import one_stage

    with Show() as show:
        figures = one_stage(name, root, config, serial=serial, show=show)
    tell_failures(figures)
    if name == "collect":
        return {**figures, **tell_collected(figures, root)}
    if name == "evaluate":
        tell_scores({"policies": figures, "device": config.devices.kind})
    return figures


def _check_model(config: RunSettings) -> None:
    """Says at once that the model, or what should run it, is not there."""
    check_backend(config.vlm.backend)
    if config.vlm.model != "tiny":
        find_model(config.vlm.model)


def require_stage_devices(root: Path, config: RunSettings, stages: tuple[str, ...], *, serial: bool) -> None:
    """Says at once that a device is missing which a stage that is not done needs."""
    from digiq_ray.loops.run import is_done
    from digiq_ray.loops.stages.devices import require_devices

    if any(name in ("collect", "evaluate") and not is_done(root, name) for name in stages):
        require_devices(config, serial=serial)


def _settings_of_run(context: click.Context, option: click.Parameter, run: Path | None) -> Path | None:
    """Makes the configuration of the run that is scored the one that other options change."""
    del option
    if run is not None:
        if not (run / "config.yaml").is_file():
            raise InputError(f"{run} holds no run (no config.yaml): --run takes the directory of a finished run")
        context.default_map = {**(context.default_map or {}), "config_file": str(run / "config.yaml")}
    return run


@click.command(short_help="success rates with confidence intervals on a farm")
@click.option(
    "--run",
    "source",
    type=click.Path(path_type=Path),
    callback=_settings_of_run,
    is_eager=True,
    help="A finished run, whose policies are scored into --out, with its settings; it is not touched.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME",
    help="With --run: digi_q (the default), behaviour, or a name of policy.controls. Repeatable.",
)
@_where
@config_options(RunSettings, {**SHORTCUTS, "--episodes": "evaluate.episodes"})
@click.pass_context
def evaluate(
    context: click.Context,
    config: RunSettings,
    *,
    source: Path | None,
    policies: tuple[str, ...],
    out: Path | None,
    serial: bool,
    keep_going: bool,
) -> Report:
    """Scores policies on held-out tasks: those of the run in --out, or with --run those of another, on any devices.

    digiq evaluate --run RUN --device chromium --out NEW plays the tasks of RUN on browsers, with the same seeds.
    """
    if source is None:
        if policies:
            raise click.UsageError("--policy is for --run; without it every policy of the run in --out is scored")
        return stage("evaluate", out or Path("runs") / f"{config.tasks.set}-seed{config.seed}", config, serial=serial)
    if context.get_parameter_source("config_file") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--run brings its own settings; change single ones with --set instead of --config")
    from digiq_ray.cli.show import Show
    from digiq_ray.cli.told import tell_scores
    from digiq_ray.loops.clusters import Cluster
    from digiq_ray.loops.demo import make_cluster
    from digiq_ray.loops.evaluate import evaluate_run
    from digiq_ray.loops.stages.devices import require_devices

    def cluster() -> Cluster:
        require_devices(config, serial=serial)
        return make_cluster(config, serial)

    root = out or Path("runs") / f"{source.absolute().name}-on-{config.devices.kind}"
    _check(root, keep_going)
    with Show() as show:
        report = evaluate_run(source, root, config, policies or ("digi_q",), make_cluster=cluster, show=show)
    tell_scores(report)
    return {**report, "path": str(root)}


STAGES: Mapping[str, str] = {
    "collect": "episodes from the behaviour policy on a farm",
    "candidates": "K actions per state from the behaviour policy, deduplicated",
    "finetune": "stage 1: does this action change the screen?",
    "embed": "frozen intermediate-layer features for states and candidates",
    "train-critic": "TD on features",
    "train-policy": "best-of-N extraction, and the baselines beside it",
    "rank": "whether the critic ranks candidates, by the simulator's oracle",
}
_commands: dict[str, Any] = {name: _stage_command(name, meaning) for name, meaning in STAGES.items()}
collect, candidates, finetune, embed = (_commands[name] for name in ("collect", "candidates", "finetune", "embed"))
train_critic, train_policy = _commands["train-critic"], _commands["train-policy"]
rank = _commands["rank"]
