"""Forgeries of webhooks, each made anew when it is called for: from the token that one call of `token` gives."""

from __future__ import annotations

import hmac
import json
import time
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable
from functools import partial
from typing import Any

import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.serving import SITE
from tests.signing import (
    HEADER,
    OTHER_APP,
    STRANGER,
    claims,
    coupon_event,
    envelope,
    private_key,
    private_pem,
    public_pem,
    rs256,
    segment,
    signed,
    webhook,
)

OTHER_SITE = "b1b2b3b4-0000-4000-8000-000000000002"
SECRET = "zanzibar"
"""A word in every event here, which no answer and no line of the log may repeat."""
URLSAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def event(event_id: str = "genuine", **fields: Any) -> dict[str, Any]:
    return coupon_event(event_id, f"coupon-{SECRET}", originatedFrom=SECRET, **fields)


def token(event_id: str = "genuine", **how: Any) -> bytes:
    return webhook(event(event_id), **how)


def genuine_claims(**times: Any) -> dict[str, Any]:
    return claims(envelope(event()), **times)


def parts(event_id: str = "genuine", **how: Any) -> list[bytes]:
    return token(event_id, **how).split(b".")


def pyjwt_signed(algorithm: str, key: Any) -> bytes:
    return pyjwt.encode(genuine_claims(), key, algorithm=algorithm).encode()


def hs256(secret: bytes, header: dict[str, str] | None = None) -> bytes:
    message = segment(header or {"alg": "HS256", "typ": "JWT"}) + b"." + segment(genuine_claims())
    return message + b"." + segment(hmac.digest(secret, message, "sha256"))


def relabelled(algorithm: str, key: Any) -> bytes:
    """Another algorithm's signature over a header that says RS256."""
    message = segment(HEADER) + b"." + segment(genuine_claims())
    return message + b"." + segment(pyjwt.get_algorithm_by_name(algorithm).sign(message, key))


def unsigned(algorithm: Any, signature: bytes = b"") -> bytes:
    return segment({"alg": algorithm, "typ": "JWT"}) + b"." + segment(genuine_claims()) + b"." + signature


def raw_claims(old: str, new: str) -> bytes:
    """Signed claims in which a text was replaced by one that no encoder would write."""
    sound = json.dumps(genuine_claims())
    assert old in sound
    return signed(sound.replace(old, new, 1).encode())


def raw_header(text: str) -> bytes:
    return signed(genuine_claims(), header=text.encode())


def with_expiry(value: Any) -> bytes:
    return signed({**genuine_claims(), "exp": value})


def sibling(part: bytes, spare_bits: int) -> bytes:
    """The same bytes in base64url with another last character: its spare bits are not zero."""
    place = URLSAFE.index(chr(part[-1]))
    assert place % 2**spare_bits == 0
    other = part[:-1] + URLSAFE[place + 1].encode()
    assert urlsafe_b64decode(other + b"==") == urlsafe_b64decode(part + b"==")
    return other


def in_signature(change: Callable[[bytes], bytes]) -> bytes:
    header, payload, signature = parts()
    return b".".join([header, payload, change(signature)])


def embedded(name: str) -> dict[str, Any]:
    """A header that brings, or points at, the key of a stranger."""
    numbers = private_key(STRANGER).public_key().public_numbers()
    jwk = {"kty": "RSA", "n": segment(numbers.n.to_bytes(256, "big")).decode(), "e": "AQAB"}
    brought: dict[str, Any] = {
        "jwk": jwk,
        "x5c": [b64encode(public_pem(STRANGER).encode()).decode()],
        "jku": "https://keys.example/jwks.json",
        "x5u": "https://keys.example/key.pem",
        "kid": "../../../dev/null",
    }
    return {**HEADER, name: brought[name]}


def brought(name: str) -> bytes:
    """A token signed by a stranger, whose key its header brings."""
    return token(header=embedded(name), key=STRANGER)


NOW = time.time
ELLIPTIC = ec.generate_private_key(ec.SECP256R1())
POINTERS = ("jwk", "x5c", "jku", "x5u", "kid")
Forgery = Callable[[], bytes]

