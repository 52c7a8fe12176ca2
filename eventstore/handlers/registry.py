"""Which functions want which events: handlers by their names, by `@on(…)`, and as `@wix/sdk` has it.

    handlers = Handlers()

    @handlers.on("coupon.applied", discount_type="PERCENT_OFF")
    def percent_off(event): …

In an `events.py` (see `loading`) `on`, `coupons` and `loyalty` are imported from `eventstore.handlers`, and register with the
file that is being loaded. Where nothing is being loaded they do nothing, so that a test may import the file.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from eventstore.errors import InputError
from eventstore.handlers.shape import (
    CouponApplied,
    CouponCreated,
    CouponDeleted,
    CouponUpdated,
    LoyaltyCouponCreated,
    LoyaltyCouponDeleted,
    LoyaltyCouponUpdated,
)
from eventstore.handlers.wanted import Wanted, Wish, caller, check_function, check_options, wanted
from eventstore.nearest import nearest

if TYPE_CHECKING:
    from eventstore.log.records import RecordedEvent

Function = TypeVar("Function", bound=Callable[..., object])


class TryLater(Exception):
    """Raised by a handler when something outside is away: the handler pauses, and gets the same event again.

    It counts as no attempt. `seconds`: how long to pause at least; None leaves that to the runner.
    """

    def __init__(self, reason: str = "", *, seconds: float | None = None) -> None:
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds={seconds} is no time to wait")
        self.seconds = seconds
        super().__init__(reason)


@dataclass(frozen=True)
class Handler:
    """A function that wants events. `name` is durable: its position in the log is kept under it.

    `time_limit` in seconds and `attempts` are None where the runner's own hold. `where`: file and line, for messages.
    `types` is what it may want at all; None: events of any type, also of families that the store has no name for.
    """

    name: str
    function: Callable[[Any], object]
    wanted: tuple[Wanted, ...]
    is_async: bool
    time_limit: float | None = None
    attempts: int | None = None
    where: str = ""
    types: frozenset[str] | None = field(init=False)
    _by_type_alone: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", _union(each.types for each in self.wanted))
        object.__setattr__(self, "_by_type_alone", all(each.by_type_alone for each in self.wanted))

    def wants(self, type_: str, record: RecordedEvent) -> bool:
        """Whether the handler is to be called with this event of the canonical type `type_`."""
        if self.types is not None and type_ not in self.types:
            return False
        return self._by_type_alone or any(each.takes(type_, record) for each in self.wanted)


def _union(several: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    found: frozenset[str] = frozenset()
    for types in several:
        if types is None:
            return None
        found |= types
    return found


class Coupons:
    """Registers handlers as `@wix/sdk` does: `coupons.on_coupon_created(handler)`, also as a decorator."""

    def __init__(self, add: Callable[..., None]) -> None:
        self._add = add

    def on_coupon_created(self, handler: _Created) -> _Created:
        """`coupon.created`"""
        self._add(handler, "coupon.created")
        return handler

    def on_coupon_updated(self, handler: _Updated) -> _Updated:
        """`coupon.updated`"""
        self._add(handler, "coupon.updated")
        return handler

    def on_coupon_deleted(self, handler: _Deleted) -> _Deleted:
        """`coupon.deleted`"""
        self._add(handler, "coupon.deleted")
        return handler

    def on_coupon_applied(self, handler: _Applied) -> _Applied:
        """`coupon.applied`"""
        self._add(handler, "coupon.applied")
        return handler

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise _no_such(self, name)


class Loyalty:
    """Registers handlers of loyalty coupons: `loyalty.on_coupon_created(handler)`, also as a decorator."""

    def __init__(self, add: Callable[..., None]) -> None:
        self._add = add

    def on_coupon_created(self, handler: _LoyaltyCreated) -> _LoyaltyCreated:
        """`loyalty_coupon.created`"""
        self._add(handler, "loyalty_coupon.created")
        return handler

    def on_coupon_updated(self, handler: _LoyaltyUpdated) -> _LoyaltyUpdated:
        """`loyalty_coupon.updated`, which Wix does not document."""
        self._add(handler, "loyalty_coupon.updated")
        return handler

    def on_coupon_deleted(self, handler: _LoyaltyDeleted) -> _LoyaltyDeleted:
        """`loyalty_coupon.deleted`"""
        self._add(handler, "loyalty_coupon.deleted")
        return handler

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise _no_such(self, name)


_Created = TypeVar("_Created", bound=Callable[[CouponCreated], object])
_Updated = TypeVar("_Updated", bound=Callable[[CouponUpdated], object])
_Deleted = TypeVar("_Deleted", bound=Callable[[CouponDeleted], object])
_Applied = TypeVar("_Applied", bound=Callable[[CouponApplied], object])
_LoyaltyCreated = TypeVar("_LoyaltyCreated", bound=Callable[[LoyaltyCouponCreated], object])
_LoyaltyUpdated = TypeVar("_LoyaltyUpdated", bound=Callable[[LoyaltyCouponUpdated], object])
_LoyaltyDeleted = TypeVar("_LoyaltyDeleted", bound=Callable[[LoyaltyCouponDeleted], object])


def _no_such(registers: Coupons | Loyalty, name: str) -> AttributeError:
    known = [each for each in vars(type(registers)) if each.startswith("on_")]
    near = nearest(name, known)
    meant = f"did you mean {near!r}?" if near else f"there are {', '.join(known)}"
    return AttributeError(f"there is no {name!r} here; {meant}", name=name)


class Handlers:
    """Handlers in the order registered, each under its name."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self.coupons: Final = Coupons(self.add)
        self.loyalty: Final = Loyalty(self.add)

    def on(
        self,
        *types: str,
        site: Wish = None,
        discount_type: Wish = None,
        coupon: Wish = None,
        code: Wish = None,
        time_limit: float | None = None,
        attempts: int | None = None,
        name: str | None = None,
    ) -> Callable[[Function], Function]:
        """Decorates a handler of events of these `types`: `coupon.applied`; `coupon.*` for all of a kind; `*` for all.

        `site`, `discount_type`, `coupon` (its id) and `code` narrow them down: one value each, or several of which one must
        hold. An event that carries no coupon (a deletion) is of no discount type and no code. Decorators may be stacked:
        the handler gets what any of them wants, once. `time_limit` (seconds) and `attempts` stand for the runner's own;
        `name` keeps the handler's position when its function is renamed. Raises InputError, with file and line.
        """
        if types and callable(types[0]):
            raise InputError(f'{caller()}: write the types of events: @on("coupon.applied")')
        wish = wanted(types, site, discount_type, coupon, code)
        check_options(time_limit, attempts, name)

        def decorate(function: Function) -> Function:
            self._add(function, wish, time_limit, attempts, name)
            return function

        return decorate

    def add(
        self,
        function: Callable[[Any], object],
        *types: str,
        time_limit: float | None = None,
        attempts: int | None = None,
        name: str | None = None,
    ) -> None:
        """Register a function for these types, as `on` does. Under its own name, or `name`. Raises InputError."""
        check_options(time_limit, attempts, name)
        self._add(function, wanted(types, None, None, None, None), time_limit, attempts, name)

    @property
    def types(self) -> frozenset[str] | None:
        """The types that any of them wants; None: any type at all."""
        return _union(handler.types for handler in self)

    def __iter__(self) -> Iterator[Handler]:
        return iter(list(self._handlers.values()))

    def __len__(self) -> int:
        return len(self._handlers)

    def __contains__(self, name: object) -> bool:
        return name in self._handlers

    def __getitem__(self, name: str) -> Handler:
        return self._handlers[name]

    def reorder(self, place: Callable[[Handler], Any]) -> None:
        """Put them in the order of `place`."""
        self._handlers = {each.name: each for each in sorted(self, key=place)}

    def __repr__(self) -> str:
        return f"<Handlers {', '.join(self._handlers) or 'none'}>"

    def _add(
        self,
        function: Callable[[Any], object],
        wanted: Wanted,
        time_limit: float | None,
        attempts: int | None,
        name: str | None,
    ) -> None:
        where = check_function(function)
        before = next((each for each in self if each.function == function), None)
        if before is not None:
            self._extend(before, wanted, time_limit, attempts, name)
            return
        name = name or str(getattr(function, "__name__", ""))
        if name == "<lambda>":
            raise InputError(f'{where}: a lambda has no name to keep its position under; use def, or @on(…, name="…")')
        if name in self._handlers:
            raise InputError(
                f"{where}: there is a handler {name!r} at {self._handlers[name].where} already; each needs a name of its own"
            )
        # What a plain wrapper around an async function returns has to be awaited too.
        is_async = any(map(inspect.iscoroutinefunction, (function, inspect.unwrap(function))))
        self._handlers[name] = Handler(name, function, (wanted,), is_async, time_limit, attempts, where)

    def _extend(
        self, before: Handler, wanted: Wanted, time_limit: float | None, attempts: int | None, name: str | None
    ) -> None:
        """Another decorator on a function that has one."""
        for option, old, new in (
            ("time_limit", before.time_limit, time_limit),
            ("attempts", before.attempts, attempts),
            ("name", None if before.name == before.function.__name__ else before.name, name),
        ):
            if old is not None and new is not None and old != new:
                raise InputError(f"{before.where}: {before.name} has {option}={old!r} and {option}={new!r}; leave one")
        name = name or before.name
        if name != before.name and name in self._handlers:
            raise InputError(f"{before.where}: there is a handler {name!r} at {self._handlers[name].where} already")
        merged = replace(
            before,
            name=name,
            wanted=before.wanted if wanted in before.wanted else (*before.wanted, wanted),
            time_limit=before.time_limit if time_limit is None else time_limit,
            attempts=before.attempts if attempts is None else attempts,
        )
        self._handlers = {
            each.name: each for each in (merged if each is before else each for each in self._handlers.values())
        }


