"""A replica of the server: it holds the models and answers HTTP.

A request goes from Serve's proxy to a replica and from there into the model, with no hop more. A replica batches by
itself; Serve's autoscaling adds replicas.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from digiq_ray.core.errors import DigiQError
from serve.app.access import Access, read_tokens
from serve.app.publisher import Published
from serve.app.settings import ServeArguments
from serve.app.sources import find_sources

_ASK_SECONDS = 10.0


@serve.ingress()
class Replica:
    """Holds the models and answers HTTP, with the tokens of its process.

    Args:
        arguments: What to serve.
        publisher: Handle of the ``Publisher``.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, arguments: ServeArguments, publisher: DeploymentHandle
    ) -> None:
        from serve.app.opening import open_service  # with torch, which the process that deploys does without

        self._publisher = publisher
        self._access = Access(read_tokens())
        self._service = await open_service(arguments)
        initial = find_sources(arguments.model, arguments.policy).policy
        self._initial: Published = (self._service.policy.version, initial)
        await self._catch_up()

    def __serve_build_asgi_app__(self) -> Any:
        from serve.app.http import make_app

        return make_app(self._service, self._access)

    async def publish(self, version: str, checkpoint: str) -> None:
        """Takes new weights; requests under way end on those that they began with."""
        await self._service.policy.publish(version, checkpoint)

    async def check_health(self) -> None:
        """Serve replaces a replica for which this fails.

        Raises:
            DigiQError: a model does not answer.
        """
        if not await self._service.healthy():
            raise DigiQError("a model of this replica does not answer")
        await self._catch_up()

    async def _catch_up(self) -> None:
        """Takes the policy that was published last, if this replica has another."""
        asked: Any = self._publisher.current.remote()
        version, checkpoint = await asyncio.wait_for(asked, _ASK_SECONDS) or self._initial
        if version != self._service.policy.version:
            await self._service.policy.publish(version, checkpoint)
