"""The leaf hash against bytes written out by hand: whoever implements DESIGN §5 anew must come to the same."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from eventstore.log.leaf import leaf_hash, stored_hashes

ROW: dict[str, Any] = {
    "site_id": "s",
    "event_id": "e1",
    "type_": "coupon.created",
    "source": "rest",
    "entity_id": "ünï",
    "coupon_id": "c",
    "event_time": 1_788_264_000_000_000,
    "recorded_at": 1_788_264_000_000_001,
    "sequence": 258,
    "anonymize": True,
    "payload": b"{}",
    "original": b"zlib",
}


def leaf_of(**change: Any) -> bytes:
    """The leaf hash of the row with some fields changed."""
    row = ROW | change
    return leaf_hash(hashes=stored_hashes(row.pop("payload"), row.pop("original")), **row)


FIELDS = {
    "version": "01",
    "site_id": "0001 73",
    "event_id": "0002 6531",
    "type_": "000e 636f75706f6e2e63726561746564",
    "source": "0004 72657374",
    "entity_id": "0005 c3bc6ec3af",
    "coupon_id": "0001 63",
    "event_time": "00065a6aa87c1000",
    "recorded_at": "00065a6aa87c1001",
    "sequence": "01 0000000000000102",
    "anonymize": "01",
    "payload": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "original": hashlib.sha256(b"zlib").hexdigest(),
}
"""The row, field by field, in the order of the leaf."""


def by_hand(**fields: str) -> str:
    leaf = bytes.fromhex("".join((FIELDS | fields).values()))
    return hashlib.sha256(b"\x00" + leaf).hexdigest()


def test_the_leaf_of_a_known_row_is_these_bytes() -> None:
    assert leaf_of().hex() == by_hand()


def test_the_leaf_hash_of_a_known_row_is_this_number_for_ever() -> None:
    assert leaf_of().hex() == "155425ee3be827a8bbd08d071274df0e5287418dd1c56663af35a37ea3c03f92"


def test_what_is_absent_has_its_own_encoding() -> None:
    row = {"coupon_id": None, "sequence": None, "original": None, "anonymize": False}
    of_nothing = hashlib.sha256(b"").hexdigest()
    absent = by_hand(coupon_id="ffff", sequence="00" * 9, anonymize="00", original=of_nothing)
    assert leaf_of(**row).hex() == absent


def test_numbers_are_signed() -> None:
    row = {"event_time": -1, "sequence": -2}
    assert leaf_of(**row).hex() == by_hand(event_time="ff" * 8, sequence="01" + "ff" * 7 + "fe")


@pytest.mark.parametrize(
    "change",
    [
        {"site_id": "se", "event_id": "1"},
        {"site_id": "", "event_id": "se1"},
        {"event_id": "e1coupon", "type_": ".created"},
        {"coupon_id": ""},
        {"coupon_id": None},
        {"source": "velo"},
        {"entity_id": "uni"},
        {"event_time": ROW["recorded_at"], "recorded_at": ROW["event_time"]},
        {"sequence": None},
        {"sequence": 0},
        {"anonymize": False},
        {"payload": b"{ }"},
        {"original": None},
        {"payload": b"zlib", "original": b"{}"},
    ],
    ids=str,
)
def test_every_field_counts_and_no_text_can_slip_into_the_next(change: dict[str, Any]) -> None:
    assert leaf_of(**change) != leaf_of()


def test_an_absent_sequence_is_not_the_sequence_zero() -> None:
    assert leaf_of(sequence=None) != leaf_of(sequence=0)


def test_a_text_too_long_for_its_length_is_refused_and_not_cut() -> None:
    with pytest.raises(OverflowError):
        leaf_of(entity_id="x" * 65_536)
