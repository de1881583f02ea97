"""The dataset card of an export: the YAML that tells Hugging Face ``datasets`` its splits, and a page for people."""

from __future__ import annotations

from collections.abc import Sequence

from digiq_ray.store.export.files import ExportCounts

_MEANINGS = {
    "episode_id": "which episode; its rows are adjacent and ascend by `step`",
    "image": "the screen before the action, as it was recorded; null if it was lost",
    "screen_hash": "hash of the encoded screen: equal screens have equal hashes",
    "action": "what the policy wrote; null on the last row of an episode, which only observes",
    "parse_error": "why `action` could not be understood; its parts are null then",
    "x": "from 0 at the left to 1 at the right; `y` from 0 at the top to 1 at the bottom",
    "reward": "for this action",
    "is_terminal": "whether the task itself ended; a last row without it was truncated",
    "stop_reason": "success, agent_stop, time_limit or device_error",
    "behaviour_logprob": "natural logarithm of the policy's probability of `action`, if known",
    "started_at": "Unix time in seconds, as `ended_at`",
    "settle_tag": "how the wait for the screen ended if it did not settle: unsettled, frozen, blank; else null",
    "goal": "what the judge needs to know, as JSON",
}


def dataset_card(counts: ExportCounts, columns: Sequence[str]) -> str:
    """The text of ``README.md`` for Parquet files ``data/SPLIT-*``."""
    lines = ["---", "pretty_name: Episodes of phone agents", "configs:", "- config_name: default", "  data_files:"]
    for split in counts.rows:
        lines += [f"  - split: {split}", f"    path: data/{split}-*"]
    contents = f"{counts.episodes:,} episodes, {sum(counts.rows.values()):,} observations."
    lines += [
        "---",
        "",
        "# Episodes of phone agents",
        "",
        f"{contents} One row for each observation, so an episode of T actions has T + 1 rows (RLDS).",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'data = load_dataset("PATH OF THIS DIRECTORY")',
        "```",
        "",
        "| split | rows |",
        "|---|---|",
        *(f"| {split} | {count:,} |" for split, count in counts.rows.items()),
        "",
        "| column | meaning |",
        "|---|---|",
        *(f"| `{column}` | {_MEANINGS.get(column, '')} |" for column in columns),
        "",
    ]
    return "\n".join(lines)
