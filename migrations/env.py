"""Alembic's entry: runs on the connection that `eventstore.log.schema` hands over, or on EVENTSTORE_URL from the CLI."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection

from eventstore.log.engine import make_engine, writing
from eventstore.log.tables import metadata


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=False)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    engine = make_engine(os.environ.get("EVENTSTORE_URL", "sqlite:///eventstore.db"))
    with engine.connect() as own:
        _run(writing(own))
        own.commit()
