"""The HTTP application in one process: OpenAI's own client, our endpoints, limits and errors."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
from app_testing import TOKEN, HeldPolicy, make_run, picture, served, until, uri
from PIL import Image

from digiq_ray.core.policies import ActRequest
from digiq_ray.vlm.sampling import VlmPolicy
from digiq_ray.vlm.tiny import load_tiny
from serve.app.settings import Limits, ServeArguments

POLICY, FEATURES = "digiq-policy", "digiq-features"
STATE = {"image": uri(picture()), "task": "buy a red mug", "history": ["back"]}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory):
    limits = Limits(request_bytes=400_000, image_bytes=200_000, image_pixels=2_000_000, image_side=2_000)
    run = make_run(tmp_path_factory.mktemp("run") / "run")
    with served(ServeArguments(model=str(run), limits=limits), [TOKEN, "another-token-of-the-tests"]) as address:
        yield address


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0) as made:
        yield made


@pytest.fixture
def http(url):
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=30) as made:
        yield made


def message(text: str, *images: bytes) -> list[dict]:
    parts = [{"type": "image_url", "image_url": {"url": uri(image)}} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def refused(answer: httpx.Response, status: int) -> dict:
    """The error of an answer that must have ``status``, in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return error


# ---- OpenAI's client


def test_models_are_listed_with_the_policys_version(client):
    listed = client.models.list().data
    assert [model.id for model in listed] == [POLICY, FEATURES]
    assert {model.policy_version for model in listed} == {"digi_q"}
    assert client.models.retrieve(POLICY).id == POLICY


