"""On PostgreSQL `events` is partitioned by position, and its guards look once a statement. SQLite has nothing to change."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.statements import run_sql_file, statements

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PARTITION_POSITIONS = 10_000_000
"""Positions in a partition, as in `eventstore.log.partitions`: about 15 GB of documented events."""
AHEAD = 2
"""Partitions made ahead of the one that takes the next event."""


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    schema = connection.scalar(sa.text("SELECT quote_ident(current_schema())"))
    last = connection.scalar(sa.text(f"SELECT coalesce(max(position), 0) FROM {schema}.events"))  # noqa: S608 - quoted
    run_sql_file("0003_events_postgresql.sql", schema=schema)
    run_sql_file("0003_guards_postgresql.sql", schema=schema)
    end = (last // PARTITION_POSITIONS + 1) * PARTITION_POSITIONS + 1
    _make_partition(schema, 1, end)
    for start in range(end, end + AHEAD * PARTITION_POSITIONS, PARTITION_POSITIONS):
        _make_partition(schema, start, start + PARTITION_POSITIONS)


def _make_partition(schema: str, start: int, end: int) -> None:
    """Positions from `start` to before `end`. The first partition is there: it was the table itself."""
    name = f"events_from_{start}"
    for statement in statements("0003_partition_postgresql.sql", schema=schema, partition=name, start=start, end=end):
        if start > 1 or not statement.startswith("CREATE TABLE"):
            op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("the log is never migrated down: restore a backup made before the upgrade instead")