WRONG_ALGORITHM: dict[str, Forgery] = {
    "alg none": lambda: unsigned("none"),
    "alg none under the app's signature": lambda: signed(genuine_claims(), header={"alg": "none"}),
    "alg none under another token's signature": lambda: unsigned("none", parts()[2]),
    "alg None": lambda: unsigned("None"),
    "alg nOnE": lambda: unsigned("nOnE"),
    "no alg": lambda: signed(genuine_claims(), header={"typ": "JWT"}),
    "an empty header": lambda: signed(genuine_claims(), header={}),
    "alg null": lambda: signed(genuine_claims(), header={"alg": None}),
    "alg as a list": lambda: signed(genuine_claims(), header={"alg": ["RS256"]}),
    "alg true": lambda: signed(genuine_claims(), header={"alg": True}),
    "alg in small letters": lambda: signed(genuine_claims(), header={"alg": "rs256"}),
    "alg with a blank": lambda: signed(genuine_claims(), header={"alg": "RS256 "}),
    "HS256 with the public key as the secret": lambda: hs256(public_pem().encode()),
    "HS256 with the public key, stripped": lambda: hs256(public_pem().strip().encode()),
    "HS256 with the public key's DER": lambda: hs256(
        private_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ),
    "HS256 with an empty secret": lambda: hs256(b""),
    "RS384": lambda: pyjwt_signed("RS384", private_pem()),
    "RS512": lambda: pyjwt_signed("RS512", private_pem()),
    "PS256": lambda: pyjwt_signed("PS256", private_pem()),
    "ES256": lambda: pyjwt_signed("ES256", ELLIPTIC),
    "a header that demands an extension": lambda: token(header={**HEADER, "crit": ["exp"]}),
    "a header with an empty list of demands": lambda: token(header={**HEADER, "crit": []}),
    "a payload that is not encoded": lambda: token(header={**HEADER, "b64": False}),
    "a compressed payload": lambda: token(header={**HEADER, "zip": "DEF"}),
}

WRONG_SIGNATURE: dict[str, Forgery] = {
    "a stranger's key": lambda: token(key=STRANGER),
    "a secret's signature that says RS256": lambda: hs256(public_pem().encode(), {"alg": "RS256"}),
    "RS512 that says RS256": lambda: relabelled("RS512", private_key()),
    "PS256 that says RS256": lambda: relabelled("PS256", private_key()),
    "ES256 that says RS256": lambda: relabelled("ES256", ELLIPTIC),
    "an altered payload": lambda: b".".join([parts()[0], segment(claims(envelope(event("forged")))), parts()[2]]),
    "a later expiry": lambda: b".".join([parts()[0], segment(genuine_claims(exp=int(NOW()) + 9_999)), parts()[2]]),
    "an altered header": lambda: b".".join([segment({**HEADER, "kid": "1"}), *parts()[1:]]),
    "a header in another order": lambda: b".".join([segment({"typ": "JWT", "alg": "RS256"}), *parts()[1:]]),
    "another token's header and signature": lambda: b".".join([parts()[0], parts("b")[1], parts("a")[2]]),
    "another app's payload": lambda: b".".join([parts()[0], parts(key=OTHER_APP)[1][:-4] + b"AAAA", parts()[2]]),
    "data out of another token": lambda: b".".join(
        [parts()[0], segment({**genuine_claims(), "data": claims(envelope(event("b")))["data"]}), parts("a")[2]]
    ),
    "the signature of all but the header": lambda: b".".join([*parts()[:2], segment(rs256(parts()[1]))]),
    "no signature": lambda: b".".join([*parts()[:2], b""]),
    "a signature of zeros": lambda: in_signature(lambda _: segment(bytes(256))),
    "a signature of one byte": lambda: in_signature(lambda _: b"AA"),
    "a signature twice as long": lambda: in_signature(
        lambda signature: segment(urlsafe_b64decode(signature + b"==") * 2)
    ),
    "a zero before the signature": lambda: in_signature(
        lambda signature: segment(b"\0" + urlsafe_b64decode(signature + b"=="))
    ),
    "another last character of the signature": lambda: in_signature(lambda signature: sibling(signature, 4)),
    "the signature in plain base64": lambda: in_signature(
        lambda signature: b64encode(urlsafe_b64decode(signature + b"=="))
    ),
    "padding behind the signature": lambda: token() + b"==",
    "more padding behind the signature": lambda: token() + b"====",
    "more characters behind the signature": lambda: token() + b"AAAA",
    "a line break behind it": lambda: token() + b"\n",
    "a carriage return and a line break behind it": lambda: token() + b"\r\n",
    "a blank behind it": lambda: token() + b" ",
    "a NUL behind it": lambda: token() + b"\0",
    "a comma behind it": lambda: token() + b",",
    "a line break in the signature": lambda: in_signature(lambda signature: signature[:9] + b"\n" + signature[9:]),
    "a byte over 127 in the signature": lambda: in_signature(lambda signature: signature[:9] + b"\xe9" + signature[9:]),
    "a token in UTF-16": lambda: token().decode().encode("utf-16"),
    "quotes around it": lambda: b'"' + token() + b'"',
    "a blank before it": lambda: b" " + token(),
    "a line break before it": lambda: b"\n" + token(),
    "two dots between": lambda: token().replace(b".", b"..", 1),
    "a dot behind it": lambda: token() + b".",
    "a dot before it": lambda: b"." + token(),
    **{f"a header that brings a stranger's key as {name}": partial(brought, name) for name in POINTERS},
}

