"""Reading: `/v1/coupons`, one coupon, its history, and `/v1/usage`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from eventstore.api.context import Context, Here, Reader, site_asked
from eventstore.api.problems import PROBLEM, REFUSALS
from eventstore.errors import InputError, StoreUnavailable
from eventstore.event import INT64_MAX
from eventstore.projections import views
from eventstore.projections.history import HistoryEntry, Order
from eventstore.projections.moment import Asked, Moment, read_time
from eventstore.projections.views import CouponState, CouponStatus, CouponUse, Number

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
AsOf = Annotated[
    str | None,
    Query(
        max_length=64,
        description="As it was true then: of the events that had happened, whenever they were recorded. An ISO 8601 time, UTC "
        "unless it names its zone, or a date, which means the end of that UTC day. It may be in the future.",
    ),
]
KnownAt = Annotated[
    str | None,
    Query(
        max_length=64,
        description="As it was known then: of the events that had been recorded, whenever they happened. Written as `as_of`; "
        "together they ask what was known at one time of what was true at another.",
    ),
]
AtPosition = Annotated[
    int | None,
    Query(
        ge=0, le=INT64_MAX, description="As it was known when the log ended at this position, in place of `known_at`."
    ),
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Entries in the page.")]


class CouponPage(BaseModel):
    """A page of coupons; `next` is the `after` of the page that follows, null on the last.

    As of a moment a page may be shorter than `limit` though others follow.
    """

    coupons: list[CouponState]
    next: str | None
    as_of: Moment | None = Field(description="What the page is as of; null: now.")


class CouponUsage(CouponUse):
    """The usage of one coupon."""

    site_id: str
    coupon_id: str
    code: str | None
    discount_type: str | None
    discount_value: Number | None
    deleted: bool
    parked: bool = Field(description="Whether an event of it could not be taken in: later uses may be missing.")


class UsagePage(BaseModel):
    """A page of usage; `next` is the `after` of the page that follows, null on the last."""

    usage: list[CouponUsage]
    next: str | None


class HistoryPage(BaseModel):
    """A page of history in the order asked for; `next` is the `after` of the page that follows, null on the last."""

    events: list[HistoryEntry]
    next: int | None


@router.get("/v1/coupons", summary="Coupons, as they are now or as of a moment")
def coupons(
    here: Here,
    token: Reader,
    site: SiteParameter = None,
    code: Code = None,
    deleted: Annotated[bool | None, Query(description="Only deleted coupons, or only those that are not.")] = None,
    status: Annotated[CouponStatus | None, Query(description="Only coupons of this status.")] = None,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    at_position: AtPosition = None,
    after: After = None,
    limit: Limit = views.PAGE_COUPONS,
    wait_for: WaitFor = None,
) -> CouponPage:
    """A page of coupons with their usage, ordered by site and id; filters mean what they were at the moment asked for."""
    _wait(here, wait_for)
    page = here.store.coupons_page(
        site_id=site_asked(here, token, site),
        code=code,
        deleted=deleted,
        status=status,
        after=after,
        limit=limit,
        **_moment(as_of, known_at, at_position),
    )
    return CouponPage(coupons=page.coupons, next=page.next, as_of=page.as_of)


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
    _wait(here, wait_for)
    page = here.store.coupons_page(site_id=site_asked(here, token, site), code=code, after=after, limit=limit)
    rows = [
        CouponUsage(
            site_id=state.site_id,
            coupon_id=state.coupon_id,
            code=state.code,
            discount_type=state.discount_type,
            discount_value=state.discount_value,
            deleted=state.deleted,
            parked=state.parked,
            **state.usage.model_dump(),
        )
        for state in page.coupons
    ]
    return UsagePage(usage=rows, next=page.next)


@router.get("/v1/coupons/{coupon_id}", responses=_UNKNOWN, summary="One coupon, as it is now or as of a moment")
def coupon(
    here: Here,
    token: Reader,
    coupon_id: CouponId,
    site: SiteParameter = None,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    at_position: AtPosition = None,
    wait_for: WaitFor = None,
) -> CouponState:
    """The coupon's latest snapshot, its life, its usage, its status and what is odd about it."""
    _wait(here, wait_for)
    moment = _moment(as_of, known_at, at_position)
    return here.store.coupon(coupon_id, site_id=site_asked(here, token, site), **moment)


@router.get("/v1/coupons/{coupon_id}/history", responses=_UNKNOWN, summary="Everything that happened to a coupon")
def history(
    here: Here,
    token: Reader,
    coupon_id: CouponId,
    site: SiteParameter = None,
    after: Annotated[int, Query(ge=0, le=INT64_MAX, description="The `next` of the page before.")] = 0,
    order: Annotated[
        Order, Query(description="recorded: as the log took them in. happened: by their own time.")
    ] = Order.RECORDED,
    as_of: AsOf = None,
    known_at: KnownAt = None,
    at_position: AtPosition = None,
    limit: Limit = views.PAGE_COUPONS,
    wait_for: WaitFor = None,
) -> HistoryPage:
    """A page of the coupon's events as the log holds them, with what each changed and what is odd about it.

    As of a moment, the events that count then.
    """
    _wait(here, wait_for)
    found = here.store.history(
        coupon_id,
        site_id=site_asked(here, token, site),
        after=after,
        limit=limit,
        order=order,
        **_moment(as_of, known_at, at_position),
    )
    return HistoryPage(events=found, next=found[-1].position if len(found) == limit else None)


def _moment(as_of: str | None, known_at: str | None, at_position: int | None) -> Asked:
    return {
        "as_of": None if as_of is None else read_time(as_of, "as_of"),
        "known_at": None if known_at is None else read_time(known_at, "known_at"),
        "at_position": at_position,
    }


def _wait(here: Context, position: int | None) -> None:
    if position is None:
        return
    head = here.store.head()
    if position > head:
        # Waiting would hold a thread for a position that nobody was given.
        raise InputError(f"wait_for={position} is no position of the log, which ends at {head}")
    if not here.store.wait(position, projections=views.PROJECTIONS):
        raise StoreUnavailable(f"the projections have not reached position {position} yet; ask again")
