"""The record of the published policy: one small process beside the replicas, without any model in it.

It hands new weights to all replicas at once. A replica that starts later, or missed them, asks it: at its start and
with each health check.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve

REPLICA, PUBLISHER = "Replica", "Publisher"
PUBLISH_SECONDS = 600.0

Published = tuple[str, str]


class Publisher:
    """Remembers the policy that was published last."""

    def __init__(self) -> None:
        self._current: Published | None = None
        self._turn = asyncio.Lock()

    async def current(self) -> Published | None:
        """Version and checkpoint; ``None`` before anything was published."""
        return self._current

    async def publish(self, version: str, checkpoint: str) -> int:
        """Makes all replicas answer with a saved policy from their next request on.

        Returns:
            How many replicas took it.

        Raises:
            ModelError: the checkpoint cannot be loaded; the version before stays.
        """
        async with self._turn:
            before, self._current = self._current, (version, checkpoint)
            handle: Any = serve.get_deployment_handle(REPLICA, serve.get_replica_context().app_name)
            told = handle.broadcast("publish", version, checkpoint)
            try:
                return len(await told.results_async(timeout_s=PUBLISH_SECONDS))
            except Exception:
                self._current = before
                raise