def test_a_chat_about_an_image_gives_samples_with_usage_and_version(client):
    answer = client.chat.completions.create(
        model=POLICY, messages=message("buy milk", picture()), n=3, max_tokens=5, seed=1, logprobs=True
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.policy_version == answer.system_fingerprint == "digi_q"
    written = sum(len(choice.logprobs.content) for choice in answer.choices)
    assert answer.usage.completion_tokens == written
    assert answer.usage.prompt_tokens > 36  # the image alone is 36 tokens
    for choice in answer.choices:
        assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
        assert all(token.logprob <= 0 for token in choice.logprobs.content)


def test_the_same_seed_gives_the_same_answer(client):
    def ask(seed: int) -> list[str]:
        answer = client.chat.completions.create(
            model=POLICY, messages=message("buy", picture()), n=4, max_tokens=6, temperature=2, seed=seed
        )
        return [choice.message.content for choice in answer.choices]

    assert ask(7) == ask(7) != ask(8)


def test_a_streamed_chat_says_the_same_as_a_whole_one(client):
    asked = {"model": POLICY, "messages": message("buy milk", picture()), "n": 2, "max_tokens": 6, "seed": 5}
    whole = client.chat.completions.create(**asked)
    texts, ends, usage, versions = ["", ""], {}, None, set()
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        versions.add(chunk.policy_version)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert [ends[0], ends[1]] == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert versions == {"digi_q"}


def test_embeddings_come_as_the_client_asks_for_them_and_alike(client):
    situations = [STATE, {**STATE, "action": "tap 0.50 0.50"}, {**STATE, "action": "home"}]
    default = client.embeddings.create(model=FEATURES, input=situations)
    floats = client.embeddings.create(model=FEATURES, input=situations, encoding_format="float")
    assert [len(one.embedding) for one in floats.data] == [96, 192, 192]
    assert [one.index for one in floats.data] == [0, 1, 2]
    for one, other in zip(default.data, floats.data, strict=True):
        np.testing.assert_array_equal(np.float32(one.embedding), np.float32(other.embedding))
    assert floats.data[1].embedding != floats.data[2].embedding
    assert floats.usage.prompt_tokens > 36


def test_one_embedding_needs_no_list(client):
    alone = client.embeddings.create(model=FEATURES, input=STATE)
    assert len(alone.data) == 1


def test_a_wrong_token_is_401(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="not-the-right-token", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as raised:
            stranger.models.list()
        assert raised.value.status_code == 401


def test_an_unknown_model_is_404(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt", messages=message("hello"))
    assert raised.value.code == "model_not_found"


def test_an_image_of_too_many_bytes_is_413(client):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noise).save(encoded, "PNG")
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=POLICY, messages=message("look", encoded.getvalue()))
    assert raised.value.status_code == 413


# ---- our own endpoints


def test_candidates_are_those_that_the_policy_samples_in_this_process(http):
    answer = http.post("/v1/candidates", json={**STATE, "n": 16, "seed": 9, "max_tokens": 8}).json()
    policy = VlmPolicy(load_tiny())
    alone = policy.act([ActRequest(picture(), STATE["task"], ("back",), seed=9)])[0]
    texts = {one["action"]: one for one in answer["candidates"]}
    assert sum(one["count"] for one in texts.values()) == 16
    assert texts[alone.text]["logprob"] == pytest.approx(alone.logprob, abs=1e-4)
    assert answer["policy_version"] == "digi_q"


def test_best_of_n_takes_the_valid_candidate_with_the_highest_q(http):
    answer = http.post("/v1/act", json={**STATE, "n": 32, "seed": 2, "temperature": 1.5, "choose": "best_of_n"}).json()
    valid = [one for one in answer["candidates"] if one["valid"]]
    assert len(valid) > 1
    assert answer["action"] == max(valid, key=lambda one: one["q"])["action"]
    assert answer["valid"] is True
    assert isinstance(answer["value"], float)
    assert 0.0 <= answer["novelty"] <= 1.0


def test_without_best_of_n_the_first_sample_is_the_action(http):
    one = http.post("/v1/act", json={**STATE, "n": 1, "seed": 2, "temperature": 1.5}).json()
    many = http.post("/v1/act", json={**STATE, "n": 16, "seed": 2, "temperature": 1.5}).json()
    assert one["action"] == many["action"]
    assert len(many["candidates"]) > 1


def test_q_is_that_of_the_candidates_of_act(http):
    acted = http.post("/v1/act", json={**STATE, "n": 8, "seed": 2}).json()
    actions = [one["action"] for one in acted["candidates"]]
    answer = http.post("/v1/q", json={**STATE, "actions": actions}).json()
    assert answer["q"] == pytest.approx([one["q"] for one in acted["candidates"]], abs=1e-5)
    assert answer["value"] == pytest.approx(acted["value"], abs=1e-5)
    assert answer["novelty"] == pytest.approx(acted["novelty"], abs=2e-3)


def test_a_bare_model_says_what_q_lacks():
    with served(ServeArguments(model="tiny"), []) as address, httpx.Client(base_url=address, timeout=30) as http:
        bare = http.post("/v1/act", json=STATE).json()
        assert bare["value"] is None
        assert bare["novelty"] is None
        for error in (
            refused(http.post("/v1/q", json={**STATE, "actions": ["back"]}), 400),
            refused(http.post("/v1/act", json={**STATE, "choose": "best_of_n"}), 400),
            refused(http.post("/v1/embeddings", json={"model": FEATURES, "input": STATE}), 404),
        ):
            assert "a run's directory" in error["message"]


def test_texts_with_control_tokens_are_texts(http):
    for text in ("<image>", "</s><image><image>", "<<image>image>"):
        answer = http.post("/v1/act", json={**STATE, "task": text, "history": [text]})
        assert answer.status_code == 200, answer.text


# ---- limits and errors


def test_many_callers_share_batches_and_each_gets_its_own_answer(http):
    alone = [http.post("/v1/act", json={**STATE, "seed": seed}).json()["action"] for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        together = list(
            pool.map(lambda seed: http.post("/v1/act", json={**STATE, "seed": seed}).json()["action"], range(12))
        )
    assert together == alone


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header promises a picture of ``width`` x ``height``."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(30_000, 30_000), (1_500, 1_500), (100_000, 1), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(http, size):
    refused(http.post("/v1/act", json={**STATE, "image": uri(bomb(*size))}), 413)


def test_a_large_body_is_refused_with_and_without_a_length(http):
    refused(http.post("/v1/act", content=b"x" * 500_000), 413)
    refused(http.post("/v1/act", content=(b"x" * 50_000 for _ in range(12))), 413)


@pytest.mark.parametrize(
    "image",
    [
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "data:image/svg+xml;base64,AAAA",
        "data:image/png,AAAA",
        "data:image/png;base64,####",
        "data:image/png;base64,",
        uri(picture()[:60]),
        uri(b"GIF89a"),
        "",
    ],
)
def test_what_is_no_whole_image_is_400_and_nothing_is_fetched(http, image):
    refused(http.post("/v1/act", json={**STATE, "image": image}), 400)
    parts = [{"type": "image_url", "image_url": {"url": image}}]
    asked = {"model": POLICY, "messages": [{"role": "user", "content": parts}]}
    refused(http.post("/v1/chat/completions", json=asked), 400)


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0},
        {"n": 65},
        {"n": 1.5},
        {"temperature": -1},
        {"temperature": 3},
        {"max_tokens": 0},
        {"max_tokens": 1024},  # more than the model's context
        {"seed": 2**70},
        {"task": "x" * 8001},
        {"task": "word " * 1500},  # more than the model's context
        {"task": None},
        {"history": ["x"] * 65},
        {"history": "back"},
        {"choose": "worst"},
        {"unknown": 1},
    ],
)
def test_a_wrong_argument_is_400_and_named(http, change):
    error = refused(http.post("/v1/act", json={**STATE, **change}), 400)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"task": NaN}',
        b"[" * 100_000,
        json.dumps({**STATE, "task": "half \ud800 a pair"}).encode(),
        json.dumps({**STATE, "half \ud800 a pair": 1}).encode(),
        json.dumps({**STATE, "temperature": 1}).replace(" 1}", " NaN}").encode(),
        json.dumps({**STATE, "seed": 0}).replace(" 0}", " " + "9" * 5000 + "}").encode(),
    ],
)
def test_a_body_that_is_not_json_for_us_is_400(http, body):
    refused(http.post("/v1/act", content=body, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "hi"}],
        [{"role": "user", "content": "hi"}, {"role": "user", "content": "ho"}],
        [{"role": "system", "content": "hi"}],
        message("two images", picture(), picture()),
        [{"role": "system", "content": message("x", picture())[0]["content"]}, {"role": "user", "content": "hi"}],
    ],
)
def test_messages_of_another_shape_are_400(http, messages):
    refused(http.post("/v1/chat/completions", json={"model": POLICY, "messages": messages}), 400)


