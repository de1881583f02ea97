"""What every request passes before anything reads it: who asks, how much is under way, how large the body is.

A plain ASGI middleware. It reads the body up to the limit and hands it on whole; what is longer is refused while it
arrives. It counts and times what it lets pass. Health, the OpenAPI page and its description are open to all.
"""

from __future__ import annotations

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.app.access import Access
from serve.app.errors import ApiError, error_response
from serve.app.metrics import Metrics
from serve.app.settings import Limits

OPEN_PATHS = frozenset({"/health", "/ready", "/docs", "/openapi.json"})


class Gate:
    """Wraps an application.

    Args:
        app: What is behind the gate.
        access: Who may ask.
        limits: Of requests.
        metrics: What is counted.
    """

    def __init__(self, app: ASGIApp, *, access: Access, limits: Limits, metrics: Metrics) -> None:
        self._app, self._access, self._limits, self._metrics = app, access, limits, metrics
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's start and end."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 499  # the caller went away before there was an answer

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._enter(1)
        try:
            await self._pass(scope, receive, noting)
        finally:
            self._enter(-1)
            route: Any = scope.get("route")
            self._metrics.request(getattr(route, "path", "none"), status, time.monotonic() - began)

    def _enter(self, change: int) -> None:
        self._under_way += change
        self._metrics.in_flight(self._under_way)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._access.check(scope)
            if self._under_way > self._limits.in_flight:
                raise ApiError(429, f"{self._limits.in_flight} requests are under way already; ask again later")
            body = await self._body(scope, receive)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        if body is None:
            return
        handed = False

        async def whole() -> Message:
            nonlocal handed
            if handed:
                return await receive()
            handed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, whole, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; ``None`` if the caller went away."""
        most = self._limits.request_bytes
        too_large = ApiError(413, f"a request may have {most} bytes at the most")
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if length.isdigit() and int(length) > most:
            raise too_large
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            part = message.get("body", b"")
            size, more = size + len(part), message.get("more_body", False)
            if size > most:
                raise too_large
            parts.append(part)
        return b"".join(parts)
