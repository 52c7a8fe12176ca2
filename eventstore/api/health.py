"""Whether the server is alive, whether it may be asked, and how far its projections are."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from eventstore.api.context import Here
from eventstore.api.problems import PROBLEM
from eventstore.errors import StoreUnavailable
from eventstore.projections import views
from eventstore.projections.lag import STANDSTILL_SECONDS, lag

router = APIRouter(tags=["operation"])


class Health(BaseModel):
    """The server's health."""

    status: str = Field(description="`ok`, or `degraded` when the projections cannot follow the log.")
    version: str
    head: int = Field(description="The position of the last event.")
    projected: int = Field(description="The position that the projections have reached.")
    problem: str | None = Field(default=None, description="What keeps the projections from following.")
    pid: int = Field(description="The process that answers: one of several, if there are several workers.")


def kind_of(error: str | None) -> str | None:
    """Of an error the kind alone: what a database or a model says may quote what it choked on."""
    return (error or "").partition(":")[0] or None


@router.get("/healthz", summary="Is the server well?")
def healthz(request: Request, here: Here) -> Health:
    """Reads the log's head and the projections' position; needs no token and tells nothing about the events."""
    from eventstore import __version__

    found = lag(here.store.engine, here.store.catalogue)
    # What kept them from following is no problem any more once they have, whoever saw to that.
    problem = request.app.state.problem() or _standstill(found.stands_still) if found.events else None
    return Health(
        status="ok" if problem is None else "degraded",
        version=__version__,
        head=found.head,
        projected=found.position,
        problem=problem,
        pid=os.getpid(),
    )


class Ready(BaseModel):
    """The server may be asked: its database answers, and the projections follow the log."""

    head: int = Field(description="The position of the last event.")
    projected: int = Field(description="The position that the projections have reached.")
    lag_events: int = Field(description="Events that they have yet to take in.")
    lag_seconds: float = Field(description="The age of the oldest of these.")
    behind: list[str] = Field(
        description="Projections that stay as another version of their model made them, until `eventstore upgrade`."
    )
    stands_still: list[str] = Field(
        description="Projections of your own that do not move although events wait: they keep nobody from reading the others."
    )
    parked: int = Field(description="Coupons that wait for an event that a projection could not take.")


@router.get(
    "/readyz",
    summary="May the server be asked?",
    responses={503: {"description": "The database does not answer, or the projections stand still.", **PROBLEM}},
)
def readyz(here: Here) -> Ready:
    """200 while the database answers and the projections follow the log; else 503, which says why. Needs no token.

    It is meant for those who read: a server that is not ready takes events in all the same, as long as the database does.
    """
    found = lag(here.store.engine, here.store.catalogue)
    still = _standstill([name for name in found.stands_still if name in views.PROJECTIONS])
    if still is not None:
        raise StoreUnavailable(f"not ready: {still}")
    return Ready(
        head=found.head,
        projected=found.position,
        lag_events=found.events,
        lag_seconds=round(found.seconds, 3),
        behind=list(found.behind),
        stands_still=list(found.stands_still),
        parked=found.parked,
    )


def _standstill(names: Sequence[str]) -> str | None:
    if not names:
        return None
    return (
        f"events have waited for more than {STANDSTILL_SECONDS:.0f} s and these projections do not move: "
        f"{', '.join(names)}"
    )
