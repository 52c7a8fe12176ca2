"""Bytes to a JSON object: the only place that parses JSON, for whole bodies and for JSON texts inside them."""

from __future__ import annotations

from typing import Any, Final

import orjson

from eventstore.errors import UnreadableDelivery
from eventstore.wix.scalars import MAX_DEPTH, shown

_BOM: Final = b"\xef\xbb\xbf"


def decode(body: bytes, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """The JSON object that a body is, in UTF-8 with or without a byte order mark.

    Raises UnreadableDelivery (`malformed`) for anything else: not UTF-8, not JSON (RFC 8259: no NaN, no lone
    surrogates), not an object, or nested deeper than `max_depth`.
    """
    if body.startswith(_BOM):
        body = body[len(_BOM) :]
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UnreadableDelivery(_why(body, error), malformed=True) from None
    if not isinstance(value, dict):
        raise UnreadableDelivery(f"the body is {shown(value)}; a JSON object is expected", malformed=True)
    if _too_deep(body.count(b"{") + body.count(b"["), value, max_depth):
        raise UnreadableDelivery(f"the body is nested deeper than {max_depth}", malformed=True)
    return value


def decode_text(text: str, where: str) -> dict[str, Any]:
    """The JSON object in a text field of a delivery (`entityAsJson`, the envelope's `data`), which stands at `where`.

    Raises UnreadableDelivery if it is not one. The delivery around it is sound, so it is not `malformed`.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UnreadableDelivery(f"this text is not JSON: {error}", where=where) from None
    if not isinstance(value, dict):
        raise UnreadableDelivery(f"this text holds {shown(value)}; a JSON object is expected", where=where)
    if _too_deep(text.count("{") + text.count("["), value, MAX_DEPTH):
        raise UnreadableDelivery(f"this text is nested deeper than {MAX_DEPTH}", where=where)
    return value


def _too_deep(openings: int, value: Any, max_depth: int) -> bool:
    """Whether `value` is nested deeper than `max_depth`, told level by level, so that no depth exhausts the stack."""
    if openings <= max_depth:  # the usual case: with no more brackets than levels it cannot be
        return False
    level = [value]
    for _ in range(max_depth):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _why(body: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as not_utf8:
        line = body.count(b"\n", 0, not_utf8.start) + 1
        column = not_utf8.start - body.rfind(b"\n", 0, not_utf8.start)
        return f"the body is not UTF-8: byte 0x{body[not_utf8.start]:02x} at line {line}, column {column}"
    return f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
