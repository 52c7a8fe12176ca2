"""The signature on a REST webhook: a compact JWT, RS256 and nothing else (DOMAIN §1).

The token is taken apart here, strictly: one spelling for each token, so that the bytes kept are the only ones that verify.
The signature itself is PyJWT's work. PyJWT could take the token apart too, but looks at each character in Python: 150 µs of
the 20 that verifying takes.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode, b64encode, urlsafe_b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from eventstore.errors import InputError, NotGenuine, UnreadableDelivery
from eventstore.wix.decode import decode

LEEWAY: Final = 30.0
"""Seconds that Wix's clock and ours may differ by."""
MAX_LIFETIME: Final = 400 * 86_400.0
"""Seconds from now that a token may claim to live. Wix's own live for minutes to weeks; one that never ends is no webhook's."""
MIN_KEY_BITS: Final = 2_048

_RS256: Final = RSAAlgorithm(RSAAlgorithm.SHA256)
_NEVER_MEANT: Final = frozenset(("crit", "b64", "zip"))
"""Header parameters that change what is signed or how it is read; a webhook has none of them."""
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/=\s]+")
_MAX_HEADER: Final = 4_096
_MAX_KEY_TEXT: Final = 16_384


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that a Wix app's webhooks are verified with. `key_id` is the SHA-256 of its DER form, in hexadecimal."""

    key_id: str
    pem: str
    key: RSAPublicKey


