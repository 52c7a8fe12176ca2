"""Whatever bytes are posted as a webhook: accepted only if they are a signed token's own, refused in a documented way if not."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jwt as pyjwt
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.apps import add_app
from eventstore.errors import EventStoreError, InputError, NotGenuine, UnknownInstance, UnreadableDelivery
from eventstore.log.records import Prepared, Rejected
from eventstore.store import EventStore
from eventstore.webhooks import Registry, Webhooks, entries
from eventstore.wix.jwt import read_public_key, verify
from tests.serving import DATA, INDEX, SITE
from tests.signing import (
    APP,
    HEADER,
    OTHER_APP,
    base64_of_pem,
    claims,
    coupon_event,
    envelope,
    private_pem,
    public_pem,
    rs256,
    segment,
    signed,
    webhook,
)
from tests.stores import OpenStore, SqliteStores
from tests.unit.test_wix_total import mutate, texts, values

REFUSALS = (UnreadableDelivery, NotGenuine, UnknownInstance)
BODIES = {
    each["file"]: json.loads((DATA / each["file"]).read_text("utf-8"))
    for each in INDEX["deliveries"]
    if each["route"] == "rest"
}
KEY = read_public_key(public_pem())


@pytest.fixture(scope="module")
def webhooks(sqlite_stores: SqliteStores) -> Iterator[Webhooks]:
    """Reads webhooks; of the store it reads only the apps, once: one engine will do."""
    with sqlite_stores.new() as url, EventStore.open(url) as store:
        for name, site in ((APP, SITE), (OTHER_APP, "another site")):
            add_app(store.engine, name=name, key=public_pem(name), instances=[site])
        reader = Webhooks(store.engine)
        reader.refresh()
        yield reader
        assert store.head() == 0


@cache
def tokens() -> list[bytes]:
    """Valid tokens of both apps."""
    made = [webhook(coupon_event(f"e-{number}", f"c-{number}")) for number in range(3)]
    return [*made, webhook(coupon_event("e-other"), key=OTHER_APP, instance="another site")]


# Altered tokens

places = st.integers(0, 2_000)
bytes_of_tokens = st.sampled_from(sorted(b"AZaz09-_.=+/ \n\0\xe9")) | st.integers(0, 255)


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """A valid token after a few changes; they may undo each other."""
    token = bytearray(draw(st.sampled_from(tokens())))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(places) % (len(token) + 1)
        action = draw(st.sampled_from(("flip", "insert", "delete", "splice", "swap", "cut", "double")))
        if action == "flip" and at < len(token):
            token[at] ^= 1 << draw(st.integers(0, 7))
        elif action == "insert":
            token[at:at] = bytes(draw(st.lists(bytes_of_tokens, min_size=1, max_size=4)))
        elif action == "delete":
            del token[at : at + draw(st.integers(1, 4))]
        elif action == "splice":
            token[at:] = draw(st.sampled_from(tokens()))[at:]
        elif action == "cut":
            del token[at:]
        elif action == "double":
            token[at:at] = token[at : at + draw(st.integers(1, 400))]
        else:
            parts = bytes(token).split(b".")
            others = draw(st.sampled_from(tokens())).split(b".")
            place = draw(st.integers(0, 2))
            if place < len(parts):
                parts[place] = others[draw(st.integers(0, 2))]
            token = bytearray(b".".join(parts))
    return bytes(token)


@settings(max_examples=500)
@given(altered())
def test_an_altered_token_is_refused_unless_it_is_a_signed_one_again(webhooks: Webhooks, token: bytes) -> None:
    try:
        found: list[Prepared | Rejected] | EventStoreError = webhooks.receive(token)
    except REFUSALS as error:
        found = error
    if isinstance(found, EventStoreError):
        assert token not in tokens()
        assert 0 < len(str(found)) < 500
    else:
        assert token in tokens()
        assert [type(each) for each in found] == [Prepared]


@settings(max_examples=100)
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode) | st.binary(max_size=60).map(segment))
def test_any_bytes_are_refused(webhooks: Webhooks, body: bytes) -> None:
    with pytest.raises(REFUSALS):
        webhooks.receive(body)


# What a signer could sign

json_texts = values.map(json.dumps).map(str.encode)
headers = st.one_of(
    st.just(HEADER),
    st.fixed_dictionaries(
        {"alg": st.just("RS256") | st.sampled_from(["none", "HS256", "RS512", None])},
        optional={"typ": values, "kid": texts, "crit": values, "b64": values, "cty": texts, "jwk": values},
    ),
)
payloads = st.one_of(
    st.dictionaries(st.sampled_from(["data", "exp", "iat", "nbf", "iss", "aud", "sub", "jti"]), values, max_size=4).map(
        lambda found: json.dumps(found).encode()
    ),
    json_texts,
    st.sampled_from(
        [
            b"{}",
            b'{"exp":1,"exp":2}',
            b'{"a":NaN}',
            b'{"a":"\xff"}',
            b'{"a":1e999}',
            b'{"a":"\\ud800"}',
            b"\xef\xbb\xbf{}",
        ]
    ),
    st.binary(max_size=20),
)
behind = st.sampled_from([b"", b"", b"=", b"==", b"\n", b" ", b"A", b"AAAA", b"\xc3\xa9", b"\0", b"."])


@st.composite
def well_signed(draw: st.DrawFn) -> bytes:
    """A token whose signature holds for whatever stands before it; mostly nothing stands behind it."""
    header = draw(headers.map(lambda found: json.dumps(found).encode()) | json_texts)
    message = segment(header) + b"." + segment(draw(payloads))
    return message + b"." + segment(rs256(message)) + draw(behind)


def accepted_by_pyjwt(token: bytes) -> dict[str, Any]:
    options: Any = {
        "verify_signature": True,
        **{f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")},
    }
    found: dict[str, Any] = pyjwt.decode(token, public_pem(), algorithms=["RS256"], options=options)
    return found


def token_text(token: bytes) -> bytes:
    payload = token.split(b".")[1]
    return urlsafe_b64decode(payload + b"=" * (-len(payload) % 4))


@settings(max_examples=200)
@given(well_signed() | altered())
def test_what_is_accepted_here_is_accepted_by_pyjwt_with_equal_claims(token: bytes) -> None:
    try:
        found, key = verify(token, [KEY])
    except (UnreadableDelivery, NotGenuine):
        return
    assert key is KEY
    # A whole number past 64 bits is one of 53 bits here, as everywhere in the store.
    assert repr(accepted_by_pyjwt(token)) == repr(found) or orjson.loads(token_text(token)) == found


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("spelt", [b"=%s", b"%s=", b"%s==", b"\n%s", b"%s ", b"%s\0", b"!%s", b"\xe9%s", b"%s,%s"])
def test_a_part_that_is_not_plain_base64url_is_refused_though_the_app_has_signed_it(place: int, spelt: bytes) -> None:
    parts = [segment(HEADER), segment(claims(envelope(coupon_event("odd"))))]
    parts[place] = spelt.replace(b"%s", parts[place], 1).replace(b"%s", b"")
    message = b".".join(parts)
    with pytest.raises((UnreadableDelivery, NotGenuine)):
        verify(message + b"." + segment(rs256(message)), [KEY])


def test_a_header_is_read_to_its_end() -> None:
    header = json.dumps(HEADER).encode().ljust(3_072) + b', "crit": ["exp"]}'
    with pytest.raises((UnreadableDelivery, NotGenuine)):
        verify(signed(claims(envelope(coupon_event("long"))), header=header), [KEY])


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(["exp", "iat", "nbf"]), values | st.floats() | st.integers(), max_size=3))
def test_any_times_are_valid_ones_or_refused(webhooks: Webhooks, times: dict[str, Any]) -> None:
    token = signed({"data": json.dumps(envelope(coupon_event("timed"))), **times})
    try:
        webhooks.receive(token)
    except (NotGenuine, UnreadableDelivery):
        return
    now = datetime.now(UTC).timestamp()
    assert type(times["exp"]) in (int, float)
    assert now - 40 < times["exp"] < now + 401 * 86_400
    assert all(times[name] is None or times[name] < now + 40 for name in ("iat", "nbf") if name in times)


# What stands inside


@st.composite
def signed_claims(draw: st.DrawFn) -> dict[str, Any]:
    """Claims around a documented event with a few faults at any depth, each level a text or an object."""
    event = deepcopy(BODIES[draw(st.sampled_from(sorted(BODIES)))])
    for _ in range(draw(st.integers(0, 2))):
        mutate(draw, event)
    identity = deepcopy(draw(values | st.just('{"identityType":"MEMBER","memberId":"m"}')))
    told: Any = envelope("", identity=identity, accountInfo={})
    told["data"] = json.dumps(event) if draw(st.booleans()) else event
    for _ in range(draw(st.integers(0, 2))):
        mutate(draw, told)
    found = claims("")
    found["data"] = json.dumps(told) if draw(st.booleans()) else told
    if draw(st.integers(0, 9)) == 0:
        found["data"] = deepcopy(draw(values))
    return found


@settings(max_examples=233)
@given(signed_claims())
def test_any_signed_content_is_an_event_or_kept_in_quarantine(webhooks: Webhooks, told: dict[str, Any]) -> None:
    token = signed(told)
    registry: Registry = webhooks._registry
    found = registry.verify(token)
    [entry] = entries(found)
    assert isinstance(entry, Prepared | Rejected)
    if isinstance(entry, Rejected):
        assert entry.body == token
        assert 0 < len(entry.reason) < 1_000
    # By whichever door it comes, the site that is admitted is the site that it is filed under.
    assert entry.site_id == (found.instance_id or "unknown")


@pytest.mark.parametrize("body", [{"newField": "\ud800"}, {"newField": ["\udfff"]}])
@pytest.mark.parametrize("fqdn", ["wix.ecommerce.coupons.v2.coupon", "wix.another.family"])
def test_a_text_that_is_no_unicode_in_claims_of_objects_is_refused_or_kept_in_quarantine(
    webhooks: Webhooks, body: dict[str, Any], fqdn: str
) -> None:
    event = coupon_event("surrogate", entityFqdn=fqdn, createdEvent={"entity": {"id": "c-1", **body}})
    told = {**claims(""), "data": {**envelope(""), "data": event}}
    try:
        found = webhooks.receive(signed(told))
    except UnreadableDelivery:
        return
    assert [type(each) for each in found] == [Rejected]


@settings(max_examples=40)
@given(signed_claims())
def test_any_signed_content_is_durable_or_refused_for_its_instance(fuzzed: EventStore, told: dict[str, Any]) -> None:
    try:
        outcome = fuzzed.receive_webhook(signed(told))
    except UnknownInstance:
        return
    assert outcome.kind in ("appended", "duplicate", "conflict", "quarantined")
    if outcome.kind == "appended":
        assert outcome.position is not None
        assert fuzzed.check_signature(outcome.position)[:2] == (True, True)


@pytest.fixture(scope="module")
def fuzzed(new_store: OpenStore) -> Iterator[EventStore]:
    with new_store() as store:
        add_app(store.engine, name=APP, key=public_pem(), instances=[SITE])
        yield store


# Keys


@settings(max_examples=100)
@given(
    st.text(max_size=200)
    | st.binary(max_size=200).map(lambda found: b64encode(found).decode())
    | st.text(max_size=80).map(lambda found: f"-----BEGIN PUBLIC KEY-----\n{found}\n-----END PUBLIC KEY-----")
    | st.binary(max_size=80).map(
        lambda found: f"-----BEGIN PUBLIC KEY-----\n{b64encode(found).decode()}\n-----END PUBLIC KEY-----"
    )
)
def test_any_text_is_a_key_or_an_input_error(text: str) -> None:
    with pytest.raises(InputError) as error:
        read_public_key(text)
    assert 0 < len(str(error.value)) < 300


@settings(max_examples=100)
@given(st.data())
def test_a_key_with_a_fault_is_the_key_or_an_input_error(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([public_pem(), base64_of_pem(), public_pem().replace("\n", "\\n")]))
    at = data.draw(st.integers(0, len(text)))
    end = at + data.draw(st.integers(0, 5))
    changed = text[:at] + data.draw(st.text("AZaz09+/=-\\nr \n\0é", max_size=4)) + text[end:]
    try:
        found = read_public_key(changed)
    except InputError:
        return
    assert read_public_key(found.pem).key_id == found.key_id
    assert found.key.key_size >= 2_048


@pytest.mark.parametrize("around", ["", "\n", "  ", "\r\n", "\t\n "])
def test_every_spelling_of_a_key_is_one_key(around: str) -> None:
    pem = public_pem()
    folded = "\n".join(base64_of_pem()[at : at + 76] for at in range(0, len(base64_of_pem()), 76))
    spellings = {
        "PEM": pem,
        "PEM without its last line end": pem.strip(),
        "PEM with CRLF": pem.replace("\n", "\r\n"),
        "PEM with written line ends": pem.replace("\n", "\\n"),
        "PEM with written CRLF": pem.replace("\n", "\\r\\n"),
        "base64 of PEM": base64_of_pem(),
        "folded base64 of PEM": folded,
        "base64 of PEM with CRLF": b64encode(pem.replace("\n", "\r\n").encode()).decode(),
        "base64 of stripped PEM": b64encode(pem.strip().encode()).decode(),
        "base64 of PEM with written line ends": b64encode(pem.replace("\n", "\\n").encode()).decode(),
    }
    found = {name: read_public_key(around + text + around).key_id for name, text in spellings.items()}
    assert set(found.values()) == {KEY.key_id}, found


@pytest.mark.parametrize(
    "text",
    [
        private_pem(),
        b64encode(private_pem().encode()).decode(),
        public_pem("short", 1_024),
        "",
        "-----BEGIN PUBLIC KEY-----",
        public_pem()[:-60],
        base64_of_pem()[:-40],
        "A" * 20_000,
    ],
    ids=["private", "base64 of private", "1024 bits", "empty", "only a first line", "cut", "base64 cut", "long"],
)
def test_what_is_no_public_key_of_an_app_is_an_input_error_that_does_not_quote_it(text: str) -> None:
    with pytest.raises(InputError) as error:
        read_public_key(text)
    assert not [line for line in text.splitlines() if len(line) > 40 and line in str(error.value)]
