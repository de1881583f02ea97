"""``digiq farm run``: collects episodes of the behaviour policy on a farm, and says how the farm did."""

from __future__ import annotations

from pathlib import Path

import click

from digiq_ray.cli.common import Report, config_options
from digiq_ray.core.settings import RunSettings

SHORTCUTS = {
    "--device": "devices.kind",
    "--workers": "devices.workers",
    "--episodes": "collect.episodes",
    "--seed": "seed",
    "--task-set": "tasks.set",
}


@click.command(short_help="collects episodes on a farm that the other commands look after")
@click.option("--serial", is_flag=True, help="Everything in this process, without Ray.")
@click.option("--out", type=click.Path(path_type=Path), help="The run's directory.")
@config_options(RunSettings, SHORTCUTS)
def run(config: RunSettings, *, out: Path | None, serial: bool) -> Report:
    """Plays training tasks with the behaviour policy and stores the episodes: the stage collect of a run.

    In another terminal, digiq farm list, restart, logs, resize and drain --out RUN look after it. Killed or drained,
    the same command continues.
    """
    from digiq_ray.cli.farm_watch import farm_of, show_farm, wide_console
    from digiq_ray.cli.pipeline import stage

    root = out or Path("runs") / f"farm-{config.devices.kind}-seed{config.seed}"
    try:
        return stage("collect", root, config, serial=serial)
    finally:
        farm = farm_of(root)
        if (farm.path / "state.json").is_file():
            show_farm(farm.read(), wide_console(stderr=True))