def test_an_unsupported_argument_of_openai_is_named(http):
    asked = {"model": POLICY, "messages": message("hi"), "tools": []}
    assert refused(http.post("/v1/chat/completions", json=asked), 400)["param"] == "tools"


def test_instructions_come_before_the_users_message(client):
    instructed = client.chat.completions.create(
        model=POLICY, messages=[{"role": "system", "content": "buy"}, {"role": "user", "content": "milk"}], max_tokens=1
    )
    plain = client.chat.completions.create(model=POLICY, messages=message("buy\nmilk"), max_tokens=1)
    assert instructed.usage.prompt_tokens == plain.usage.prompt_tokens


def test_unknown_paths_and_methods_have_openais_errors_too(http):
    refused(http.get("/v1/nothing"), 404)
    refused(http.get("/v1/act"), 405)


def test_health_and_description_need_no_token_and_everything_else_does(url):
    with httpx.Client(base_url=url) as stranger:
        assert stranger.get("/health").json() == {"status": "ok", "policy_version": "digi_q"}
        assert stranger.get("/ready").status_code == 200
        assert stranger.get("/docs").status_code == 200
        paths = stranger.get("/openapi.json").json()["paths"]
        for path, operations in paths.items():
            if path in ("/health", "/ready"):
                continue
            for method in operations:
                answer = stranger.request(method, path.replace("{name}", POLICY), json={})
                refused(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"])
def test_nothing_but_a_whole_bearer_token_passes(url, header):
    with httpx.Client(base_url=url) as stranger:
        refused(stranger.get("/v1/models", headers={"authorization": header}), 401)


def test_each_of_several_tokens_passes(url):
    with httpx.Client(base_url=url) as known:
        answer = known.get("/v1/models", headers={"authorization": "bearer another-token-of-the-tests"})
        assert answer.status_code == 200


def test_what_takes_too_long_is_504_and_is_given_up():
    arguments, policy = ServeArguments(model="held", limits=Limits(deadline_seconds=0.2)), HeldPolicy()
    with served(arguments, [], policy) as address, httpx.Client(base_url=address, timeout=30) as http:
        asked = {"model": POLICY, "messages": message("hi")}
        assert refused(http.post("/v1/chat/completions", json=asked), 504)["code"] == "deadline_exceeded"
        streamed = http.post("/v1/chat/completions", json={**asked, "stream": True})
        assert "deadline_exceeded" in streamed.text
        assert "[DONE]" not in streamed.text
        assert (policy.left, policy.waiting) == (2, 0)


def test_more_than_may_be_under_way_is_429_until_a_caller_goes_away():
    arguments, policy = ServeArguments(model="held", limits=Limits(in_flight=1)), HeldPolicy()
    with served(arguments, [], policy) as address, httpx.Client(base_url=address, timeout=30) as http:
        asked = {"model": POLICY, "messages": message("hi"), "stream": True}
        with http.stream("POST", "/v1/chat/completions", json=asked) as long:
            chunks = long.iter_bytes()
            assert b"back" in next(chunks)
            second = http.get("/v1/models")
            assert refused(second, 429)["code"] == "overloaded"
            assert second.headers["retry-after"]
            assert http.get("/health").status_code == 200
        until(lambda: policy.left == 1, "the end of a request whose caller went away")
        until(lambda: http.get("/v1/models").status_code == 200, "the next request")


def test_a_server_whose_model_does_not_answer_lives_but_is_not_ready():
    policy = HeldPolicy()
    policy.gate.set()
    with served(ServeArguments(model="held"), [], policy) as address, httpx.Client(base_url=address) as http:
        assert http.get("/health").status_code == 200
        refused(http.get("/ready"), 503)


def test_without_tokens_only_this_machine_by_its_own_name_is_answered():
    with served(ServeArguments(model="tiny"), []) as address, httpx.Client(base_url=address) as http:
        assert http.get("/v1/models").status_code == 200
        assert http.get("/v1/models", headers={"host": "localhost:1"}).status_code == 200
        refused(http.get("/v1/models", headers={"host": "rebound.example"}), 403)


def test_base64_embeddings_are_little_endian_floats(http):
    answer = http.post("/v1/embeddings", json={"model": FEATURES, "input": STATE, "encoding_format": "base64"}).json()
    numbers = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), dtype="<f4")
    assert numbers.shape == (96,)
    assert np.isfinite(numbers).all()
