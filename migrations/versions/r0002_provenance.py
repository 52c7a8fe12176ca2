"""Where events come from: registered Wix apps with their keys and instances, and counts of what the log itself does not hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.statements import run_sql_file

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "wix_apps",
        sa.Column("app_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("accept_new_instances", sa.Boolean, nullable=False),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("removed_at", sa.BigInteger),
    )
    op.create_table(
        "wix_app_keys",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("app_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("retired_at", sa.BigInteger),
    )
    op.create_table(
        "wix_app_instances",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("app_id", sa.Text, nullable=False),
        sa.Column("instance_id", sa.Text, nullable=False),
        sa.Column("test", sa.Boolean, nullable=False),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("removed_at", sa.BigInteger),
    )
    op.create_index("ix_wix_app_instances_instance_id", "wix_app_instances", ["instance_id"])
    op.create_table(
        "delivery_counts",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("site_id", sa.Text, primary_key=True),
        sa.Column("route", sa.Text, primary_key=True),
        sa.Column("outcome", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    run_sql_file(f"0002_guards_{op.get_bind().dialect.name}.sql")


def downgrade() -> None:
    raise RuntimeError("the log is never migrated down: restore a backup made before the upgrade instead")
