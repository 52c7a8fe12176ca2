"""The log's tables, declared once; every statement is composed from them. The migrations make them, and a test compares."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from eventstore.log.types import Bytes, JsonText, Position, UtcMicros

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

events = Table(
    "events",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=False),
    Column("event_id", Text, nullable=False),
    Column("site_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("entity_id", Text, nullable=False),
    Column("coupon_id", Text),
    Column("event_time", UtcMicros, nullable=False),
    Column("recorded_at", UtcMicros, nullable=False),
    Column("sequence", BigInteger),
    Column("anonymize", Boolean, nullable=False),
    Column("payload", Text, nullable=False),
    Column("original", Bytes),
    Column("leaf_hash", Bytes, nullable=False),
)
Index(None, events.c.site_id, events.c.coupon_id, events.c.position)
Index(None, events.c.event_time)

event_keys = Table(
    "event_keys",
    metadata,
    Column("site_id", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("content_hash", Bytes, nullable=False),
    sqlite_with_rowid=False,
)

log_head = Table(
    "log_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("recorded_at", UtcMicros, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Position, primary_key=True, autoincrement=True),
    Column("site_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("handler", Text),
    Column("event_id", Text),
    Column("position", BigInteger),
    Column("reason", Text, nullable=False),
    Column("body", Bytes, nullable=False),
    Column("body_hash", Bytes, nullable=False),
    Column("headers", JsonText),
    Column("received_at", UtcMicros, nullable=False),
    Column("resolved_at", UtcMicros),
    Column("resolution", Text),
    UniqueConstraint("site_id", "body_hash", "kind"),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("token_id", Text, primary_key=True),
    Column("token_hash", Bytes, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("site_id", Text),
    Column("scopes", Text, nullable=False),
    Column("created_at", UtcMicros, nullable=False),
    Column("revoked_at", UtcMicros),
)

wix_apps = Table(
    "wix_apps",
    metadata,
    Column("app_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("accept_new_instances", Boolean, nullable=False),
    Column("added_at", UtcMicros, nullable=False),
    Column("removed_at", UtcMicros),
)

wix_app_keys = Table(
    "wix_app_keys",
    metadata,
    Column("id", Position, primary_key=True, autoincrement=True),
    Column("app_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("public_key", Text, nullable=False),
    Column("added_at", UtcMicros, nullable=False),
    Column("retired_at", UtcMicros),
)

wix_app_instances = Table(
    "wix_app_instances",
    metadata,
    Column("id", Position, primary_key=True, autoincrement=True),
    Column("app_id", Text, nullable=False),
    Column("instance_id", Text, nullable=False),
    Column("test", Boolean, nullable=False),
    Column("added_at", UtcMicros, nullable=False),
    Column("removed_at", UtcMicros),
)

Index(None, wix_app_instances.c.instance_id)

delivery_counts = Table(
    "delivery_counts",
    metadata,
    Column("day", Text, primary_key=True),
    Column("site_id", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Deliveries that are no events of the log: duplicates, conflicts, quarantined and refused ones. What was appended is counted
in the log itself. `day` is the UTC day of receipt (2026-09-01); `reason` says why a delivery was refused, else ""."""

projection_work = Table(
    "projection_work",
    metadata,
    Column("name", Text, primary_key=True),
    Column("worker", Text, nullable=False),
    Column("started_at", UtcMicros, nullable=False),
    Column("seen_at", UtcMicros, nullable=False),
    Column("state", JsonText, nullable=False),
)
"""Who does or did last what only one may do at a time: `name` is `runner` (follows the log) or `rebuild`. `worker` tells where it
runs (host and process), `state` how far it is. It informs people; what keeps others out is a lock that ends with its holder."""

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", Position, primary_key=True, autoincrement=True),
    Column("projection", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("site_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("parked_at", UtcMicros, nullable=False),
    Column("resolved_at", UtcMicros),
    Column("resolution", Text),
    Column("note", Text),
    UniqueConstraint("projection", "position"),
)
"""Events that a projection could not take. `subject_id` is the event's coupon, or its entity where it names no coupon: its later
events wait with it. `resolution` is `retried` or `skipped`; a skipped event is left out of that projection for good."""
Index(None, dead_letters.c.site_id, dead_letters.c.subject_id)

projection_checkpoints = Table(
    "projection_checkpoints",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("updated_at", UtcMicros, nullable=False),
)

handler_positions = Table(
    "handler_positions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("handler", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("claimed", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("suspect", BigInteger),
    Column("deaths", Integer, nullable=False),
    Column("handled", BigInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("started_at", UtcMicros, nullable=False),
    Column("updated_at", UtcMicros, nullable=False),
    Column("paused", Text),
)
"""Where a handler stands, under the name of its set: everything up to `position` is handled or parked, and what stands up to
`claimed` may have been begun. `epoch` grows with each process that takes over, and with each replay: what an earlier one still
wants to write is refused. `suspect` is the event that was begun alone after a process had died, `deaths` how often. `handled`
counts; `paused` says why nothing is begun for now."""

handler_done = Table(
    "handler_done",
    metadata,
    Column("name", Text, primary_key=True),
    Column("handler", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)
"""Events above a handler's position that it has handled in a transaction of the store: written with what it wrote itself."""

handler_dead_letters = Table(
    "handler_dead_letters",
    metadata,
    Column("id", Position, primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False),
    Column("handler", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("handled_to", BigInteger, nullable=False),
    Column("site_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("parked_at", UtcMicros, nullable=False),
    Column("retry_at", UtcMicros),
    Column("begun_at", UtcMicros),
    Column("resolved_at", UtcMicros),
    Column("resolution", Text),
    Column("note", Text),
)
"""Events that a handler could not take, `position`, each with its subject: later events of it wait, for that handler alone. What
stands up to `handled_to` of them is done. `retry_at` is when it is tried again; none: it waits for a person. `begun_at` stands
while it is being tried. `resolution` is `handled` or `skipped`; `note` why it was skipped, or that it is to be."""
Index(
    None,
    handler_dead_letters.c.name,
    handler_dead_letters.c.handler,
    handler_dead_letters.c.resolved_at,
    handler_dead_letters.c.retry_at,
)
