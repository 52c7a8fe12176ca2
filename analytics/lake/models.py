"""What the lake makes of the log beside the store's projections, for reports alone; and the session of the models in the lake,
where they may read its typed events."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import pyarrow as pa

from analytics.columns import event_columns
from eventstore.projections.catalogue import Catalogue, Projection, parse
from eventstore.projections.duck import ModelSession, quoted

NAMES = ("coupon_signs",)
LAKE_EVENTS = "lake_events"
"""What a model of the lake reads beside `facts` and `batch`: its events with READ, as the lake has typed them."""
READ = (
    *("position", "site_id", "coupon_id", "coupon_key", "type", "event_time", "sequence"),
    *("has_coupon", "code", "usage_limit", "start_time", "expiration_time", "active"),
)
_LOG = ("position", "event_time", "recorded_at", "payload")
"""The columns of `batch`, as every session of the models has them: times in microseconds."""
ROWS = ", ".join(
    [
        *("epoch_us(event_time) AS event_time", "epoch_us(recorded_at) AS recorded_at", "payload"),
        *(name for name in READ if name != "event_time"),
    ]
)
"""What is read of the lake's table of the log for a session."""


@lru_cache(maxsize=1)
def lake_models() -> tuple[Projection, ...]:
    """The models that every lake has and no store."""
    folder = files("analytics.lake")
    return tuple(
        parse((folder / f"{name}.sql").read_text(encoding="utf-8"), f"{name}.sql", ours=True) for name in NAMES
    )


@lru_cache(maxsize=16)
def in_lake(catalogue: Catalogue) -> Catalogue:
    """The projections of a store's lake: those of the store and its own."""
    return Catalogue([*catalogue, *lake_models()])


class LakeSession(ModelSession):
    """A session that takes its facts from rows of ROWS; its `lake_events` are whatever `show_events` was given last."""

    def __init__(self, models: Sequence[Projection], *, memory_limit: str, temp_directory: str) -> None:
        empty = ", ".join(
            f"CAST(NULL AS {each.type}) AS {quoted(each.name)}" for each in event_columns() if each.name in READ
        )
        relations = ((LAKE_EVENTS, f"SELECT {empty} WHERE false"),)
        super().__init__(models, memory_limit=memory_limit, temp_directory=temp_directory, relations=relations)

    def show_events(self, rows: pa.Table) -> None:
        """Replace `lake_events`, which nothing is left out of, by these rows."""
        self.connection.register("lake_batch", rows)
        self.execute(
            f"""CREATE OR REPLACE TEMP VIEW {LAKE_EVENTS} AS
            SELECT * REPLACE (make_timestamptz(event_time) AS event_time) FROM lake_batch"""
        )

    def load_facts(self, batch: pa.Table) -> int:
        """Replace `batch` and `facts` by these rows; returns how many there are."""
        return super().load_facts(batch.select(_LOG))

    def drop_facts(self) -> None:
        """Let go of the batch, and its memory, once it is lifted."""
        self.connection.unregister("lake_batch")
        super().drop_facts()
