"""Made-up log entries, as many as one likes at ten microseconds each: what a store is grown with.

Reading a delivery costs more than appending its event, and a log of millions is grown to measure the appending. The entries
are what the store's own readers would have made, to the last hash.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from eventstore import wix
from eventstore.demo import SITE_ID, documented
from eventstore.demo.stream import SPACING, START
from eventstore.log.leaf import stored_hashes
from eventstore.log.records import Outcome, Prepared, now, prepare
from eventstore.log.types import to_micros
from eventstore.store import EventStore

TEMPLATES = 4_096
"""Documented deliveries whose events are used again and again, each time with ids and a time of their own."""
SITES = 50
"""Shops that the coupons belong to."""
COUPONS = 100_000
"""Coupons that the entries are of."""
SKEW = 4.0
"""A uniform number from 0 to 1, to this power, draws the coupon: half of the entries are of one coupon in sixteen."""
LATE = 0.02
"""The share of the entries that arrive late, by up to LATEST."""
LATEST = timedelta(days=3)
PIECE = 2_000
"""Entries given to the writer at a time: as many as one of its commits takes."""
UNDER_WAY = 3
"""Pieces that a bulk caller has with the writer at a time, as `EventStore.append_many` has."""
_BORDER = b',"source":"'
"""Where the content part of a payload ends (see `Event.encode`)."""


class EntrySource:
    """Prepared entries in the order of arrival; ids are random UUIDs, as Wix's are. The same seed gives the same entries."""

    def __init__(self, *, seed: int = 1, templates: int = TEMPLATES) -> None:
        self._rng = random.Random(seed)
        self._templates = [_Template.of(entry) for entry in _documented_entries(templates)]
        self._sites = [self._uuid() for _ in range(SITES)]
        self._coupons = [self._uuid() for _ in range(COUPONS)]
        self._made = 0

    def take(self, count: int) -> list[Prepared]:
        """The next `count` entries."""
        return [self._entry() for _ in range(count)]

    def favourites(self, count: int) -> list[tuple[str, str]]:
        """Site and coupon of the `count` coupons that most entries are of."""
        return [self._named(number) for number in range(count)]

    def _entry(self) -> Prepared:
        template = self._templates[self._made % len(self._templates)]
        self._made += 1
        happened = START + timedelta(seconds=int(SPACING * self._made))
        if self._rng.random() < LATE:
            happened -= timedelta(seconds=int(self._rng.random() * LATEST.total_seconds()))
        return template.entry(self._uuid(), *self._coupon(), happened)

    def _coupon(self) -> tuple[str, str]:
        return self._named(int(self._rng.random() ** SKEW * COUPONS))

    def _named(self, number: int) -> tuple[str, str]:
        return self._sites[number % SITES], self._coupons[number]

    def _uuid(self) -> str:
        text = f"{self._rng.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class _Template:
    """An entry to be told again of another coupon of another site, and where its payload names what changes."""

    made: Prepared
    event_id: bytes
    coupon_id: bytes
    event_time: bytes
    site_id: bytes

    @classmethod
    def of(cls, made: Prepared) -> _Template:
        parts = {part.split(b'":', 1)[0]: part for part in made.payload.split(b',"')}
        time, site = (b',"' + parts[name] for name in (b"event_time", b"site_id"))
        return cls(made, made.event_id.encode(), made.entity_id.encode(), time, site)

    def entry(self, event_id: str, site_id: str, coupon_id: str, happened: datetime) -> Prepared:
        payload = (
            self.made.payload.replace(self.event_id, event_id.encode(), 1)
            .replace(self.coupon_id, coupon_id.encode())
            .replace(self.event_time, b',"event_time":"%sZ"' % happened.isoformat()[:19].encode(), 1)
            .replace(self.site_id, b',"site_id":"%s"' % site_id.encode(), 1)
        )
        return self.made._replace(
            site_id=site_id,
            event_id=event_id,
            entity_id=coupon_id,
            coupon_id=coupon_id,
            event_time=to_micros(happened),
            payload=payload,
            content_hash=sha256(payload[: payload.rindex(_BORDER)] + b"}").digest(),
            stored_hashes=stored_hashes(payload, None),
        )


def _documented_entries(count: int) -> Iterator[Prepared]:
    for delivery in documented(count):
        [event] = wix.read(delivery.body, route=delivery.route, handler=None, site_id=SITE_ID, observed_at=now())
        # To the second, as `_Template.entry` writes it: the content is then a part of the payload as it stands.
        yield prepare(event.model_copy(update={"event_time": event.event_time.replace(microsecond=0)}))


def append_pieces(store: EventStore, pieces: Iterable[list[Prepared]]) -> None:
    """Append the pieces as fast as the writer takes them, UNDER_WAY at a time, until the last is durable."""
    under_way: deque[Future[list[Outcome]]] = deque()
    for piece in pieces:
        under_way.append(store.submit_patiently([*piece]))
        if len(under_way) == UNDER_WAY:
            under_way.popleft().result()
    for future in under_way:
        future.result()
