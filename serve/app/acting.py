"""``/v1/act``, ``/v1/candidates`` and ``/v1/q``: what to do in a state, what could be done, and what it is worth."""

from __future__ import annotations

from fastapi import APIRouter

from serve.app.errors import ApiError
from serve.app.images import read_image
from serve.app.schemas import (
    ActAnswer,
    ActRequest,
    Candidate,
    CandidatesAnswer,
    CandidatesRequest,
    QAnswer,
    QRequest,
    Situation,
    ValuedCandidate,
)
from serve.app.service import Samples, Service, distinct, seed_from
from serve.protocols import Sampling, State


def _state(situation: Situation, service: Service) -> State:
    image = read_image(situation.image, service.limits, "image")
    return State(image, situation.task, tuple(situation.history))


async def _samples(state: State, request: CandidatesRequest, service: Service) -> Samples:
    sampling = Sampling(
        samples=request.n,
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        seed=seed_from(request.seed),
    )
    return await service.whole(service.policy.act(state, sampling), sampling)


def acting_routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["acting"])

    @router.post("/v1/act", response_model=ActAnswer)
    async def act(request: ActRequest) -> ActAnswer:
        """One action for a state: a sample of the policy, or of ``n`` samples the valid one with the highest Q."""
        if request.choose == "best_of_n" and not service.has_critic:
            raise ApiError(400, f"best_of_n needs Q: {service.lacking}", param="choose", code="no_critic")
        state = _state(request, service)
        samples = await _samples(state, request, service)
        drawn = distinct(samples.samples)
        values = await service.values(state, [one.text for one in drawn]) if service.has_critic else None
        first = samples.samples[0].text.strip()
        chosen = next(index for index, one in enumerate(drawn) if one.text == first)
        if request.choose == "best_of_n" and values is not None:
            best = service.best(drawn, values)
            chosen = chosen if best is None else best
        q = [None] * len(drawn) if values is None else values.q.tolist()
        return ActAnswer(
            action=drawn[chosen].text,
            valid=drawn[chosen].action is not None,
            candidates=[
                ValuedCandidate(
                    action=one.text, count=one.count, logprob=one.logprob, valid=one.action is not None, q=worth
                )
                for one, worth in zip(drawn, q, strict=True)
            ],
            value=None if values is None else values.v,
            novelty=None if values is None else values.novelty,
            policy_version=samples.policy_version,
        )

    @router.post("/v1/candidates", response_model=CandidatesAnswer)
    async def candidates(request: CandidatesRequest) -> CandidatesAnswer:
        """The distinct actions among ``n`` samples of the policy in a state."""
        samples = await _samples(_state(request, service), request, service)
        return CandidatesAnswer(
            candidates=[
                Candidate(action=one.text, count=one.count, logprob=one.logprob, valid=one.action is not None)
                for one in distinct(samples.samples)
            ],
            policy_version=samples.policy_version,
        )

    @router.post("/v1/q", response_model=QAnswer)
    async def q(request: QRequest) -> QAnswer:
        """Q of each action in a state, V of the state, and how novel it is to the critic."""
        if not service.has_critic:
            raise ApiError(400, f"there is no Q here: {service.lacking}", code="no_critic")
        values = await service.values(_state(request, service), request.actions)
        return QAnswer(
            q=values.q.tolist(),
            value=values.v,
            novelty=values.novelty,
            policy_version=service.policy.version,
        )

    return router
