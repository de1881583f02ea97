"""``digiq farm``: checking devices, running a farm, and looking after one that runs. One module for each purpose."""

from __future__ import annotations

from digiq_ray.cli.main import LazyGroup

#: Name of each command, in the order of the help: where it is, and what it does in a few words.
COMMANDS: dict[str, tuple[str, str]] = {
    "check": ("digiq_ray.cli.farm_check:check", "does a device do what every device must? a table of steps"),
    "golden": ("digiq_ray.cli.farm_check:golden", "prepares the snapshot that emulators of an AVD start from"),
    "run": ("digiq_ray.cli.farm_run:run", "collects episodes on a farm that the commands below look after"),
    "list": ("digiq_ray.cli.farm_watch:list_workers", "the workers of a farm, and what went wrong with their devices"),
    "restart": ("digiq_ray.cli.farm_watch:restart", "reboots the devices of one worker, or of all, between episodes"),
    "logs": ("digiq_ray.cli.farm_watch:logs", "the last lines that a worker has logged"),
    "resize": ("digiq_ray.cli.farm_watch:resize", "lets a running farm grow or shrink"),
    "drain": ("digiq_ray.cli.farm_watch:drain", "ends a farm, or a worker, when its live episodes have ended"),
}


class FarmGroup(LazyGroup):
    """The group ``digiq farm``."""

    def __init__(self) -> None:
        super().__init__(table=COMMANDS)
        self.name = "farm"
        self.help = "Devices: simulated phones, Android and Chromium through Appium."


farm = FarmGroup()
