"""What devices are called that have no name of their own: by their worker and a number.

Workers count their devices apart from each other, so that ``chromium-0`` alone would be one device of each. With the
worker's name in front (``worker-1/chromium-0``) the rows of a store, the logs and the quarantine tell them apart, and
say whose log to read. A process is one worker at most; without a farm there is no name in front.
"""

from __future__ import annotations

_worker = ""


def name_worker(name: str) -> None:
    """Says which worker this process is."""
    global _worker
    _worker = name


def of_worker(device: str) -> str:
    """The name of a device that this worker numbers, with the worker's in front."""
    return f"{_worker}/{device}" if _worker else device
