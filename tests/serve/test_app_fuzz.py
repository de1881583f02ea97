"""The OpenAPI page as a contract: requests made from it, right and wrong ones, never make the server fail."""

from __future__ import annotations

import json

import pytest
import schemathesis
from app_testing import TOKEN, make_run, picture, served, uri
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from digiq_ray.core.errors import InputError
from digiq_ray.vlm.images import decode
from serve.app.errors import ApiError
from serve.app.images import read_image
from serve.app.settings import Limits, ServeArguments

CHECKS = (not_a_server_error, status_code_conformance, response_schema_conformance)
BOUNDED = settings(max_examples=40, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
OPERATIONS = (
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/act"),
    ("POST", "/v1/candidates"),
    ("POST", "/v1/q"),
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory):
    run = make_run(tmp_path_factory.mktemp("run") / "run")
    with served(ServeArguments(model=str(run)), [TOKEN]) as address:
        yield address


@pytest.fixture(scope="module")
def page(url):
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_operation_of_the_page_is_tried_below(page):
    found = {(one.ok().method.upper(), one.ok().path) for one in page.get_all_operations()}
    assert found == set(OPERATIONS)


def reaching(body, path: str):
    """``body`` with a real picture and the endpoint's model wherever it has any: what is behind the first check."""
    if isinstance(body, list):
        return [reaching(one, path) for one in body]
    if not isinstance(body, dict):
        return body
    model = "digiq-features" if path.endswith("embeddings") else "digiq-policy"
    known = {"image": uri(picture()), "url": uri(picture()), "model": model}
    return {name: known.get(name, reaching(value, path)) for name, value in body.items()}


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_nothing_that_the_page_allows_or_forbids_makes_the_server_fail(page, method, path, mode):
    statuses = []

    @BOUNDED
    @given(case=page[path][method].as_strategy(generation_mode=mode), deep=st.booleans())
    def ask(case, deep):
        if deep and case.body:
            case.body = reaching(case.body, path)
        answer = case.call(headers={"authorization": f"Bearer {TOKEN}"})
        case.validate_response(answer, checks=CHECKS)
        statuses.append(answer.status_code)

    try:
        ask()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # there is nothing to get wrong in it
        assert method == "GET"
    else:
        assert statuses


PICTURES = {kind: picture(kind=kind.upper()) for kind in ("png", "jpeg", "webp", "gif", "bmp")}


def outcome(data: bytes, kind: str) -> str | int:
    """``read``, or the status that a picture is refused with; anything else that it raises is a failure."""
    try:
        return "read" if decode(read_image(uri(data, f"image/{kind}"), Limits(), "image")).mode == "RGB" else "not RGB"
    except ApiError as error:
        return error.status
    except InputError:
        return 400


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(PICTURES)),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    keep=st.floats(0.05, 1),
)
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(kind, cuts, keep):
    data = bytearray(PICTURES[kind])
    for where, value in cuts:
        data[int(where * (len(data) - 1))] = value
    data = data[: int(keep * len(data))]
    assert outcome(bytes(data), kind) in ("read", 400, 413)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=100))
def test_any_text_for_an_image_is_refused(text):
    with pytest.raises(ApiError) as raised:
        read_image(text, Limits(), "image")
    assert raised.value.status == 400
    json.dumps(raised.value.message)
