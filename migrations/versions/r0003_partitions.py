"""On PostgreSQL `events` is partitioned by position, and its guards look once a statement. SQLite has nothing to change."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from eventstore.errors import StoreNotReady
from migrations.statements import run_sql_file, statements

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PARTITION_POSITIONS = 10_000_000
"""Positions in a partition, as in `eventstore.log.partitions`: about 15 GB of documented events."""
AHEAD = 2
"""Partitions made ahead of the one that takes the next event."""

_DEPENDENTS = """
SELECT v.oid::regclass::text FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid JOIN pg_catalog.pg_class v ON v.oid = w.ev_class
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND v.relkind IN ('v', 'm')
    AND d.refobjid = CAST(:table AS regclass)
UNION SELECT 'publication ' || quote_ident(p.pubname) FROM pg_catalog.pg_publication_rel r
JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = CAST(:table AS regclass)
UNION SELECT 'foreign key ' || conname || ' of ' || conrelid::regclass::text FROM pg_catalog.pg_constraint
WHERE contype = 'f' AND confrelid = CAST(:table AS regclass)
"""
"""What others have made on events. It goes by the table itself, not by its name: it would stay with the first partition, and see
nothing of the next ones."""
_GRANTS = """
SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS role, a.privilege_type AS privilege
FROM pg_catalog.pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
WHERE c.oid = CAST(:table AS regclass) AND a.grantee <> c.relowner
"""


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    schema = connection.scalar(sa.text("SELECT quote_ident(current_schema())"))
    last = connection.scalar(sa.text(f"SELECT coalesce(max(position), 0) FROM {schema}.events"))  # noqa: S608 - quoted
    dependents = sorted(connection.scalars(sa.text(_DEPENDENTS), {"table": f"{schema}.events"}))
    if dependents:
        raise StoreNotReady(
            f"events becomes a partitioned table, which these would not follow: {', '.join(dependents)}; drop them, run "
            "`eventstore init`, and make them again"
        )
    run_sql_file("0003_events_postgresql.sql", schema=schema)
    for role, privilege in connection.execute(sa.text(_GRANTS), {"table": f"{schema}.events_from_1"}).all():
        op.execute(f"GRANT {privilege} ON {schema}.events TO {role}")
        op.execute(f"REVOKE {privilege} ON {schema}.events_from_1 FROM {role}")
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
