"""Which event a model cannot take: found by running the models over fewer and fewer of those that it failed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import orjson
import pyarrow as pa

from eventstore.projections.blame import shortest_failing
from eventstore.projections.catalogue import FACTS, Projection
from eventstore.projections.dead_letters import reason_of
from eventstore.projections.duck import ModelSession


@dataclass(frozen=True, slots=True)
class Culprit:
    """An event that a model cannot take, and why."""

    model: Projection
    position: int
    event_id: str
    reason: str

    def __str__(self) -> str:
        return (
            f"the projection {self.model.name} cannot take the event at position {self.position} (id {self.event_id}): "
            f"{self.reason}"
        )


def culprit(models: Sequence[Projection], batch: pa.Table) -> Culprit | None:
    """The first event of a batch of the log that a model cannot take, with those before it; None if they take them all."""
    failure = _failure(models, batch)
    if failure is None:
        return None
    failing, last = shortest_failing(batch.num_rows, failure, lambda some: _failure(models, batch.slice(0, some)))
    # The event by itself tells better what is wrong than it does with those before it.
    model, error = _failure(models, batch.slice(failing - 1, 1)) or last
    position = batch["position"][failing - 1].as_py()
    try:
        event_id = orjson.loads(batch["payload"][failing - 1].as_py())["event_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        event_id = "that cannot be read"
    return Culprit(model, position, event_id, reason_of(error))


def _failure(models: Sequence[Projection], batch: pa.Table) -> tuple[Projection, duckdb.Error] | None:
    """The first of the models that cannot make its rows of these events, and why not."""
    session = ModelSession(models)
    at = models[0]
    try:
        session.load_facts(batch)
        for at in models:
            if at.source == FACTS:
                session.lift(at)
        for at in models:
            if at.source != FACTS:
                session.lift(at)
            session.merge(at)
            # Also what only comes to light when the rows are made into what is stored.
            session.stored_rows(at)
    except duckdb.Error as error:
        return at, error
    finally:
        session.close()
    return None
