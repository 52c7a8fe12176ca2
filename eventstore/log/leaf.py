"""The leaf of an event in the log's Merkle tree: one versioned encoding over the bytes as they stand in the table.

`leaf_hash = SHA-256(0x00 || leaf)` as in RFC 6962 §2.1; the leaf's index is `position - 1`. Nothing is re-serialised, so the
hash can be recomputed years later from the row alone, whatever JSON library is in use by then.
"""

from __future__ import annotations

import struct
from functools import lru_cache
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


_repeated_text = lru_cache(maxsize=4_096)(_text)
"""For texts that come again and again: sites, types, sources, coupons."""


def stored_hashes(payload: bytes, original: bytes | None) -> bytes:
    """SHA-256 of the stored payload and of the stored original (of nothing, when there is none), one behind the other."""
    return sha256(payload).digest() + (_NO_ORIGINAL if original is None else sha256(original).digest())


_NO_ORIGINAL = sha256(b"").digest()


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
    hashes: bytes,
) -> bytes:
    """The 32-byte leaf hash.

    Texts are UTF-8 behind a 2-byte big-endian length (0xFFFF: absent); times are microseconds since the epoch; the sequence
    is a presence byte and 64 bits (zero when absent); `hashes` is what `stored_hashes` gives.
    """
    return sha256(
        _LEAF_PREFIX
        + _repeated_text(site_id)
        + _text(event_id)
        + _repeated_text(type_)
        + _repeated_text(source)
        + _repeated_text(entity_id)
        + _repeated_text(coupon_id)
        + _NUMBERS.pack(event_time, recorded_at, sequence is not None, sequence or 0, anonymize)
        + hashes
    ).digest()
