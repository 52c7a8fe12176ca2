"""One value at a time: every way that Wix spells a time, a number, a flag, a text or an id.

Each function takes the value as it stands in the JSON, bare or wrapped as `{"value": x}`, and the name of its field. An
absent value (null, an empty string, an empty wrapper) is None. A value that cannot be what its field says raises
UnreadableDelivery `where` that field is. Messages never quote ids or free texts, which may be personal.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from eventstore.errors import UnreadableDelivery
from eventstore.event import AMOUNT_LIMIT, INT64_MAX

ID_MAX_LENGTH: Final = 200
TEXT_MAX_LENGTH: Final = 20_000
MAX_DEPTH: Final = 64
"""Objects and lists nested deeper than this are refused. Wix's own deliveries reach 8; recursion is safe at 64."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MONTHS: Final = {
    name: f"{number:02}"
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
_AMOUNT_END: Final = AMOUNT_LIMIT - Decimal("0.0000005")
"""From here on, six decimals would round up to the limit."""
_NUMERAL_MAX_LENGTH: Final = 100
"""Longer than any amount or count can be; keeps the conversion of a hostile text cheap."""
_CONTROL: Final = frozenset(map(chr, (*range(0x20), 0x7F)))
_SHOWN_LENGTH: Final = 60


def field_names(*lines: str) -> frozenset[str]:
    """The set of the names in `lines`, which are separated by blanks."""
    return frozenset(name for line in lines for name in line.split())


def bare(value: Any) -> Any:
    """The scalar inside Wix's `{"value": x}`; `{}` is an absent one. Anything else is returned as it is."""
    if isinstance(value, dict) and (not value or (len(value) == 1 and "value" in value)):
        return value.get("value")
    return value


