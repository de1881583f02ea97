"""``/v1/chat/completions``: a user's message with at most one image, answered whole or token by token (SSE)."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pydantic_core
from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse

from serve.app.errors import ApiError, as_api_error, error_body
from serve.app.images import read_image
from serve.app.schemas import (
    AnswerMessage,
    ChatAnswer,
    ChatRequest,
    Choice,
    ImagePart,
    Logprobs,
    Message,
    TextPart,
    TokenLogprob,
    Usage,
)
from serve.app.service import POLICY, Samples, Service, seed_from
from serve.protocols import Piece, Sampling

DEFAULT_TOKENS = 64


def sampling_of(request: ChatRequest) -> Sampling:
    """How the request wants its answers drawn."""
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise ApiError(400, "max_tokens and max_completion_tokens are two names of one thing; give one")
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options: only where stream is true", param="stream_options")
    return Sampling(
        samples=request.n or 1,
        temperature=1.0 if request.temperature is None else request.temperature,
        max_tokens=request.max_completion_tokens or request.max_tokens or DEFAULT_TOKENS,
        seed=seed_from(request.seed),
    )


def content_of(messages: list[Message], service: Service) -> tuple[str, list[bytes]]:
    """The text and the image that the model gets: instructions first, then the user's message.

    Raises:
        ApiError: there is not exactly one user's message at the end, there are several images, or one is refused.
    """
    *instructions, last = messages
    if last.role != "user" or any(message.role == "user" for message in instructions):
        raise ApiError(400, "messages: instructions (system, developer) and then one user's message", param="messages")
    texts: list[str] = []
    images: list[bytes] = []
    for number, message in enumerate(messages):
        parts = [TextPart(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        for part in parts:
            if isinstance(part, TextPart):
                texts.append(part.text)
                continue
            images.append(_image(part, message, number, service))
    if len(images) > 1:
        raise ApiError(400, "messages: one image at the most", param="messages")
    return "\n".join(texts), images


def _image(part: ImagePart, message: Message, number: int, service: Service) -> bytes:
    if message.role != "user":
        raise ApiError(400, "messages: an image belongs into the user's message", param=f"messages.{number}")
    return read_image(part.image_url.url, service.limits, f"messages.{number}.image_url")


def _logprobs(pieces: list[Piece]) -> Logprobs:
    return Logprobs(
        content=[TokenLogprob(token=one.text, logprob=one.logprob, bytes=list(one.text.encode())) for one in pieces]
    )


def _answer(samples: Samples, with_logprobs: bool) -> ChatAnswer:
    written = sum(sample.tokens for sample in samples.samples)
    return ChatAnswer(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=POLICY,
        choices=[
            Choice(
                index=index,
                message=AnswerMessage(content=sample.text),
                finish_reason=sample.finish,
                logprobs=_logprobs(sample.pieces) if with_logprobs else None,
            )
            for index, sample in enumerate(samples.samples)
        ],
        usage=Usage(
            prompt_tokens=samples.prompt_tokens,
            completion_tokens=written,
            total_tokens=samples.prompt_tokens + written,
        ),
        system_fingerprint=samples.policy_version,
        policy_version=samples.policy_version,
    )


def _event(data: Any) -> bytes:
    return b"data: " + pydantic_core.to_json(data) + b"\n\n"


class _Stream:
    """One streamed answer as server-sent events."""

    def __init__(self, service: Service, request: ChatRequest, first: Piece) -> None:
        self._service, self._first = service, first
        self._logprobs = bool(request.logprobs)
        self._usage = bool(request.stream_options and request.stream_options.include_usage)
        self._base = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": POLICY,
            "system_fingerprint": first.policy_version,
            "policy_version": first.policy_version,
        }

    def _chunk(self, piece: Piece, *, opening: bool) -> bytes:
        delta: dict[str, Any] = {"content": piece.text}
        choice: dict[str, Any] = {
            "index": piece.sample,
            "delta": {"role": "assistant", **delta} if opening else delta,
            "finish_reason": piece.finish,
            "logprobs": _logprobs([piece]).model_dump() if self._logprobs else None,
        }
        return _event({**self._base, "choices": [choice]})

    async def events(self, rest: AsyncGenerator[Piece, None]) -> AsyncIterator[bytes]:
        """All events; an error in the middle is the last one."""
        seen: set[int] = set()
        written = 0
        try:
            async with aclosing(rest):
                async for piece in _with(self._first, rest):
                    written += piece.tokens
                    yield self._chunk(piece, opening=piece.sample not in seen)
                    seen.add(piece.sample)
        except Exception as error:
            known = as_api_error(error)
            yield _event(error_body(known.status, known.message, known.param, known.code))
            return
        prompt = self._first.prompt_tokens
        self._service.metrics.tokens(prompt=prompt, completion=written)
        if self._usage:
            usage = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
            yield _event({**self._base, "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"


async def _with(first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    yield first
    async for piece in rest:
        yield piece


def chat_routes(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/chat/completions", response_model=ChatAnswer)
    async def chat(request: ChatRequest) -> Response | ChatAnswer:
        """Answers a message; with ``stream`` as server-sent events, each token as it is drawn."""
        service.check_model(request.model, POLICY)
        sampling = sampling_of(request)
        text, images = content_of(request.messages, service)
        pieces = service.policy.chat(text, images, sampling)
        if not request.stream:
            return _answer(await service.whole(pieces, sampling), bool(request.logprobs))
        rest = service.timely(pieces)
        first = await anext(rest)  # what is wrong with a request shows before its answer begins
        return StreamingResponse(_Stream(service, request, first).events(rest), media_type="text/event-stream")

    return router
