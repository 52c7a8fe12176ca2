"""Which events a handler may ask for, and which functions can be one; what cannot be is an InputError with file and line."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from eventstore.errors import InputError
from eventstore.event import DiscountType
from eventstore.handlers.shape import CLASSES
from eventstore.nearest import nearest, plain
from eventstore.wix.catalogue import BY_EVENT_TYPE, HANDLERS, OWN_TYPES

if TYPE_CHECKING:
    from eventstore.log.records import RecordedEvent

NAMES: Final[Mapping[str, str]] = MappingProxyType({**HANDLERS, "wixLoyalty_onCouponUpdated": "loyalty_coupon.updated"})
"""What a function is to be called → the canonical type that it gets. The names are Wix's, but for the last: Wix runs no function
for updated loyalty coupons, but the store may hold such events, and this is what it would be called."""

EVERYTHING: Final = "*"
NAME_MAX_LENGTH: Final = 200
_KINDS: Final = ("coupon.*", "loyalty_coupon.*")
_KNOWN_TYPES: Final = tuple(CLASSES)

Wish = str | Iterable[str] | None
"""What `@on` may be asked for in one respect: one value, several, or (None) any."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Events that a handler wants: of these types, and of these sites, discount types, coupons and codes. None: of any.

    The discount type and the code are those of the coupon that the event carries. An event that carries none, as of a
    deletion, is not of any type or code that could be asked for. Codes are compared as Wix does, without case.
    """

    types: frozenset[str] | None
    sites: frozenset[str] | None = None
    discount_types: frozenset[DiscountType] | None = None
    coupons: frozenset[str] | None = None
    codes: frozenset[str] | None = None

    @property
    def by_type_alone(self) -> bool:
        """Whether nothing of the event itself need be looked at."""
        return self.sites is self.discount_types is self.coupons is self.codes is None

    def takes(self, type_: str, record: RecordedEvent) -> bool:
        """Whether the event is one of these. Decodes it only if its type does not decide."""
        if self.types is not None and type_ not in self.types:
            return False
        if self.by_type_alone:
            return True
        event = record.event
        if self.sites is not None and event.site_id not in self.sites:
            return False
        if self.coupons is not None and event.coupon_id not in self.coupons:
            return False
        coupon = event.coupon
        if self.discount_types is not None and (coupon is None or coupon.discount.type not in self.discount_types):
            return False
        return self.codes is None or (
            coupon is not None and coupon.code is not None and coupon.code.casefold() in self.codes
        )


def wanted(types: tuple[str, ...], site: Wish, discount_type: Wish, coupon: Wish, code: Wish) -> Wanted:
    codes = _several("code", code)
    kinds = _several("discount_type", discount_type)
    return Wanted(
        _types(types),
        _several("site", site),
        None if kinds is None else frozenset(map(_discount_type, kinds)),
        _several("coupon", coupon),
        None if codes is None else frozenset(each.casefold() for each in codes),
    )


def _several(name: str, value: Wish) -> frozenset[str] | None:
    if value is None:
        return None
    found = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    if not found or not all(isinstance(each, str) and each for each in found):
        raise InputError(f"{caller()}: {name}={value!r} is neither a text nor a list of texts")
    return frozenset(found)


def _types(names: tuple[str, ...]) -> frozenset[str] | None:
    """The canonical types that these names mean; None: all."""
    if not names:
        raise InputError(f'{caller()}: which events? @on("coupon.applied"), @on("coupon.*") or @on("*")')
    found: set[str] = set()
    for name in names:
        if name == EVERYTHING:
            return None
        if name in CLASSES:
            found.add(name)
        elif name in _KINDS:
            found.update(each for each in _KNOWN_TYPES if each.startswith(name.removesuffix("*")))
        elif name in BY_EVENT_TYPE:
            found.add(BY_EVENT_TYPE[name].type)
        else:
            found.add(_of_another_family(name))
    return frozenset(found)


def _of_another_family(name: Any) -> str:
    """An `eventType` of Wix's that the store has no name for. Raises InputError for what was rather meant to be one it has."""
    if isinstance(name, str):
        entity, _, slug = name.rpartition("_")
        slugs = {known.slug: known.type for known in BY_EVENT_TYPE.values() if known.entity_fqdn == entity}
        names = {**{each: each for each in (*_KNOWN_TYPES, *_KINDS)}, **NAMES}
        near = nearest(slug, slugs, cutoff=0.8) if slugs else nearest(name, names, cutoff=0.75)
        if near is not None:
            meant = slugs[near] if slugs else names[near]
            raise InputError(f"{caller()}: unknown type {name!r}; did you mean {meant!r}?")
        own = name.startswith(OWN_TYPES) or name.isspace()
        if not own and ((name.startswith("wix.") and entity) or (name.isalnum() and name[0].isupper())):
            return name
    raise InputError(
        f"{caller()}: unknown type {name!r}; the known ones are {', '.join(_KNOWN_TYPES)}, {', '.join(_KINDS)}, "
        f"{EVERYTHING}, and any eventType of Wix's (wix.loyalty.v1.reward_updated, AppInstalled)"
    )


