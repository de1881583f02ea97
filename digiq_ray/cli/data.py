"""``digiq data``: what is in a data set, whether it is whole, and keeping it so. One module for each command."""

from __future__ import annotations

from digiq_ray.cli.main import LazyGroup

#: Name of each command, in the order of the help: where it is, and what it does in a few words.
COMMANDS: dict[str, tuple[str, str]] = {
    "info": ("digiq_ray.cli.data_info:info", "what is in a data set, in numbers"),
    "verify": ("digiq_ray.cli.data_verify:verify", "reads everything and names what is broken; --repair sets it aside"),
    "compact": ("digiq_ray.cli.data_compact:compact", "merges small segments; --prune deletes those replaced"),
    "snapshot": ("digiq_ray.cli.data_snapshot:snapshot", "pins what a data set holds now"),
    "export": ("digiq_ray.cli.data_export:export", "Parquet for Hugging Face datasets, JSONL, or LLaVA conversations"),
}


class DataGroup(LazyGroup):
    """The group ``digiq data``."""

    def __init__(self) -> None:
        super().__init__(table=COMMANDS)
        self.name = "data"
        self.help = "Data sets: episodes, candidates and features, in a local directory or under s3://."


data = DataGroup()
