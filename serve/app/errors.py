"""Errors as OpenAI's clients expect them: a status, and ``{"error": {message, type, param, code}}``.

What a person sent is never part of a message beyond a few characters that were checked to be printable, and what nobody
expected says nothing about the inside of the server.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from digiq_ray.core.errors import DeadlineExceededError, InputError, WorkerLostError
from serve.model_thread import ModelClosedError, OverloadedError

logger = logging.getLogger(__name__)

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    429: "overloaded",
    503: "unavailable",
    504: "deadline_exceeded",
}
_RETRY_SECONDS = "1"


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: Of HTTP.
        message: For a person, on one line.
        param: Which field is wrong.
        code: For a program; by default what is usual for the status.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The JSON of an error."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    said = message.encode("utf-8", "replace").decode()
    return {"error": {"message": said, "type": kind, "param": param, "code": code or _CODES.get(status)}}


def error_response(error: ApiError) -> JSONResponse:
    """The answer that an error is."""
    headers = {"retry-after": _RETRY_SECONDS} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error.status, error.message, error.param, error.code), error.status, headers)


def as_api_error(error: BaseException) -> ApiError:
    """What a caller is told of ``error``; what nobody expected is logged with its traceback."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    if isinstance(error, OverloadedError):
        return ApiError(429, str(error))
    if isinstance(error, DeadlineExceededError | TimeoutError):
        return ApiError(504, str(error) or "the model did not answer in time")
    if isinstance(error, ModelClosedError | WorkerLostError):
        return ApiError(503, str(error))
    logger.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed on this request; its log says how", code="internal_error")


def _from_validation(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    param = where.encode("ascii", "replace").decode()[:80] or None
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{param}: this argument is unknown, or not supported", param=param)
    if first["type"] == "json_invalid":
        return ApiError(400, "the request's body is not JSON")
    return ApiError(400, f"{param}: {first['msg']}" if param else first["msg"], param=param)


def add_error_handlers(app: FastAPI) -> None:
    """Makes every error of ``app`` one of these."""

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(_from_validation(error))

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return error_response(ApiError(400 if error.status_code == 422 else error.status_code, str(error.detail)))

    async def other(_: Request, error: Exception) -> JSONResponse:
        return error_response(as_api_error(error))

    handlers: Iterable[tuple[type[Exception], Any]] = (
        (RequestValidationError, invalid),
        (HTTPException, http),
        (Exception, other),
        *((kind, other) for kind in (ApiError, InputError, OverloadedError, DeadlineExceededError, TimeoutError)),
        *((kind, other) for kind in (ModelClosedError, WorkerLostError)),
    )
    for kind, handler in handlers:
        app.add_exception_handler(kind, handler)