def _discount_type(text: str) -> DiscountType:
    """One of the store's names, or any of Wix's spellings."""
    from eventstore.wix.coupon import read_coupon

    if text == DiscountType.UNKNOWN:
        return DiscountType.UNKNOWN
    found: DiscountType = read_coupon({"type": text})["discount"]["type"]
    if found is not DiscountType.UNKNOWN:
        return found
    near = nearest(text, DiscountType, cutoff=0.5)
    meant = f"did you mean {str(near)!r}?" if near else f"the known ones are {', '.join(DiscountType)}"
    raise InputError(f"{caller()}: unknown discount type {text!r}; {meant}")


def check_options(time_limit: float | None, attempts: int | None, name: str | None) -> None:
    """Raises InputError for options that no handler can have."""
    if time_limit is not None and not (_is_number(time_limit) and math.isfinite(time_limit) and time_limit > 0):
        raise InputError(f"{caller()}: time_limit={time_limit!r} is no number of seconds above 0")
    if attempts is not None and not (type(attempts) is int and attempts >= 1):
        raise InputError(f"{caller()}: attempts={attempts!r} is no whole number from 1 on")
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= NAME_MAX_LENGTH and name.isprintable()):
        raise InputError(f"{caller()}: name={name!r} is no name of 1 to {NAME_MAX_LENGTH} printable characters")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_function(function: Any, name: str | None = None, where: str | None = None) -> str:
    """Where a handler stands (file:line). Raises InputError if it cannot be one: a handler is a function of one event.

    `name` and `where` say what and where it is, should it not know.
    """
    name = name or getattr(function, "__name__", None) or repr(function)
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else where or caller()
    if inspect.isclass(function):
        raise InputError(f"{where}: {name} is a class; a handler is a function, plain or async, that takes the event")
    if not inspect.isroutine(function):
        raise InputError(f"{where}: {name} is not a function; a handler is one, plain or async, that takes the event")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InputError(f"{where}: {name} has a yield, so calling it would do nothing; write it without")
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some functions written in C
        return where
    try:
        signature.bind(None)
    except TypeError:
        raise InputError(f"{where}: {name}{signature} must take one argument, the event: {name}(event)") from None
    return where


_HERE: Final = frozenset(str(Path(__file__).with_name(name)) for name in ("wanted.py", "registry.py"))


def caller() -> str:
    """File and line of who called this module."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename in _HERE:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"


def is_like_a_name(name: str) -> bool:
    """Whether a function of this name, which is none of `NAMES`, was meant to be one of them."""
    if name.startswith("_"):
        return False
    said = plain(name)
    before, found, _ = name.lower().partition("_on")
    if found and before.startswith("wix"):
        return True
    return any(said == plain(each.partition("_")[2]) for each in NAMES) or nearest(name, NAMES, cutoff=0.85) is not None
