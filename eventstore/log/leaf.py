"""The leaf of an event in the log's Merkle tree: one versioned encoding over the bytes as they stand in the table.

`leaf_hash = SHA-256(0x00 || leaf)` as in RFC 6962 §2.1; the leaf's index is `position - 1`. Nothing is re-serialised, so the
hash can be recomputed years later from the row alone, whatever JSON library is in use by then.
"""

from __future__ import annotations

import struct
from hashlib import sha256

_LEAF_PREFIX = b"\x00\x01"
"""RFC 6962's leaf prefix, then the version of this encoding."""
_ABSENT = b"\xff\xff"
_NUMBERS = struct.Struct(">qq?q?")


def _text(value: str | None) -> bytes:
    if value is None:
        return _ABSENT
    encoded = value.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def leaf_hash(
    site_id: str,
    event_id: str,
    type_: str,
    source: str,
    entity_id: str,
    coupon_id: str | None,
    event_time: int,
    recorded_at: int,
    sequence: int | None,
    anonymize: bool,
    payload: bytes,
    original: bytes | None,
) -> bytes:
    """The 32-byte leaf hash.

    Texts are UTF-8 behind a 2-byte big-endian length (0xFFFF: absent); times are microseconds since the epoch; the sequence
    is a presence byte and 64 bits (zero when absent); `payload` and `original` go in as their SHA-256 (of nothing, when there
    is no original).
    """
    return sha256(
        _LEAF_PREFIX
        + _text(site_id)
        + _text(event_id)
        + _text(type_)
        + _text(source)
        + _text(entity_id)
        + _text(coupon_id)
        + _NUMBERS.pack(event_time, recorded_at, sequence is not None, sequence or 0, anonymize)
        + sha256(payload).digest()
        + sha256(original or b"").digest()
    ).digest()
