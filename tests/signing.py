"""Webhooks as Wix signs them, and as a forger would: keys made once a session, tokens put together byte by byte."""

from __future__ import annotations

import json
import time
from base64 import b64encode, urlsafe_b64encode
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.serving import SITE

APP: Final = "app"
OTHER_APP: Final = "other app"
STRANGER: Final = "stranger"
HEADER: Final = {"alg": "RS256", "typ": "JWT"}
LIFETIME: Final = 600
"""Seconds that a made-up webhook lives."""
CREATED: Final = "wix.ecommerce.coupons.v2.coupon_created"


def private_key(name: str = APP, bits: int = 2_048) -> RSAPrivateKey:
    """The RSA key of this name; the same one all session long."""
    return _made(name, bits)


@cache
def _made(name: str, bits: int) -> RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=bits)


def public_pem(name: str = APP, bits: int = 2_048) -> str:
    """The public half of the key of this name, as Wix's dashboard shows it."""
    public = private_key(name, bits).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(name: str = APP) -> str:
    """The private half, which nobody may hand to the store."""
    return private_key(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def base64_of_pem(name: str = APP) -> str:
    """The key as it stands in an environment variable that takes no line ends."""
    return b64encode(public_pem(name).encode()).decode()


def segment(content: Any) -> bytes:
    """A part of a token: bytes as they are, anything else as JSON."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return urlsafe_b64encode(raw).rstrip(b"=")


def rs256(message: bytes, key: str = APP) -> bytes:
    """The bare signature of a message."""
    return private_key(key).sign(message, padding.PKCS1v15(), hashes.SHA256())


def signed(payload: Any, *, header: Any = HEADER, key: str = APP) -> bytes:
    """A token over a header and a payload: JSON values, or the very bytes that are to stand there."""
    message = segment(header) + b"." + segment(payload)
    return message + b"." + segment(rs256(message, key))


def coupon_event(event_id: str, coupon_id: str = "c-1", **fields: Any) -> dict[str, Any]:
    """A small domain event: a coupon was created."""
    return {
        "id": event_id,
        "entityFqdn": "wix.ecommerce.coupons.v2.coupon",
        "slug": "created",
        "entityId": coupon_id,
        "createdEvent": {
            "entity": {
                "id": coupon_id,
                "specification": {"code": {"value": "SPRING"}, "type": "PercentOff", "percentOffRate": 10},
            }
        },
        "eventTime": "2025-03-01T08:00:00.123Z",
        "triggeredByAnonymizeRequest": False,
        **fields,
    }


def envelope(event: Any, *, instance: str | None = SITE, event_type: str = CREATED, **more: Any) -> dict[str, Any]:
    """The envelope around an event, which is a JSON value or the very text that is to stand there."""
    text = event if isinstance(event, str) else json.dumps(event)
    found = {"eventType": event_type, "instanceId": instance, "data": text, **more}
    return {name: value for name, value in found.items() if value is not None}


def claims(data: Any, **times: Any) -> dict[str, Any]:
    """The claims around an envelope, issued now; a time that is given as None is left out."""
    now = int(time.time())
    text = data if isinstance(data, str) else json.dumps(data)
    found = {"data": text, "iat": now, "exp": now + LIFETIME, **times}
    return {name: value for name, value in found.items() if value is not None}


def webhook(
    event: dict[str, Any],
    *,
    instance: str | None = SITE,
    key: str = APP,
    header: Any = HEADER,
    times: dict[str, Any] | None = None,
    **more: Any,
) -> bytes:
    """A webhook as Wix would post it: the event, in its envelope, in signed claims. `more` stands in the envelope."""
    kind = f"{event['entityFqdn']}_{event['slug']}" if "slug" in event else CREATED
    told = envelope(event, **{"instance": instance, "event_type": kind, **more})
    return signed(claims(told, **(times or {})), header=header, key=key)
