"""Only a JSON object in UTF-8 gets in, and the refusal says what is wrong and where."""

from __future__ import annotations

import pytest

from eventstore.errors import UnreadableDelivery
from eventstore.wix import MAX_DEPTH, decode


def nested(depth: int) -> bytes:
    """An object around lists, `depth` levels in all."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"not json", "line 1, column 1"),
        (b'{\n "a": 1,\n "b": x}', "line 3, column 7"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1} {"b": 2}', "line 1, column 10"),
        (b'{"a": NaN}', "line 1, column 7"),
        (b'{"a": Infinity}', "not JSON"),
        (b'{"a": 1e400}', "not JSON"),
        (b'{"a": "\\ud800"}', "line 1, column 8"),
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at line 1, column 8"),
        (b'{\n"a": "\xe2\x82"}', "not UTF-8: byte 0xe2 at line 2, column 7"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"[]", "a list"),
        (b'"text"', "'text'"),
        (b"null", "None"),
        (b"5", "5"),
        (nested(MAX_DEPTH + 1), f"deeper than {MAX_DEPTH}"),
        (nested(1000), f"deeper than {MAX_DEPTH}"),
        (nested(100_000), "depth"),
        (b"[" * 1_000_000, "depth"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_not_an_acceptable_json_object_is_malformed(body: bytes, said: str) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        decode(body)
    assert refusal.value.malformed
    assert said in refusal.value.reason


def test_a_byte_order_mark_is_tolerated() -> None:
    assert decode(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_nesting_is_taken_up_to_its_limit() -> None:
    assert decode(nested(MAX_DEPTH))
    assert decode(nested(3), max_depth=3)
    with pytest.raises(UnreadableDelivery, match="deeper than 2"):
        decode(nested(3), max_depth=2)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert len(decode(b'{"a": [' + b",".join([b"{}"] * 5000) + b"]}")["a"]) == 5000
    assert decode(b'{"a": "' + b"[" * 5000 + b'"}')