_loading: ContextVar[Handlers | None] = ContextVar("eventstore_handlers_loading", default=None)


@contextmanager
def registering(handlers: Handlers) -> Iterator[None]:
    """What is decorated in this block goes to `handlers`."""
    token = _loading.set(handlers)
    try:
        yield
    finally:
        _loading.reset(token)


def on(
    *types: str,
    site: Wish = None,
    discount_type: Wish = None,
    coupon: Wish = None,
    code: Wish = None,
    time_limit: float | None = None,
    attempts: int | None = None,
    name: str | None = None,
) -> Callable[[Function], Function]:
    """`Handlers.on` of the file that is being loaded."""
    return _present().on(
        *types,
        site=site,
        discount_type=discount_type,
        coupon=coupon,
        code=code,
        time_limit=time_limit,
        attempts=attempts,
        name=name,
    )


def _present() -> Handlers:
    """Those of the file that is being loaded, or some that nobody keeps."""
    loading = _loading.get()
    return Handlers() if loading is None else loading


def _add_to_present(function: Callable[[Any], object], *types: str) -> None:
    _present().add(function, *types)


coupons: Final = Coupons(_add_to_present)
"""`coupons.on_coupon_created(handler)`, in the file that is being loaded."""
loyalty: Final = Loyalty(_add_to_present)
"""`loyalty.on_coupon_created(handler)`, in the file that is being loaded."""
