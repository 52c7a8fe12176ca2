"""The served OpenAPI document is true: whatever is asked along its lines, a running server answers as it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving import (
    APPLIED,
    CREATED,
    PATIENCE,
    PROBLEM_JSON,
    SITE,
    NewServer,
    Serving,
    applied,
    created,
    fixture,
    ndjson,
    wrapped,
)
from tests.signing import APP, coupon_event, public_pem, webhook
from tests.stores import tried

EXAMPLES = 40
OPERATIONS = [
    ("POST", "/v1/webhooks/wix"),
    ("POST", "/v1/velo/{handler}"),
    ("POST", "/v1/sdk/events"),
    ("POST", "/v1/events"),
    ("GET", "/v1/events/stream"),
    ("GET", "/v1/coupons"),
    ("GET", "/v1/coupons/{coupon_id}"),
    ("GET", "/v1/coupons/{coupon_id}/history"),
    ("GET", "/v1/usage"),
    ("GET", "/v1/reports"),
    ("GET", "/v1/reports/{name}"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]
CHECKED = [
    HealthCheck.too_slow,
    HealthCheck.filter_too_much,
    HealthCheck.data_too_large,
    HealthCheck.large_base_example,
]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@schemathesis.serializer("application/x-ndjson")
def as_lines(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """What schemathesis made up for a batch, as its bytes; what is not text is a line of JSON."""
    return value.encode(errors="surrogatepass") if isinstance(value, str) else json.dumps(value).encode() + b"\n"


@pytest.fixture(scope="module")
def server(new_server: NewServer) -> Iterator[Serving]:
    many = {"EVENTSTORE_AUTH_FAILURES_PER_MINUTE": "1000000"}
    with new_server(**many) as running:
        add = ("app", "add", "--name", APP, "--instance", SITE, "--key-file", "-")
        assert running.run(*add, given=public_pem().encode()).returncode == 0
        with running.client() as client:
            client.post(
                "/v1/events", content=ndjson(wrapped(CREATED, created("one")), wrapped(APPLIED, applied("u", "o")))
            )
        yield running
        assert "Traceback" not in running.stderr


@pytest.fixture(scope="module")
def document(server: Serving) -> dict[str, Any]:
    """The document as it is served, without a token."""
    found: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").json()
    return found


@pytest.fixture(scope="module")
def schema(server: Serving) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=SchemathesisConfig.from_dict({}))


def test_the_document_lists_every_route(document: dict[str, Any]) -> None:
    found = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert found == set(OPERATIONS)


CASES = [
    pytest.param(*operation, mode, id=f"{' '.join(operation)} {name}")
    for operation in OPERATIONS
    for name, mode in (("fitting", GenerationMode.POSITIVE), ("faulty", GenerationMode.NEGATIVE))
    # Of the health checks nothing can be asked wrongly; a stream has no end to wait for: test_stream.py asks it.
    if (operation[1] not in ("/healthz", "/readyz", "/metrics") or name == "fitting")
    and operation[1] != "/v1/events/stream"
]


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_every_answer_is_one_that_the_document_describes(
    server: Serving, schema: schemathesis.BaseSchema, dialect: str, method: str, path: str, mode: GenerationMode
) -> None:
    headers = {"Authorization": f"Bearer {server.token}"}
    operation: APIOperation[Any, Any, Any, Any] = schema[path][method]

    @settings(
        tried(EXAMPLES, dialect), database=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=CHECKED
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        answer = case.call(headers=headers, timeout=PATIENCE)
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == [PROBLEM_JSON]
            assert answer.json()["status"] == answer.status_code

    ask()


def test_the_answer_to_a_delivery_kept_in_quarantine_is_as_the_document_says(
    server: Serving, schema: schemathesis.BaseSchema
) -> None:
    with server.client() as client:
        answer = client.post("/v1/sdk/events", json={"another": "shape"})
    assert answer.json()["outcome"] == "quarantined"
    schema["/v1/sdk/events"]["POST"].validate_response(answer)


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
def test_a_request_without_a_token_is_answered_as_the_document_says(
    server: Serving, document: dict[str, Any], method: str, path: str
) -> None:
    url = server.url + path.format(handler=CREATED, coupon_id="c-1", name="usage-per-coupon")
    answer = httpx.request(method, url, content=b"" if method == "POST" else None, timeout=PATIENCE)
    described = document["paths"][path][method.lower()]["responses"]
    assert str(answer.status_code) in described
    assert answer.headers["content-type"] in described[str(answer.status_code)]["content"]


def test_sound_deliveries_by_every_door_are_answered_as_the_document_says(
    server: Serving, schema: schemathesis.BaseSchema
) -> None:
    bodies = {
        "/v1/webhooks/wix": webhook(coupon_event("signed")),
        "/v1/velo/{handler}": json.dumps(created("by-velo")).encode(),
        "/v1/sdk/events": fixture("sdk_loyalty_coupon_created.json"),
        "/v1/events": ndjson(wrapped(CREATED, created("in-a-batch"))),
    }
    for path, body in bodies.items():
        with server.client() as client:
            answer = client.post(path.format(handler=CREATED), content=body, headers={"content-type": "text/plain"})
        assert answer.status_code == 200
        schema[path]["POST"].validate_response(answer)
