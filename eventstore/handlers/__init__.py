"""React to coupon events in Python, as one does in a site's `events.js`.

An `events.py` defines functions named as Wix names them, or decorated:

    from eventstore.handlers import CouponCreated, on

    def wixMarketing_onCouponCreated(event: CouponCreated) -> None:
        print(event.entity._id, event.entity.type, event.entity.startTime, event.entity.expirationTime)

Everything here is imported on first use, so that the command line answers at once. `eventstore.handlers.examples` has whole
files to begin with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventstore.handlers.frozen import JsonObject
    from eventstore.handlers.loading import load_handlers
    from eventstore.handlers.parts import (
        AccountInfo,
        AppliedData,
        BuyXGetY,
        CouponEntity,
        CouponReference,
        CouponSpecification,
        DisplayData,
        Identity,
        LoyaltyCouponEntity,
        Metadata,
        Scope,
        ScopeGroup,
    )
    from eventstore.handlers.registry import Handler, Handlers, TryLater, coupons, loyalty, on
    from eventstore.handlers.shape import (
        CouponApplied,
        CouponCreated,
        CouponDeleted,
        CouponEvent,
        CouponObserved,
        CouponUpdated,
        LoyaltyCouponCreated,
        LoyaltyCouponDeleted,
        LoyaltyCouponUpdated,
        handler_event,
    )

_PLACES = {
    "frozen": ("JsonObject",),
    "loading": ("load_handlers",),
    "parts": (
        "AccountInfo",
        "AppliedData",
        "BuyXGetY",
        "CouponEntity",
        "CouponReference",
        "CouponSpecification",
        "DisplayData",
        "Identity",
        "LoyaltyCouponEntity",
        "Metadata",
        "Scope",
        "ScopeGroup",
    ),
    "registry": ("Handler", "Handlers", "TryLater", "coupons", "loyalty", "on"),
    "shape": (
        "CouponApplied",
        "CouponCreated",
        "CouponDeleted",
        "CouponEvent",
        "CouponObserved",
        "CouponUpdated",
        "LoyaltyCouponCreated",
        "LoyaltyCouponDeleted",
        "LoyaltyCouponUpdated",
        "handler_event",
    ),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _PLACES.items() for name in names}

__all__ = [
    "AccountInfo",
    "AppliedData",
    "BuyXGetY",
    "CouponApplied",
    "CouponCreated",
    "CouponDeleted",
    "CouponEntity",
    "CouponEvent",
    "CouponObserved",
    "CouponReference",
    "CouponSpecification",
    "CouponUpdated",
    "DisplayData",
    "Handler",
    "Handlers",
    "Identity",
    "JsonObject",
    "LoyaltyCouponCreated",
    "LoyaltyCouponDeleted",
    "LoyaltyCouponEntity",
    "LoyaltyCouponUpdated",
    "Metadata",
    "Scope",
    "ScopeGroup",
    "TryLater",
    "coupons",
    "handler_event",
    "load_handlers",
    "loyalty",
    "on",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
