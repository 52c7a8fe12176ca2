"""Signed webhooks for the `webhook` benchmark, made before any clock starts: signing costs more than all that is measured."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization import load_pem_private_key as load_key

from eventstore.demo import SITE_ID, documented
from tests.processes import FORKING

KEY_BITS = 2_048
SIGNERS = 2
CHUNK = 250
LIFETIME = 86_400
"""Seconds that a token is valid: longer than any run."""
_IDENTITY = json.dumps({"identityType": "WIX_USER", "wixUserId": "1b0e7a53-7f44-4d0c-9a86-8f2f6f0f7a70"})
_ACCOUNT = {"accountId": "f0f1f2f3-0000-4000-8000-000000000001", "siteId": "a1a2a3a4-0000-4000-8000-000000000002"}


def new_key() -> tuple[bytes, str]:
    """The PEM of a private key, and that of its public one."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=KEY_BITS)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), public.decode("ascii")


def write_tokens(path: Path, private_key: bytes, count: int) -> None:
    """Write `count` webhooks, each with an event of its own, one a line."""
    bodies = (orjson.dumps(delivery.body) for delivery in documented(count))
    with (
        path.open("wb") as file,
        ProcessPoolExecutor(SIGNERS, mp_context=FORKING) as pool,
    ):
        for lines in pool.map(sign, itertools.repeat(private_key), _chunks(bodies)):
            file.write(lines)


def _chunks(bodies: Iterator[bytes]) -> Iterator[list[bytes]]:
    while chunk := list(itertools.islice(bodies, CHUNK)):
        yield chunk


def sign(private_key: bytes, bodies: list[bytes]) -> bytes:
    """Lines of webhooks as Wix signs them, of these domain events."""
    key = _loaded(private_key)
    return b"".join(jwt.encode(_claims(body), key, algorithm="RS256").encode() + b"\n" for body in bodies)


@lru_cache(maxsize=1)
def _loaded(private_key: bytes) -> rsa.RSAPrivateKey:
    key = load_key(private_key, password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _claims(body: bytes) -> dict[str, Any]:
    event = orjson.loads(body)
    envelope = {
        "eventType": f"{event['entityFqdn']}_{event['slug']}",
        "instanceId": SITE_ID,
        "identity": _IDENTITY,
        "accountInfo": _ACCOUNT,
        "data": body.decode(),
    }
    signed_at = int(time.time())
    return {"data": json.dumps(envelope), "iat": signed_at, "exp": signed_at + LIFETIME}
