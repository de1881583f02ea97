import threading
import time

import pytest
from fake_phones import ScriptedPolicy

from digiq_ray.core.errors import DeadlineExceededError, DigiQError, ModelError
from digiq_ray.core.policies import ActRequest
from emulator_workers.gate import PolicyGate

REQUEST = ActRequest(b"", "go", (), 0)


def ask_many(gate: PolicyGate, count: int) -> list[object]:
    """The answers, or errors, of requests from ``count`` threads at once."""
    answers: list[object] = []

    def one() -> None:
        try:
            answers.append(gate.act(REQUEST))
        except DigiQError as error:
            answers.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return answers


def test_requests_that_wait_together_share_a_batch():
    class Slow(ScriptedPolicy):
        def act(self, requests):
            time.sleep(0.1)
            return super().act(requests)

    policy = Slow("tap 0.5 0.5")
    gate = PolicyGate(policy, largest_batch=8, deadline=10.0)
    answers = ask_many(gate, 9)
    gate.close()
    assert {answer.text for answer in answers} == {"tap 0.5 0.5"}
    assert sum(policy.batches) == 9
    assert len(policy.batches) <= 4


def test_a_batch_is_no_larger_than_allowed():
    policy = ScriptedPolicy("wait")
    gate = PolicyGate(policy, largest_batch=2, deadline=10.0)
    ask_many(gate, 7)
    gate.close()
    assert max(policy.batches) <= 2


def test_an_error_of_the_policy_reaches_all_who_wait_and_ask_later():
    class Broken(ScriptedPolicy):
        def act(self, requests):
            raise ModelError("out of memory")

    gate = PolicyGate(Broken(), largest_batch=8, deadline=10.0)
    answers = ask_many(gate, 3)
    assert [type(answer) for answer in answers] == [ModelError] * 3
    with pytest.raises(ModelError, match="out of memory"):
        gate.act(REQUEST)
    gate.close()


def test_a_policy_that_does_not_answer_is_an_error_at_the_deadline():
    go_on = threading.Event()

    class Hung(ScriptedPolicy):
        def act(self, requests):
            go_on.wait(10)
            return super().act(requests)

    gate = PolicyGate(Hung("wait"), largest_batch=8, deadline=0.05)
    with pytest.raises(DeadlineExceededError, match=r"within 0\.05 s"):
        gate.act(REQUEST)
    go_on.set()
    gate.close()


def test_a_policy_that_leaves_requests_out_is_an_error():
    class Lazy(ScriptedPolicy):
        def act(self, requests):
            return []

    gate = PolicyGate(Lazy(), largest_batch=8, deadline=10.0)
    with pytest.raises(DigiQError, match="0 actions for 1 requests"):
        gate.act(REQUEST)
    gate.close()


def test_a_closed_gate_turns_requests_away():
    gate = PolicyGate(ScriptedPolicy("wait"), largest_batch=8, deadline=10.0)
    gate.close()
    with pytest.raises(DigiQError, match="takes no more requests"):
        gate.act(REQUEST)
