"""What projections need beside their tables: who follows the log or rebuilds, and the events that a model could not take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "projection_work",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("projection", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("site_id", sa.Text, nullable=False),
        sa.Column("subject_id", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("parked_at", sa.BigInteger, nullable=False),
        sa.Column("resolved_at", sa.BigInteger),
        sa.Column("resolution", sa.Text),
        sa.Column("note", sa.Text),
        sa.UniqueConstraint("projection", "position"),
    )
    # From now on projections that share a checkpoint move at one instant: another one tells that the source was changed alone.
    op.execute("UPDATE projection_checkpoints SET updated_at = (SELECT max(updated_at) FROM projection_checkpoints)")


def downgrade() -> None:
    raise RuntimeError("the log is never migrated down: restore a backup made before the upgrade instead")