WRONG_TIMES: dict[str, Forgery] = {
    "expired a minute ago": lambda: token(times={"exp": int(NOW()) - 60}),
    "expired in 1970": lambda: token(times={"exp": 0}),
    "expired before 1970": lambda: token(times={"exp": -1}),
    "not valid for an hour": lambda: token(times={"nbf": int(NOW()) + 3_600}),
    "issued in an hour": lambda: token(times={"iat": int(NOW()) + 3_600}),
    "no exp": lambda: token(times={"exp": None}),
    "exp null": lambda: with_expiry(None),
    "exp in the year 5000": lambda: with_expiry(95_617_584_000),
    "exp in milliseconds": lambda: with_expiry(int(NOW() * 1000)),
    "exp 1e30": lambda: with_expiry(1e30),
    "exp of 400 digits": lambda: with_expiry(10**400),
    "exp of minus 400 digits": lambda: with_expiry(-(10**400)),
    "exp 1e400": lambda: raw_claims('"exp": ', '"exp": 1e400, "was": '),
    "exp as text": lambda: with_expiry(str(int(NOW()) + 60)),
    "exp as a date": lambda: with_expiry("2099-01-01T00:00:00Z"),
    "exp true": lambda: with_expiry(value=True),
    "exp in a list": lambda: with_expiry([int(NOW()) + 60]),
    "exp in an object": lambda: with_expiry({"value": int(NOW()) + 60}),
    "exp empty": lambda: with_expiry(""),
    "nbf as text": lambda: token(times={"nbf": "0"}),
    "iat true": lambda: token(times={"iat": True}),
    "iat of 400 digits": lambda: token(times={"iat": 10**400}),
}

MALFORMED: dict[str, Forgery] = {
    "an empty body": lambda: b"",
    "blanks": lambda: b" \r\n",
    "a JSON body": lambda: json.dumps(event()).encode(),
    "the claims without a signature": lambda: json.dumps(genuine_claims()).encode(),
    "the token as a JSON text in an object": lambda: json.dumps({"token": token().decode()}).encode(),
    "a form": lambda: b"token=" + token().split(b".")[0],
    "dots": lambda: b"..",
    "bytes that are no text": lambda: bytes(range(128, 256)),
    "no header": lambda: b".".join([b"", *parts()[1:]]),
    "no payload": lambda: b".".join([parts()[0], b"", parts()[2]]),
    "header and signature alone": lambda: b".".join([parts()[0], parts()[2]]),
    "header and payload alone": lambda: b".".join(parts()[:2]),
    "the payload alone": lambda: parts()[1],
    "a header that is no JSON": lambda: raw_header("{"),
    "a header that is a list": lambda: raw_header('["RS256"]'),
    "a header with alg twice, the last one none": lambda: raw_header('{"alg":"RS256","alg":"none"}'),
    "a header with alg twice, the last one RS256": lambda: raw_header('{"alg":"none","alg":"RS256"}'),
    "a header over four kilobytes": lambda: raw_header(json.dumps({**HEADER, "kid": "x" * 5_000})),
    "exp twice": lambda: raw_claims('"exp": ', '"exp": 1, "exp": '),
    "exp twice under two spellings": lambda: raw_claims('"exp": ', '"\\u0065xp": 1, "exp": '),
    "data twice": lambda: raw_claims('{"data": ', '{"data": "{}", "data": '),
    "exp NaN": lambda: raw_claims('"exp": ', '"exp": NaN, "was": '),
    "exp Infinity": lambda: raw_claims('"exp": ', '"exp": Infinity, "was": '),
    "claims that are a list": lambda: signed([genuine_claims()]),
    "claims that are a text": lambda: signed("claims"),
    "claims that are null": lambda: signed(None),
    "claims that are no JSON": lambda: signed(b"{"),
    "claims that are not UTF-8": lambda: signed(b'{"data": "\xff"}'),
    "claims nested a hundred thousand deep": lambda: signed(b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "an exp of five thousand digits": lambda: raw_claims('"exp": ', '"exp": ' + "9" * 5_000 + ', "was": '),
}

WRONG_INSTANCE: dict[str, Forgery] = {
    "another app's instance, signed by this app": lambda: token(instance=OTHER_SITE),
    "this app's instance, signed by another app": lambda: token(key=OTHER_APP),
    "an instance that nobody registered": lambda: token(instance="c1c2c3c4-0000-4000-8000-000000000003"),
    "an instance that differs by a blank": lambda: token(instance=f" {SITE}"),
    "an instance that differs by its case": lambda: token(instance=SITE.upper()),
    "another app's instance in the metadata": lambda: signed(
        {**genuine_claims(), "metadata": {"instanceId": OTHER_SITE, "entityFqdn": "a", "slug": "b"}}
    ),
}

FORGERIES = [
    *((name, build, 401, "algorithm") for name, build in WRONG_ALGORITHM.items()),
    *((name, build, None, "signature") for name, build in WRONG_SIGNATURE.items()),
    *((name, build, 401, None) for name, build in WRONG_TIMES.items()),
    *((name, build, 400, None) for name, build in MALFORMED.items()),
    *((name, build, 403, None) for name, build in WRONG_INSTANCE.items()),
]
"""What it is, how it is made, the status that refuses it (None: 400 or 401), the reason that it is counted under."""