@lru_cache(maxsize=1_024)
def read_public_key(text: str) -> PublicKey:
    r"""The RSA public key in a text: PEM, base64 of PEM, or PEM whose line ends are written `\n`. Raises InputError."""
    pem = _pem(text.strip())
    if "PRIVATE KEY" in pem:
        raise InputError(
            "this is a private key; give the app's public key, as its webhooks page in the dashboard shows"
        )
    try:
        key = _RS256.prepare_key(pem)
    except (InvalidKeyError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError("not an RSA public key in PEM, base64 of PEM, or PEM with \\n for line ends") from error
    if not isinstance(key, RSAPublicKey):
        raise InputError("not a public key; give the app's public key, as its webhooks page in the dashboard shows")
    if key.key_size < MIN_KEY_BITS:
        raise InputError(f"an RSA key of {key.key_size} bits; Wix's have {MIN_KEY_BITS}, shorter ones can be forged")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    plain = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return PublicKey(sha256(der).hexdigest(), plain, key)


def _pem(text: str) -> str:
    if len(text) > _MAX_KEY_TEXT:
        raise InputError(f"a key of {len(text)} characters is none")
    if not text.startswith("-----"):
        compact = text.encode(errors="replace")
        if not _BASE64.fullmatch(compact):
            raise InputError("not a key: neither PEM (-----BEGIN PUBLIC KEY-----) nor base64 of PEM")
        try:
            text = b64decode(b"".join(compact.split()), validate=True).decode().strip()
        except ValueError as error:
            raise InputError("not a key: the base64 does not decode to PEM; is it cut short?") from error
    return text.replace("\\r", "").replace("\\n", "\n")


def verify(token: bytes, keys: Iterable[PublicKey]) -> tuple[dict[str, Any], PublicKey]:
    """The claims of a token and the key that it is signed with.

    Raises UnreadableDelivery (`malformed`) for what is no JWT, and NotGenuine for one that none of the keys signed or
    whose header asks for anything but RS256. Whether it is still valid is for `check_times` to say.
    """
    signed, _, signature_text = token.rpartition(b".")
    header, dot, payload = signed.partition(b".")
    if not is_jwt(token) or not dot or not payload:
        raise _malformed("three parts in base64url, joined by dots, are expected")
    _check_header(header)
    signature = _decoded(signature_text, "signature")
    # A lenient decoder has many spellings for one signature; only one is the token that Wix sent.
    if _plain_base64(signature) != signature_text:
        raise NotGenuine("the signature is not in plain base64url; bytes were added or changed", "signature")
    for key in keys:
        if _RS256.verify(signed, key.key, signature):
            return _json_object(payload, "payload"), key
    raise NotGenuine("no active key of a registered app has signed this webhook (`eventstore app list`)", "signature")


def is_jwt(body: bytes) -> bool:
    """Whether a body looks like a compact JWT rather than JSON: for telling how kept bytes are to be read."""
    return body.startswith(b"e") and body.count(b".") == 2  # as every object in base64 does, and nothing in JSON


def unverified(token: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token as they stand, for people to look at. Nothing about them is proved.

    Raises UnreadableDelivery.
    """
    header, _, rest = token.partition(b".")
    return _json_object(header, "header"), _json_object(rest.partition(b".")[0], "payload")


def check_times(claims: dict[str, Any], at: datetime) -> None:
    """Raise NotGenuine unless the token was valid at the time `at`: `exp`, `nbf` and `iat` with LEEWAY."""
    now = at.timestamp()
    expires = _seconds(claims, "exp")
    if expires is None:
        raise NotGenuine("the webhook has no exp; Wix's say when they end", "claims")
    if expires <= now - LEEWAY:
        raise NotGenuine(f"the webhook expired {now - expires:,.0f} s ago", "expired")
    if expires > now + MAX_LIFETIME:
        raise NotGenuine("the webhook's exp lies further ahead than any of Wix's", "claims")
    for name in ("nbf", "iat"):
        begins = _seconds(claims, name)
        if begins is not None and begins > now + LEEWAY:
            raise NotGenuine(
                f"the webhook's {name} lies {begins - now:,.0f} s ahead; is this machine's clock right?", "early"
            )


def _seconds(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # Compared as given first: a whole number of a thousand digits has no float.
    if type(value) not in (int, float) or not -1e15 < value < 1e15:
        raise NotGenuine(f"the webhook's {name} is no time in seconds", "claims")
    return float(value)


@lru_cache(maxsize=64)
def _check_header(segment: bytes) -> None:
    """Wix's headers are few, so that one seen before need not be read again."""
    if len(segment) > _MAX_HEADER:
        raise _malformed(f"its header is longer than {_MAX_HEADER} bytes")
    header = _json_object(segment, "header")
    if header.get("alg") != "RS256":
        raise NotGenuine("the webhook is not signed with RS256, the one algorithm that Wix uses", "algorithm")
    if meant := _NEVER_MEANT & header.keys():
        raise NotGenuine(f"the webhook's header has {min(meant)}, which Wix's have not", "algorithm")


def _json_object(segment: bytes, name: str) -> dict[str, Any]:
    """The JSON object in a part of the token, by the rules of every other delivery, and each name in it once."""
    text = _decoded(segment, name)
    # Of a lenient decoder's many spellings only one is the one that was meant.
    if _plain_base64(text) != segment:
        raise _malformed(f"its {name} is not in plain base64url")
    try:
        found = decode(text)
        # What is written back as it was read says each thing once, and needs no second, slower look.
        if orjson.dumps(found) != text:
            json.loads(text, object_pairs_hook=_each_once)
    except (UnreadableDelivery, ValueError, RecursionError) as error:
        _require_times(text)
        raise _malformed(f"its {name} is not a JSON object that says each thing once") from error
    return found


def _require_times(text: bytes) -> None:
    """Of an object that cannot be read for a number that no one can hold, say so if that is one of its times."""
    try:
        found = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return
    for name in ("exp", "nbf", "iat"):
        if isinstance(found, dict):
            _seconds(found, name)


def _decoded(segment: bytes, name: str) -> bytes:
    try:
        return urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except (binascii.Error, ValueError) as error:
        raise _malformed(f"its {name} is not base64url") from error


def _plain_base64(raw: bytes) -> bytes:
    return b64encode(raw, altchars=b"-_").rstrip(b"=")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of a name that stands twice, two readers may take different ones.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _malformed(why: str) -> UnreadableDelivery:
    return UnreadableDelivery(f"the body is not a JWT as Wix sends it: {why}", malformed=True)
