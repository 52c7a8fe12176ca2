"""Reading: `/v1/coupons`, one coupon, its history, and `/v1/usage`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from eventstore.api.context import Context, Here, Reader
from eventstore.api.problems import PROBLEM, REFUSALS
from eventstore.errors import InputError, StoreUnavailable
from eventstore.event import INT64_MAX, Event
from eventstore.projections import views
from eventstore.projections.views import CouponState, CouponUse, Number

router = APIRouter(
    tags=["reading"],
    responses={**REFUSALS, 503: {"description": "The projections have not reached `wait_for` yet.", **PROBLEM}},
)

MAX_PAGE = 1_000
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such coupon.", **PROBLEM}}

NO_NUL = r"^[^\x00]*$"
"""No name in the store holds a NUL, and PostgreSQL would not even compare with one."""

SiteParameter = Annotated[
    str | None, Query(pattern=NO_NUL, description="The site; needed only for tokens bound to none.")
]
Code = Annotated[str | None, Query(pattern=NO_NUL, description="Only this code, compared without case.")]
After = Annotated[str | None, Query(pattern=NO_NUL, description="The `next` of the page before.")]
CouponId = Annotated[str, Path(pattern=NO_NUL, description="Wix's id of the coupon.")]
WaitFor = Annotated[
    int | None,
    Query(
        ge=0,
        le=INT64_MAX,
        description="Answer only when the projections have taken in this position: read your own writes.",
    ),
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Entries in the page.")]


class CouponPage(BaseModel):
    """A page of coupons; `next` is the `after` of the page that follows, null on the last."""

    coupons: list[CouponState]
    next: str | None


class CouponUsage(CouponUse):
    """The usage of one coupon."""

    site_id: str
    coupon_id: str
    code: str | None
    discount_type: str | None
    discount_value: Number | None
    deleted: bool


class UsagePage(BaseModel):
    """A page of usage; `next` is the `after` of the page that follows, null on the last."""

    usage: list[CouponUsage]
    next: str | None


class HistoryEntry(BaseModel):
    """One event of a coupon, where and when it was recorded, and what is odd about it."""

    position: int
    recorded_at: datetime
    event: Event
    findings: list[str]


class HistoryPage(BaseModel):
    """A page of history in recorded order; `next` is the `after` of the page that follows, null on the last."""

    events: list[HistoryEntry]
    next: int | None


@router.get("/v1/coupons", summary="Coupons as they are now")
def coupons(
    here: Here,
    token: Reader,
    site: SiteParameter = None,
    code: Code = None,
    deleted: Annotated[bool | None, Query(description="Only deleted coupons, or only those that are not.")] = None,
    after: After = None,
    limit: Limit = views.PAGE_COUPONS,
    wait_for: WaitFor = None,
) -> CouponPage:
    """A page of coupons with their usage, ordered by site and id."""
    found = _page(here, token, site, code, deleted, after, limit, wait_for)
    return CouponPage(coupons=found, next=views.cursor(found[-1]) if len(found) == limit else None)


@router.get("/v1/usage", summary="How often each coupon was used")
def usage(
    here: Here,
    token: Reader,
    site: SiteParameter = None,
    code: Code = None,
    after: After = None,
    limit: Limit = views.PAGE_COUPONS,
    wait_for: WaitFor = None,
) -> UsagePage:
    """A page of usage counts, ours beside Wix's own, ordered by site and coupon id."""
    found = _page(here, token, site, code, None, after, limit, wait_for)
    rows = [
        CouponUsage(
            site_id=state.site_id,
            coupon_id=state.coupon_id,
            code=state.code,
            discount_type=state.discount_type,
            discount_value=state.discount_value,
            deleted=state.deleted,
            **state.usage.model_dump(),
        )
        for state in found
    ]
    return UsagePage(usage=rows, next=views.cursor(found[-1]) if len(found) == limit else None)


@router.get("/v1/coupons/{coupon_id}", responses=_UNKNOWN, summary="One coupon as it is now")
def coupon(
    here: Here,
    token: Reader,
    coupon_id: CouponId,
    site: SiteParameter = None,
    wait_for: WaitFor = None,
) -> CouponState:
    """The coupon's latest snapshot, its life, its usage and what is odd about it."""
    _wait(here, wait_for)
    return here.store.coupon(coupon_id, site_id=_site(here, token, site))


@router.get("/v1/coupons/{coupon_id}/history", responses=_UNKNOWN, summary="Everything that happened to a coupon")
def history(
    here: Here,
    token: Reader,
    coupon_id: CouponId,
    site: SiteParameter = None,
    after: Annotated[int, Query(ge=0, le=INT64_MAX, description="The `next` of the page before.")] = 0,
    limit: Limit = views.PAGE_COUPONS,
    wait_for: WaitFor = None,
) -> HistoryPage:
    """A page of the coupon's events as the log holds them, in the order they were recorded."""
    _wait(here, wait_for)
    found = here.store.history(coupon_id, site_id=_site(here, token, site), after=after, limit=limit)
    entries = [
        HistoryEntry(
            position=record.position,
            recorded_at=record.recorded_at,
            event=record.event,
            findings=list(record.event.findings),
        )
        for record in found
    ]
    return HistoryPage(events=entries, next=found[-1].position if len(found) == limit else None)


def _page(
    here: Context,
    token: Reader,
    site: str | None,
    code: str | None,
    deleted: bool | None,
    after: str | None,
    limit: int,
    wait_for: int | None,
) -> list[CouponState]:
    _wait(here, wait_for)
    return here.store.coupons(site_id=_site(here, token, site), code=code, deleted=deleted, after=after, limit=limit)


def _site(here: Context, token: Reader, named: str | None) -> str | None:
    """The one site that the question is about; None: all, which only a token bound to none may ask."""
    if named is None and token.site_id is None:
        return None
    return token.site_for(named, here.settings.site)


def _wait(here: Context, position: int | None) -> None:
    if position is None:
        return
    head = here.store.head()
    if position > head:
        # Waiting would hold a thread for a position that nobody was given.
        raise InputError(f"wait_for={position} is no position of the log, which ends at {head}")
    if not here.store.wait(position):
        raise StoreUnavailable(f"the projections have not reached position {position} yet; ask again")
