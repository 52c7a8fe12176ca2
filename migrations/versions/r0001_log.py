"""The log: events, the dedup ledger, the head, quarantine, tokens, projection checkpoints, and the append-only guards."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.statements import run_sql_file

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

position = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("position", position, primary_key=True, autoincrement=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("site_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("entity_id", sa.Text, nullable=False),
        sa.Column("coupon_id", sa.Text),
        sa.Column("event_time", sa.BigInteger, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger),
        sa.Column("anonymize", sa.Boolean, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("original", sa.LargeBinary),
        sa.Column("leaf_hash", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_events_site_id_coupon_id_position", "events", ["site_id", "coupon_id", "position"])
    op.create_index("ix_events_event_time", "events", ["event_time"])
    op.create_table(
        "event_keys",
        sa.Column("site_id", sa.Text, primary_key=True),
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("content_hash", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    head = op.create_table(
        "log_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="ck_log_head_one_row"),
    )
    op.bulk_insert(head, [{"id": 1, "size": 0, "recorded_at": 0}])
    op.create_table(
        "quarantine",
        sa.Column("id", position, primary_key=True, autoincrement=True),
        sa.Column("site_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("handler", sa.Text),
        sa.Column("event_id", sa.Text),
        sa.Column("position", sa.BigInteger),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.Text),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("resolved_at", sa.BigInteger),
        sa.Column("resolution", sa.Text),
        sa.UniqueConstraint("site_id", "body_hash", "kind", name="uq_quarantine_site_id_body_hash_kind"),
    )
    op.create_table(
        "api_tokens",
        sa.Column("token_id", sa.Text, primary_key=True),
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("site_id", sa.Text),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.UniqueConstraint("token_hash", name="uq_api_tokens_token_hash"),
    )
    op.create_table(
        "projection_checkpoints",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    run_sql_file(f"0001_guards_{op.get_bind().dialect.name}.sql")


def downgrade() -> None:
    raise RuntimeError("the log is never migrated down: restore a backup made before the upgrade instead")
