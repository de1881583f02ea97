"""The application on Ray Serve: real clients through Serve's proxy, new weights under load, metrics, and its end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from app_testing import TOKEN, free_port, make_run, picture, until, uri

from digiq_ray.core.errors import ModelError
from digiq_ray.core.policies import ActRequest
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.sampling import VlmPolicy
from digiq_ray.vlm.tiny import make_vlm
from serve.app import publish
from serve.app.server import Server
from serve.app.settings import TOKENS_VARIABLE, ServeSettings

POLICY, FEATURES = "digiq-policy", "digiq-features"
STATE = {"image": uri(picture()), "task": "buy a red mug", "history": ["back"]}
SEEDS = range(4)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def server(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKENS_VARIABLE, TOKEN)
        patch.setenv("RAY_metrics_report_interval_ms", "500")
        settings = ServeSettings(model=str(run), port=free_port(), metrics_port=free_port())
        made = Server(settings)
        yield made
        made.drain()


@pytest.fixture
def url(server) -> str:
    return server.url


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0) as made:
        yield made


@pytest.fixture
def http(url):
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two policies of other weights and, as a new one has, the vocabulary of the tasks."""
    found = []
    for seed in (1, 2):
        path = tmp_path_factory.mktemp(f"weights{seed}")
        vlm = make_vlm(["buy", "red", "mug"], hidden=16, layers=2, vision=16, vision_layers=1, seed=seed)
        vlm.save(path, version=f"saved{seed}")
        found.append(path)
    return found


def message(text: str) -> list[dict]:
    image = {"type": "image_url", "image_url": {"url": STATE["image"]}}
    return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]


def test_openais_client_is_answered_whole_and_streamed(client):
    asked = {"model": POLICY, "messages": message("buy milk"), "max_tokens": 6, "seed": 5}
    whole = client.chat.completions.create(**asked)
    streamed = list(client.chat.completions.create(**asked, stream=True))
    said = "".join(chunk.choices[0].delta.content for chunk in streamed)
    assert said == whole.choices[0].message.content != ""
    assert streamed[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len(client.embeddings.create(model=FEATURES, input={**STATE, "action": "home"}).data[0].embedding) == 192


def test_wrong_token_unknown_model_and_large_body_have_their_status(client):
    stranger = client.with_options(api_key="not-the-right-token")
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt", messages=message("hello"))
    large = "data:image/png;base64," + "A" * (18 * 2**20)
    parts = [{"type": "image_url", "image_url": {"url": large}}]
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=POLICY, messages=[{"role": "user", "content": parts}])
    assert raised.value.status_code == 413


def test_two_clients_at_once_each_get_their_own_answers(url):
    def ask(seed: int) -> list[str]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0) as own:
            answer = own.chat.completions.create(
                model=POLICY, messages=message("buy milk"), n=4, max_tokens=6, temperature=1.5, seed=seed
            )
            return [choice.message.content for choice in answer.choices]

    alone = [ask(1), ask(2)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, [1, 2])) == alone
    assert alone[0] != alone[1]


def test_weights_published_under_load_lose_no_request_and_every_answer_is_that_of_the_version_it_names(
    http, url, run, checkpoints
):
    sources = {"digi_q": run / "models" / "digi_q"}
    sources |= {f"step-{number}": checkpoints[number % 2] for number in range(6)}
    ended, answers = threading.Event(), []

    def load(seed: int) -> int:
        count = 0
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as own:
            while not ended.is_set():
                answer = own.post("/v1/act", json={**STATE, "seed": seed, "max_tokens": 8})
                answers.append((seed, answer.status_code, answer.json()))
                count += 1
        return count

    with ThreadPoolExecutor(len(SEEDS)) as pool:
        counts = [pool.submit(load, seed) for seed in SEEDS]
        for number in range(6):
            before = len(answers)
            assert publish(f"step-{number}", str(checkpoints[number % 2])) == 1
            until(lambda seen=before: len(answers) > seen + 2 * len(SEEDS), "answers after new weights")
        ended.set()
        assert all(count.result() > 6 for count in counts)

    assert {status for _, status, _ in answers} == {200}
    expected: dict[tuple[str, int], str] = {}
    for seed, _, answer in answers:
        key = (answer["policy_version"], seed)
        if key not in expected:
            expected[key] = _act(sources[key[0]], seed)
        assert answer["action"] == expected[key]
    assert {version for version, _ in expected} >= {f"step-{number}" for number in range(6)}
    assert http.get("/v1/models").json()["data"][0]["policy_version"] == "step-5"


def _act(path: Path, seed: int) -> str:
    policy = VlmPolicy(Vlm.load(path), max_tokens=8)
    return policy.act([ActRequest(picture(), STATE["task"], ("back",), seed=seed)])[0].text


def test_a_checkpoint_that_cannot_be_loaded_leaves_the_version_before(http, tmp_path):
    before = http.get("/health").json()["policy_version"]
    with pytest.raises(ModelError, match=r"config\.json"):
        publish("broken", str(tmp_path))
    assert http.get("/health").json()["policy_version"] == before
    assert http.post("/v1/act", json=STATE).json()["policy_version"] == before


def test_ray_exports_the_figures_for_prometheus(http, server):
    assert http.post("/v1/act", json=STATE).status_code == 200
    names = ("digiq_requests_total", "digiq_request_seconds", "digiq_tokens_total", "digiq_batch_rows")

    def exported() -> bool:
        with httpx.Client() as scraper:
            text = scraper.get(f"http://127.0.0.1:{server.metrics_port}/metrics").text
        return all(f"ray_{name}" in text for name in names)

    until(exported, "the export of all figures", deadline=60)


def test_a_drain_lets_a_request_under_way_finish(server, http):
    asked = {"model": POLICY, "messages": message("milk"), "n": 32, "max_tokens": 200, "temperature": 2, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=asked) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        draining = threading.Thread(target=server.drain)
        draining.start()
        rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert sum('"finish_reason":"' in line for line in rest) == 32
    draining.join(60)
    assert not draining.is_alive()
    with pytest.raises(httpx.TransportError):
        http.get("/health")
