"""One door to the policy for many slots: requests that wait together go in one batch.

While the policy is busy requests pile up, so batches grow with the load and no slot waits for a batch to fill. One
thread asks the policy; what bounds a request is the deadline, after which the policy counts as hung. An error of the
policy reaches every slot that waits, and all that ask later.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import TypeAlias

from digiq_ray.core.errors import DeadlineExceededError, DigiQError
from digiq_ray.core.policies import ActRequest, ActResult, Policy

_Reply: TypeAlias = "queue.SimpleQueue[ActResult | BaseException]"


class PolicyGate:
    """Asks ``policy`` for many threads.

    Args:
        policy: Asked in one thread only.
        largest_batch: Most requests in one call.
        deadline: Seconds after which a request that was not answered is an error.
    """

    def __init__(self, policy: Policy, *, largest_batch: int, deadline: float) -> None:
        self._policy, self._largest, self._deadline = policy, largest_batch, deadline
        self._asked: queue.SimpleQueue[tuple[ActRequest, _Reply] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="policy gate", daemon=True)
        self._thread.start()

    def act(self, request: ActRequest) -> ActResult:
        """The policy's action.

        Raises:
            DeadlineExceededError: it did not answer in time.
            DigiQError: what the policy raised, or it did not answer each request.
        """
        if self._failure is not None:
            raise self._failure
        reply: _Reply = queue.SimpleQueue()
        self._asked.put((request, reply))
        try:
            answer = reply.get(timeout=self._deadline)
        except queue.Empty:
            raise DeadlineExceededError(
                f"the policy did not answer within {self._deadline:g} s: look at its server, or raise the deadline"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """Lets the thread end once the policy has answered; who asks now or waits in line gets an error."""
        self._failure = self._failure or DigiQError("the rollout is over: the policy takes no more requests")
        self._asked.put(None)

    def _serve(self) -> None:
        while (first := self._asked.get()) is not None:
            batch = [first]
            while len(batch) < self._largest:
                try:
                    more = self._asked.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._asked.put(None)
                    break
                batch.append(more)
            answers: Sequence[ActResult | BaseException]
            try:
                answers = ask(self._policy, [request for request, _ in batch])
            except Exception as error:  # handed to every slot that waits
                self._failure = error
                answers = [error] * len(batch)
            for (_, reply), answer in zip(batch, answers, strict=True):
                reply.put(answer)
        self._turn_away()

    def _turn_away(self) -> None:
        """Answers what came too late."""
        while True:
            try:
                late = self._asked.get_nowait()
            except queue.Empty:
                return
            if late is not None and self._failure is not None:
                late[1].put(self._failure)


def ask(policy: Policy, requests: list[ActRequest]) -> list[ActResult]:
    """The policy's actions; ``DigiQError`` if it did not answer each request."""
    results = policy.act(requests)
    if len(results) != len(requests):
        raise DigiQError(f"the policy gave {len(results)} actions for {len(requests)} requests; it must answer each")
    return results
