"""What the ingestion routes answer."""

from __future__ import annotations

import logging
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from eventstore.api.problems import problem
from eventstore.ingest import LineAnswer
from eventstore.log.records import Outcome

_log = logging.getLogger("eventstore.api")


class EventAnswer(BaseModel):
    """What became of one event. Sent only after it is durable."""

    model_config = ConfigDict(frozen=True)

    outcome: Literal["appended", "duplicate", "conflict", "quarantined"] = Field(
        description="appended: new in the log. duplicate: the same event was told before. conflict: its id is taken by an "
        "event of other content; kept in quarantine. quarantined: it could not become an event; kept for a retry."
    )
    event_id: str | None = Field(default=None, description="The event's id; absent when quarantined.")
    position: int | None = Field(
        default=None,
        description="Its place in the log: of the first telling when a duplicate; absent when quarantined.",
    )
    quarantine_id: int | None = Field(
        default=None, description="The kept evidence of a conflict or quarantined delivery."
    )
    reason: str | None = Field(default=None, description="Why it is in conflict or quarantined.")

    @classmethod
    def of(cls, outcome: Outcome) -> EventAnswer:
        return cls(
            outcome=outcome.kind.value,
            event_id=outcome.event_id,
            position=outcome.position,
            quarantine_id=outcome.quarantine_id,
            reason=outcome.reason,
        )


def event_response(outcomes: list[Outcome]) -> Response:
    """The answer to a delivery of one event. Quarantine and conflicts are logged, by their number alone."""
    outcome = outcomes[0]
    told = {"outcome": outcome.kind}
    told |= {name: value for name, value in outcome._asdict().items() if value is not None and name != "kind"}
    if outcome.quarantine_id is not None:
        _log.info("kept in quarantine", extra={"outcome": outcome.kind.value, "quarantine_id": outcome.quarantine_id})
    elif _log.isEnabledFor(logging.DEBUG):
        _log.debug("delivery", extra={"outcome": outcome.kind.value, "position": outcome.position})
    return Response(orjson.dumps(told), media_type="application/json")


def line_answer(answer: LineAnswer) -> dict[str, Any]:
    """The NDJSON answer to one line: that of its event; `events` for a page of several; `problem` when it was refused."""
    if answer.error is not None:
        return {"line": answer.line, "outcome": "refused", "problem": problem(answer.error)}
    events = [EventAnswer.of(outcome).model_dump(exclude_none=True) for outcome in answer.outcomes]
    if len(events) == 1:
        return {"line": answer.line, **events[0]}
    return {"line": answer.line, "outcome": answer.outcome, "events": events}
