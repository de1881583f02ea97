"""The parts of the server by themselves: access, what a run holds, configuration, texts, the thread of a model."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from app_testing import SOON, free_port, make_run
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.schema import ServeDeploySchema

from digiq_ray.cli.main import COMMANDS, main
from digiq_ray.core.config import load_config
from digiq_ray.core.errors import ConfigError, InputError
from serve.app.access import Access, check_address, read_tokens
from serve.app.deployment import build
from serve.app.errors import ApiError
from serve.app.server import check
from serve.app.settings import TOKENS_VARIABLE, ServeArguments, ServeSettings
from serve.app.sources import find_sources
from serve.model_thread import Call, ModelThread, OverloadedError

CONFIG = Path(__file__).parents[2] / "serve" / "config.yaml"
TOKENS = ["first-token-of-the-tests", "other-token-of-the-tests"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "run")


# ---- access


@pytest.mark.parametrize("text", ["", "  ", ",,"])
def test_no_tokens_are_no_tokens(text):
    assert read_tokens({TOKENS_VARIABLE: text}) == []


def test_tokens_are_separated_by_commas_or_spaces():
    assert read_tokens({TOKENS_VARIABLE: f"{TOKENS[0]}, {TOKENS[1]}\n"}) == TOKENS


def test_a_short_token_is_refused_and_not_repeated():
    with pytest.raises(InputError) as raised:
        read_tokens({TOKENS_VARIABLE: "hunter2"})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example.org", ""])
def test_an_address_that_others_reach_needs_a_token(host):
    check_address(host, TOKENS)
    with pytest.raises(InputError, match=TOKENS_VARIABLE):
        check_address(host, [])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(host):
    check_address(host, [])


@pytest.mark.parametrize(
    ("client", "host", "passes"),
    [
        (("127.0.0.1", 5), b"127.0.0.1:8000", True),
        (("::1", 5), b"[::1]:8000", True),
        (("127.0.0.1", 5), b"LOCALHOST", True),
        (("127.0.0.1", 5), b"evil.example:8000", False),
        (("127.0.0.1", 5), b"localhost.evil.example", False),
        (("127.0.0.1", 5), b"", False),
        (("10.0.0.7", 5), b"localhost", False),
        (None, b"localhost", False),
    ],
)
def test_without_tokens_caller_and_name_must_be_local(client, host, passes):
    scope = {"client": client, "headers": [(b"host", host)]}
    if passes:
        Access([]).check(scope)
    else:
        with pytest.raises(ApiError) as raised:
            Access([]).check(scope)
        assert raised.value.status == 403


@given(token=st.binary(max_size=40))
def test_no_other_token_passes(token):
    scope = {"client": ("127.0.0.1", 5), "headers": [(b"authorization", b"Bearer " + token)]}
    if token.strip() not in [known.encode() for known in TOKENS]:
        with pytest.raises(ApiError) as raised:
            Access(TOKENS).check(scope)
        assert raised.value.status == 401


# ---- what is served


def test_a_run_gives_policy_features_and_critic(run):
    found = find_sources(str(run), "digi_q")
    assert found.policy == str(run / "models" / "digi_q")
    assert found.features == str(run / "models" / "feature_vlm")
    assert found.critic == run / "models" / "critic"
    assert find_sources(str(run), "behaviour").policy == "tiny"


def test_a_policy_that_a_run_lacks_is_refused_with_those_it_has(run):
    with pytest.raises(InputError, match="digi_q, behaviour"):
        find_sources(str(run), "awr")


@pytest.mark.parametrize("name", [".", "nothing"])
def test_a_place_without_a_run_or_a_model_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="neither"):
        find_sources(str(tmp_path / name), "digi_q")


def test_a_run_that_is_not_so_far_says_what_comes_first(run, tmp_path):
    part = shutil.copytree(run, tmp_path / "part")
    shutil.rmtree(part / "models" / "critic")
    found = find_sources(str(part), "digi_q")
    assert found.critic is None
    assert "digiq train-critic" in found.lacking
    assert "digiq finetune" not in found.lacking


# ---- configuration and command


def test_the_configuration_for_serve_deploy_is_one_that_ray_and_the_application_take():
    written = yaml.safe_load(CONFIG.read_text())
    (application,) = ServeDeploySchema.model_validate(written).applications
    arguments = ServeArguments.model_validate(application.args)
    assert application.import_path == "serve.app:build"
    (parameter,) = inspect.signature(build).parameters.values()
    assert parameter.annotation is ServeArguments, "Serve does not look up a class by its name"
    assert build(arguments) is not None
    assert arguments.model_dump().keys() >= application.args.keys()


def test_an_unknown_argument_is_refused():
    with pytest.raises(ConfigError, match="drain_seconds"):
        load_config(ServeSettings, None, ["model=tiny", "drain_second=3"])


def serve(*words: str) -> int:
    return main(["serve", *words], table={"serve": COMMANDS["serve"]})


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tiny", "--host", "0.0.0.0"], TOKENS_VARIABLE),
        (["tiny", "--backend", "onnx"], "backend"),
        (["tiny", "--port", "0"], "port"),
        ([], "model"),
    ],
)
def test_wrong_usage_ends_in_one_line_and_code_2_before_anything_starts(words, says, capsys, monkeypatch):
    monkeypatch.delenv(TOKENS_VARIABLE, raising=False)
    assert serve(*words) == 2
    assert says in one_line(capsys)


def test_a_policy_that_is_not_there_ends_the_command(run, capsys):
    assert serve(str(run), "--policy", "awr") == 2
    assert "digi_q" in one_line(capsys)


def test_a_port_in_use_ends_the_command(capsys):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve("tiny", "--port", str(port)) == 2
    assert str(port) in one_line(capsys)


def test_a_token_opens_other_addresses(monkeypatch):
    monkeypatch.setenv(TOKENS_VARIABLE, TOKENS[0])
    check(ServeSettings(model="tiny", host="0.0.0.0", port=free_port()))


# ---- the model's thread


class Steps:
    """Counts down what it is asked, one number a step, when its gate is open."""

    def __init__(self) -> None:
        self.gate, self.batches = threading.Event(), []

    def __call__(self, key: str, calls: list[Call]):
        self.batches.append((key, [call.request for call in calls]))
        assert self.gate.wait(SOON)
        for number in range(max(call.request for call in calls)):
            for call in calls:
                if call.request == 13:
                    raise ValueError("thirteen")
                if number < call.request and not call.gone:
                    call.give(number)
            yield


@pytest.fixture
def steps():
    return Steps()


async def ask(thread: ModelThread, number: int, key: str = "a", size: int = 1) -> list[int]:
    return [item async for item in thread.ask(key, number, size=size)]


async def queued(thread: ModelThread, *asked: tuple[int, str]) -> list[asyncio.Task]:
    """Asks one after another, each when the one before is queued."""
    tasks = []
    for number, key in asked:
        tasks.append(asyncio.create_task(ask(thread, number, key)))
        await asyncio.sleep(0.05)
    return tasks


def test_what_waits_shares_the_next_batch_if_it_has_the_same_key(steps):
    async def work() -> list:
        thread = ModelThread(steps, most=2)
        tasks = await queued(thread, (1, "a"), (2, "a"), (3, "b"), (4, "a"), (5, "a"))
        steps.gate.set()
        found = await asyncio.gather(*tasks)
        await asyncio.to_thread(thread.close)
        return found

    assert asyncio.run(work()) == [list(range(number)) for number in range(1, 6)]
    assert steps.batches == [("a", [1]), ("a", [2, 4]), ("b", [3]), ("a", [5])]


def test_a_short_answer_does_not_wait_for_a_long_one(steps):
    async def work() -> bool:
        thread = ModelThread(steps, most=2)
        steps.gate.set()
        long = thread.ask("a", 50_000)
        await anext(long)
        short = await ask(thread, 2, "b")
        await long.aclose()
        await asyncio.to_thread(thread.close)
        return short == [0, 1] and len(steps.batches) == 2

    assert asyncio.run(asyncio.wait_for(work(), SOON))


def test_what_a_batch_raises_reaches_its_callers_and_only_those(steps):
    async def work() -> list:
        thread = ModelThread(steps, most=4)
        tasks = await queued(thread, (1, "a"), (13, "a"), (2, "a"), (3, "b"))
        steps.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(thread.close)
        return found

    first, *failed, last = asyncio.run(work())
    assert (first, last) == ([0], [0, 1, 2])
    assert [str(error) for error in failed] == ["thirteen", "thirteen"]


def test_more_than_may_wait_is_refused_at_once(steps):
    async def work() -> None:
        thread = ModelThread(steps, most=1, waiting=2)
        tasks = await queued(thread, (1, "a"), (1, "a"), (1, "a"))
        with pytest.raises(OverloadedError):
            await ask(thread, 1)
        steps.gate.set()
        await asyncio.gather(*tasks)
        await asyncio.to_thread(thread.close)

    asyncio.run(work())


def test_what_nobody_waits_for_any_more_never_begins(steps):
    async def work() -> None:
        thread = ModelThread(steps, most=1)
        first, second, third = await queued(thread, (1, "a"), (2, "a"), (3, "a"))
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        steps.gate.set()
        await asyncio.gather(first, third)
        await asyncio.to_thread(thread.close)

    asyncio.run(work())
    assert [numbers for _, numbers in steps.batches] == [[1], [3]]


def test_a_step_that_takes_too_long_is_seen(steps):
    async def work() -> tuple[bool, bool, bool]:
        thread = ModelThread(steps, most=1)
        idle = thread.answers(0.01)
        (task,) = await queued(thread, (1, "a"))
        stuck = thread.answers(0.01)
        steps.gate.set()
        await task
        await asyncio.to_thread(thread.close)
        return idle, stuck, thread.answers(SOON)

    assert asyncio.run(work()) == (True, False, False)
