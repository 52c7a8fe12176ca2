"""Whether the server is alive and how far its projections are."""

from __future__ import annotations

import os

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from eventstore.api.context import Here

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

    head = here.store.head()
    projected = here.store.runner.position()
    # What kept them from following is no problem any more once they have, whoever saw to that.
    problem = request.app.state.problem() if projected < head else None
    return Health(
        status="ok" if problem is None else "degraded",
        version=__version__,
        head=head,
        projected=projected,
        problem=problem,
        pid=os.getpid(),
    )