def time(value: Any, name: str) -> datetime | None:
    """The moment in UTC: ISO-8601, epoch milliseconds (number or text), or the text of a JavaScript `Date`.

    ISO-8601 without an offset is UTC, as all of Wix's times are. A date that does not exist, or lies outside the years
    1–9999, is refused.
    """
    if isinstance(value, dict):
        value = bare(value)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            return _time_from_text(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _EPOCH + timedelta(milliseconds=value)
    except (ValueError, OverflowError):
        pass
    raise UnreadableDelivery(f"{shown(value)} is not a time between the years 1 and 9999", where=name)


def first_time(fields: dict[str, Any], names: tuple[str, ...]) -> datetime | None:
    """The time under the first of `names` that has one; each that stands there must be a time."""
    moment = None
    for name in names:
        if name in fields:
            found = time(fields[name], name)
            moment = found if moment is None else moment
    return moment


def _time_from_text(text: str) -> datetime:
    if text[4:5] == "-":
        moment = datetime.fromisoformat(text)
    elif text.isascii() and text.removeprefix("-").isdigit() and len(text) < _NUMERAL_MAX_LENGTH:
        return _EPOCH + timedelta(milliseconds=int(text))
    else:
        moment = _time_from_js_date(text)
    if moment.tzinfo is UTC:
        return moment
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _time_from_js_date(text: str) -> datetime:
    """`Wed Jun 30 2021 21:00:00 GMT+0000 (Coordinated Universal Time)`; the zone's name may be absent."""
    words = text.split(None, 6)
    if len(words) < 6 or (len(words) == 7 and not (words[6].startswith("(") and words[6].endswith(")"))):
        raise ValueError(text)
    month, zone = _MONTHS.get(words[1]), words[5]
    if month is None or len(words[4]) != len("21:00:00") or not zone.startswith(("GMT", "UTC")):
        raise ValueError(text)
    return datetime.fromisoformat(f"{words[3]}-{month}-{words[2]}T{words[4]}{zone[3:] or '+0000'}")


def count(value: Any, name: str) -> int | None:
    """A whole number of 64 bits: a number, or its text as Wix writes int64."""
    if isinstance(value, dict):
        value = bare(value)
    if value is None or value == "":
        return None
    if type(value) is not int:
        number = _number(value, name)
        if not -INT64_MAX <= number <= INT64_MAX or number != int(number):
            raise UnreadableDelivery(f"{shown(value)} is not a whole number of 64 bits", where=name)
        return int(number)
    if not -INT64_MAX <= value <= INT64_MAX:
        raise UnreadableDelivery(f"{shown(value)} is not a whole number of 64 bits", where=name)
    return int(value)


def amount(value: Any, name: str) -> Decimal | None:
    """An amount of money or a percentage: a number or its text, below 10**12. The model rounds it to six decimals."""
    if isinstance(value, dict):
        value = bare(value)
    if value is None or value == "":
        return None
    number = _number(value, name)
    # Compared without abs(), which would raise decimal.Overflow for 1E+9999999.
    if not -_AMOUNT_END < number < _AMOUNT_END:
        raise UnreadableDelivery(f"{shown(value)} is out of range; amounts stay below 10**12", where=name)
    return number


def _number(value: Any, name: str) -> Decimal:
    if type(value) is int:
        return Decimal(value)
    text = str(value) if type(value) is float else value
    if isinstance(text, str) and len(text) <= _NUMERAL_MAX_LENGTH and text.isascii() and "_" not in text:
        try:
            number = Decimal(text)
        except InvalidOperation:
            pass
        else:
            if number.is_finite():
                return number
    raise UnreadableDelivery(f"{shown(value)} is not a number", where=name)


def flag(value: Any, name: str) -> bool | None:
    """True or false: a boolean, its text, or 1 and 0."""
    if isinstance(value, dict):
        value = bare(value)
    if value is None or isinstance(value, bool):
        return value
    if value == "":
        return None
    word = value.lower() if isinstance(value, str) else value
    if word in ("true", 1):
        return True
    if word in ("false", 0):
        return False
    raise UnreadableDelivery(f"{shown(value)} is neither true nor false", where=name)


def text(value: Any, name: str) -> str | None:
    """Free text. NUL becomes U+FFFD, since no database keeps it; a number becomes its text."""
    if not isinstance(value, str):
        value = bare(value)
        if not isinstance(value, str):
            return None if value is None else _text_of_number(value, name)
    if not value:
        return None
    if len(value) > TEXT_MAX_LENGTH:
        raise UnreadableDelivery(f"a text of {len(value)} characters; at most {TEXT_MAX_LENGTH} are taken", where=name)
    return value.replace("\0", "\ufffd") if "\0" in value else value


def label(value: Any, name: str) -> str | None:
    """A text that is only for show: like `text`, but what is not a text counts as absent."""
    if not isinstance(value, str):
        value = bare(value)
    return text(value, name) if isinstance(value, str) else None


def ident(value: Any, name: str) -> str | None:
    """An opaque id: one line of at most 200 characters."""
    if not isinstance(value, str):
        value = bare(value)
        if not isinstance(value, str):
            return None if value is None else _text_of_number(value, name)
    if not value:
        return None
    if len(value) > ID_MAX_LENGTH:
        raise UnreadableDelivery(f"an id of {len(value)} characters; at most {ID_MAX_LENGTH} are taken", where=name)
    if not value.isprintable() and not _CONTROL.isdisjoint(value):
        raise UnreadableDelivery("an id with a control character", where=name)
    return value


def _text_of_number(value: Any, name: str) -> str:
    if type(value) in (int, float) and abs(value) <= 2**64:
        return str(value)
    raise UnreadableDelivery(f"{shown(value)} where a text is expected", where=name)


def member(value: Any, name: str) -> dict[str, Any] | None:
    """The object that stands here, or None when there is none."""
    if value is None or isinstance(value, dict):
        return value
    raise UnreadableDelivery(f"{shown(value)} where an object is expected", where=name)


def plain(value: Any, name: str, *, unwrap: bool = True, depth: int = MAX_DEPTH) -> Any:
    """JSON that we have no name for, in one canonical spelling, so that equal facts are equal bytes on every route.

    Keys are sorted and lose a leading underscore (the SDK says `_id` for REST's `id`) unless the bare key stands there
    too. Wrapped scalars are unwrapped if asked for. NUL becomes U+FFFD.
    """
    if isinstance(value, str):
        return value.replace("\0", "\ufffd") if "\0" in value else value
    if isinstance(value, dict | list):
        if depth == 0:
            raise UnreadableDelivery(f"nested deeper than {MAX_DEPTH}", where=name)
        if isinstance(value, list):
            return [plain(item, name, unwrap=unwrap, depth=depth - 1) for item in value]
        if unwrap and len(value) == 1 and "value" in value and not isinstance(value["value"], dict | list):
            return plain(value["value"], name)
        named = {bare_key(key, value): plain(item, name, unwrap=unwrap, depth=depth - 1) for key, item in value.items()}
        return {key: named[key] for key in sorted(named)}
    if isinstance(value, float) and not math.isfinite(value):
        raise UnreadableDelivery("a number that is not finite", where=name)
    return value


def bare_key(key: str, among: dict[str, Any]) -> str:
    """`key` without a leading underscore and NUL, unless `among` has that key too."""
    name = key.removeprefix("_").replace("\0", "\ufffd")
    return key.replace("\0", "\ufffd") if not name or (name != key and name in among) else name


def unnamed(fields: dict[str, Any], known: frozenset[str], prefix: str = "") -> dict[str, Any]:
    """The fields that are not `known`, under `prefix`, as `plain` spells them; null ones are absent."""
    if fields.keys() <= known:
        return {}
    found = {
        prefix + bare_key(key, fields): plain(value, prefix + key)
        for key, value in fields.items()
        if key not in known and bare(value) is not None
    }
    return {key: found[key] for key in sorted(found)}


def shown(value: Any) -> str:
    """`value` for a message: short, and safe for whatever it is."""
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 2 * 64:
        return f"a number of {value.bit_length()} bits"
    said = repr(value[:_SHOWN_LENGTH]) if isinstance(value, str) else repr(value)
    return said if len(said) <= _SHOWN_LENGTH + 2 else said[:_SHOWN_LENGTH] + "…"


def under(prefix: str, error: UnreadableDelivery) -> UnreadableDelivery:
    """The same error, seen from outside the object at `prefix`."""
    return UnreadableDelivery(error.reason, where=path(prefix, error.where), malformed=error.malformed)


def path(*names: str) -> str:
    """`a.b.c`, leaving out empty names."""
    return ".".join(name for name in names if name)
