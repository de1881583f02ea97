"""``serve deploy serve/config.yaml`` on a Ray cluster of its own, as docs/serving.md says: up, asked, and gone."""

from __future__ import annotations

import os
import secrets
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from app_testing import TOKEN, free_port, picture, until, uri

from serve.app.settings import TOKENS_VARIABLE

CONFIG = Path(__file__).parents[2] / "serve" / "config.yaml"
SCRIPTS = Path(sysconfig.get_path("scripts"))
RAY_TOKEN = secrets.token_hex(32)
# Each takes five to ten seconds, and several times as long on a busy machine.
START_SECONDS, COMMAND_SECONDS, DEPLOY_SECONDS, END_SECONDS = 120.0, 60.0, 120.0, 60.0
ASK_SECONDS = 20.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Head:
    """The head of a cluster: its process, the address of its dashboard, the environment of its commands."""

    process: subprocess.Popen[bytes]
    dashboard: str
    environment: dict[str, str]

    def serve(self, *words: str) -> None:
        """Runs one of Ray's ``serve`` commands against this cluster."""
        command = [SCRIPTS / "serve", *words, "--address", self.dashboard]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=COMMAND_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr

    def asked(self, token: str) -> httpx.Response | None:
        """What the dashboard says of Serve; ``None`` while it does not listen."""
        try:
            return httpx.get(
                f"{self.dashboard}/api/serve/applications/",
                headers={"authorization": f"Bearer {token}"},
                timeout=ASK_SECONDS,
            )
        except httpx.TransportError:
            return None

    def runs(self) -> bool:
        """Whether the application runs; one that cannot is an error at once."""
        answer = self.asked(RAY_TOKEN)
        if answer is None:
            return False
        application = answer.json()["applications"]["digiq"]
        assert application["status"] != "DEPLOY_FAILED", application["message"]
        return application["status"] == "RUNNING"

    def has_nothing(self) -> bool:
        """Whether Serve has no application any more."""
        answer = self.asked(RAY_TOKEN)
        return answer is not None and answer.json()["applications"] == {}


@pytest.fixture
def head() -> Iterator[Head]:
    """A cluster of this machine on free ports of loopback, with tokens of its own for Ray and for the application."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": RAY_TOKEN,
        # As on Windows and macOS: without it Ray takes loopback for the machine's own address and listens there.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        TOKENS_VARIABLE: TOKEN,
    }
    port = free_port()
    options = {
        "node-ip-address": "127.0.0.1",
        "port": 0,
        "dashboard-port": port,
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": free_port(),
        "num-cpus": 2,
        "object-store-memory": 100 * 2**20,
        "include-log-monitor": "false",
    }
    # Not tmp_path, which is too long for the sockets that Ray puts into it.
    with tempfile.TemporaryDirectory(prefix="ray") as place, tempfile.TemporaryFile() as said:
        words = [f"--{name}={value}" for name, value in options.items()]
        process = subprocess.Popen(
            [SCRIPTS / "ray", "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={place}", *words],
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        made = Head(process, f"http://127.0.0.1:{port}", environment)

        def answers() -> bool:
            if process.poll() is not None:
                said.seek(0)
                pytest.fail(f"the head ended: {said.read().decode()}")
            answer = made.asked(RAY_TOKEN)
            return answer is not None and answer.status_code == 200

        try:
            until(answers, "the start of a Ray cluster", START_SECONDS)
            yield made
        finally:
            _end(process)


def _session(leader: int) -> list[psutil.Process]:
    """The processes of a session: Ray's have other groups and parents, but stay in it."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a head and all that it has started, in order if it can; what outlives it is killed, and an error."""
    started = _session(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    _, alive = psutil.wait_procs(started, timeout=ASK_SECONDS)
    for one in alive:
        one.kill()
    assert not alive, f"processes outlive their cluster: {alive}"
    assert not _session(process.pid)


def test_the_configuration_is_deployed_answers_and_is_ended(head: Head, tmp_path: Path) -> None:
    written = yaml.safe_load(CONFIG.read_text())
    written["http_options"]["port"] = port = free_port()
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(written))

    stranger = head.asked(secrets.token_hex(32))
    assert stranger is not None
    assert stranger.status_code in (401, 403)
    head.serve("deploy", str(config))
    until(head.runs, "the application's start", DEPLOY_SECONDS)

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=ASK_SECONDS) as client:
        assert client.get("/health").json() == {"status": "ok", "policy_version": "behaviour"}
        assert client.get("/ready").status_code == 200
        assert client.get("/v1/models").status_code == 401
        client.headers["authorization"] = f"Bearer {TOKEN}"
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["digiq-policy"]
        state = {"image": uri(picture()), "task": "buy a red mug", "history": ["back"]}
        acted = client.post("/v1/act", json={**state, "n": 4, "seed": 3})
        assert acted.status_code == 200, acted.text
        assert acted.json()["action"] in [one["action"] for one in acted.json()["candidates"]]

        head.serve("shutdown", "-y")
        until(head.has_nothing, "the application's end", END_SECONDS)
        with pytest.raises(httpx.TransportError):
            client.get("/health")
