"""The FastAPI application around a service: routes, errors, the gate, health and the OpenAPI page."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, FastAPI

from digiq_ray import __version__
from serve.app.access import Access
from serve.app.acting import acting_routes
from serve.app.chat import chat_routes
from serve.app.embeddings import embedding_routes
from serve.app.errors import ApiError, add_error_handlers
from serve.app.gate import Gate
from serve.app.schemas import ErrorAnswer, Health, ModelCard, ModelList
from serve.app.service import POLICY, Service

_STATUSES = {
    400: "wrong request",
    401: "no valid token",
    403: "this machine only",
    404: "no such model",
    413: "too large",
    429: "overloaded",
    500: "the server failed",
    503: "not ready",
    504: "too slow",
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in _STATUSES.items()
}


def _model_routes(service: Service) -> APIRouter:
    router, began = APIRouter(tags=["openai"]), int(time.time())

    def card(name: str) -> ModelCard:
        return ModelCard(id=name, created=began, policy_version=service.policy.version)

    @router.get("/v1/models", response_model=ModelList)
    async def models() -> ModelList:
        """The models that are served: the policy, and what reads features."""
        return ModelList(data=[card(name) for name in service.models])

    @router.get("/v1/models/{name}", response_model=ModelCard)
    async def model(name: str) -> ModelCard:
        """One of them."""
        service.check_model(name, name)
        return card(name)

    return router


def _health_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/health", response_model=Health)
    async def health() -> Health:
        """The server lives."""
        return Health(policy_version=service.policy.version)

    @router.get("/ready", response_model=Health)
    async def ready() -> Health:
        """The models answer."""
        if not await service.healthy():
            raise ApiError(503, "a model does not answer")
        return Health(policy_version=service.policy.version)

    return router


def make_app(service: Service, access: Access) -> FastAPI:
    """The application; ``POLICY`` and its features are what its models are called."""
    app = FastAPI(
        title="digiq",
        version=__version__,
        description=f"Policy ({POLICY}), candidates, features and Q-values of agents that operate phones.",
        redoc_url=None,
        responses=_RESPONSES,
    )
    add_error_handlers(app)
    app.add_middleware(Gate, access=access, limits=service.limits, metrics=service.metrics)
    for routes in (_model_routes, chat_routes, embedding_routes, acting_routes, _health_routes):
        app.include_router(routes(service))
    _describe(app, with_tokens=access.has_tokens)
    return app


def _describe(app: FastAPI, *, with_tokens: bool) -> None:
    """Says in the OpenAPI description what FastAPI does not know: 400 in place of 422, and the token."""
    described = app.openapi()
    for path in described["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)
    described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for name, path in described["paths"].items():
        for operation in path.values():
            operation["security"] = [{"token": []}] if with_tokens and name.startswith("/v1/") else []
    app.openapi_schema = described
