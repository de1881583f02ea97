"""``/v1/embeddings``: frozen features of screenshots with their task, and of them with an action."""

from __future__ import annotations

import asyncio
import base64

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray

from serve.app.images import read_image
from serve.app.schemas import Embedding, EmbeddingAnswer, EmbeddingInput, EmbeddingRequest, EmbeddingUsage
from serve.app.service import FEATURES, Service
from serve.protocols import State


def _group(inputs: list[EmbeddingInput], service: Service) -> dict[State, list[int]]:
    """Which inputs are of each state: its prompt is run once for all of them."""
    images: dict[str, bytes] = {}
    found: dict[State, list[int]] = {}
    for index, one in enumerate(inputs):
        if one.image not in images:
            images[one.image] = read_image(one.image, service.limits, f"input.{index}.image")
        found.setdefault(State(images[one.image], one.task, tuple(one.history)), []).append(index)
    return found


def _encode(vector: NDArray[np.float32], as_base64: bool) -> list[float] | str:
    if as_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


def embedding_routes(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/embeddings", response_model=EmbeddingAnswer)
    async def embeddings(request: EmbeddingRequest) -> EmbeddingAnswer:
        """Features f(s) of inputs without an action, f(s, a) of those with one: vectors of two lengths."""
        service.check_model(request.model, FEATURES)
        inputs = request.input if isinstance(request.input, list) else [request.input]
        groups = _group(inputs, service)
        asked = [[text for i in of_state if (text := inputs[i].action) is not None] for of_state in groups.values()]
        answers = await asyncio.gather(
            *(service.features(state, actions) for state, actions in zip(groups, asked, strict=True))
        )
        vectors: dict[int, NDArray[np.float32]] = {}
        for of_state, found in zip(groups.values(), answers, strict=True):
            rows = iter(found.actions)
            vectors |= {i: found.state if inputs[i].action is None else next(rows) for i in of_state}
        read = sum(found.tokens for found in answers)
        return EmbeddingAnswer(
            data=[
                Embedding(index=index, embedding=_encode(vectors[index], request.encoding_format == "base64"))
                for index in range(len(inputs))
            ],
            model=FEATURES,
            usage=EmbeddingUsage(prompt_tokens=read, total_tokens=read),
            policy_version=service.policy.version,
        )

    return router
