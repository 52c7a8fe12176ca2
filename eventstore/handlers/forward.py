"""Outgoing webhooks: a ready-made handler that posts each event to a URL, signed by the Standard Webhooks scheme.

The body is `{"type", "timestamp", "data"}`, `data` being the event as `event.to_dict()` tells it. Headers `webhook-id` (the same
each time that the event is sent), `webhook-timestamp` and `webhook-signature`: receivers verify them with any library of
https://www.standardwebhooks.com, and drop what they have by its id.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson
from standardwebhooks.webhooks import Webhook

from eventstore import __version__
from eventstore.errors import InputError
from eventstore.handlers.gate import Rules
from eventstore.handlers.registry import Handler, Handlers, TryLater
from eventstore.handlers.shape import CouponEvent

TIMEOUT_SECONDS = 20.0
"""How long a receiver may take to answer: Standard Webhooks asks senders for 15 to 30."""
SECRET_BYTES = 32
"""Random bytes of a new secret; the scheme allows 24 to 64."""
GONE_SECONDS = 3_600.0
"""How often a receiver that has said that it is gone (410) is asked again."""
RULES = Rules(
    attempts=10,
    retry_seconds=(5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0),
    pause_seconds=(1.0, 5.0, 15.0, 60.0, 300.0),
)
"""The schedule that Standard Webhooks proposes: ten tries of what a receiver refuses, in three days."""
AWAY = (429, 502, 503, 504)
"""Statuses by which a receiver, or what stands before it, speaks of itself and not of the event."""
SAID_BYTES = 200
"""How much of a refusal's text is kept."""


class Forward:
    """Posts events to `url`. Thread-safe; close it. `keys`: secrets as `whsec_…`, the receiver's present one first.

    While a secret is replaced, both sign. Raises InputError for a URL or a secret that cannot be one.
    """

    def __init__(self, url: str, keys: Sequence[str], *, connections: int = 16) -> None:
        self.url = _checked(url)
        if not keys:
            raise InputError("there is no secret to sign with; `eventstore forward --new-secret` prints one")
        self._signers = [_signer(key) for key in keys]
        self._client = httpx.Client(
            timeout=TIMEOUT_SECONDS,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            headers={"user-agent": f"coupon-eventstore/{__version__}", "content-type": "application/json"},
        )

    def __call__(self, event: CouponEvent) -> None:
        """Post one event. Raises TryLater where the receiver is away, Refused where it does not want the event."""
        body = orjson.dumps(
            {"type": event.type, "timestamp": event.metadata.eventTime, "data": event.to_dict()},
            option=orjson.OPT_UTC_Z,
        )
        try:
            with self._client.stream("POST", self.url, content=body, headers=self._signed(event, body)) as answer:
                if answer.is_success:
                    return
                said = next(answer.iter_bytes(SAID_BYTES), b"")
        except httpx.TransportError as error:
            raise TryLater(f"{_shown(self.url)} cannot be reached: {type(error).__name__}: {error}") from error
        status = answer.status_code
        if status == httpx.codes.GONE:
            raise TryLater(f"{_shown(self.url)} is gone (410)", seconds=GONE_SECONDS)
        if status in AWAY:
            raise TryLater(f"{_shown(self.url)} answered {status}", seconds=_retry_after(answer))
        raise Refused(f"answered {status}: {said.decode(errors='replace')}")

    def close(self) -> None:
        """Give the connections up."""
        self._client.close()

    def _signed(self, event: CouponEvent, body: bytes) -> dict[str, str]:
        sent = datetime.now(UTC)
        message = message_id(event)
        text = body.decode()
        signatures = [each.sign(msg_id=message, timestamp=sent, data=text) for each in self._signers]
        return {
            "webhook-id": message,
            "webhook-timestamp": str(int(sent.timestamp())),
            "webhook-signature": " ".join(signatures),
        }


class Refused(Exception):
    """A receiver's answer that says that it does not take the event."""


def forwarding(
    forward: Forward, *, types: Sequence[str] = (), sites: Sequence[str] = (), name: str = "forward"
) -> list[Handler]:
    """The handler that forwards events of these types (none: all) and sites (none: all). Raises InputError for a type that is
    none."""
    handlers = Handlers()

    def post(event: CouponEvent) -> None:
        forward(event)

    handlers.on(*(types or ("*",)), site=list(sites) or None, name=name, time_limit=TIMEOUT_SECONDS * 3)(post)
    return list(handlers)


def set_name(url: str) -> str:
    """What the set of a forwarding is called unless it is said: by it its place is kept."""
    host = urlsplit(url).hostname or ""
    readable = "".join(each if each.isalnum() and each.isascii() else "-" for each in host)[:30]
    return f"forward-{readable}-{sha256(url.encode()).hexdigest()[:8]}"


def message_id(event: CouponEvent) -> str:
    """The id of the message about an event: the same whenever and to whomever it is sent."""
    return "msg_" + sha256(f"{event.site_id}\0{event.metadata.id}".encode()).hexdigest()[:32]


def new_secret() -> str:
    """A secret to share with a receiver."""
    return "whsec_" + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def read_secrets(file: Path) -> list[str]:
    """The secrets in a file, one a line. Raises InputError."""
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the secrets in {file} cannot be read: {error}") from error
    if not lines:
        raise InputError(f"{file} holds no secret; `eventstore forward --new-secret` prints one")
    return lines


def _signer(key: str) -> Webhook:
    if not key.startswith("whsec_"):
        raise InputError("a secret begins with whsec_; `eventstore forward --new-secret` prints one")
    try:
        return Webhook(key)
    except Exception:  # noqa: BLE001 - whatever the library says would quote the secret
        raise InputError("a secret is whsec_ and base64; `eventstore forward --new-secret` prints one") from None


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"{_shown(url)!r} is no address to post to: give one as https://example.com/hooks/coupons")
    return url


def _shown(url: str) -> str:
    """An address for people and logs: what stands before its host, and behind its path, may be a secret."""
    return url.partition("?")[0].rpartition("@")[2].removeprefix("https://").removeprefix("http://")


def _retry_after(answer: httpx.Response) -> float | None:
    said = answer.headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return min(float(said), GONE_SECONDS)
    try:
        moment = parsedate_to_datetime(said)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), GONE_SECONDS)
