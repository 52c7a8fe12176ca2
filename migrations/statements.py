"""Runs the `.sql` files that belong to a revision."""

from __future__ import annotations

from pathlib import Path

from alembic import op

SEPARATOR = "\n\n"


def run_sql_file(name: str) -> None:
    """Execute the statements of `migrations/sql/NAME`, one a paragraph (blank lines part them)."""
    text = (Path(__file__).parent / "sql" / name).read_text(encoding="utf-8")
    for paragraph in text.split(SEPARATOR):
        lines = [line for line in paragraph.splitlines() if not line.startswith("--")]
        if any(line.strip() for line in lines):
            op.execute("\n".join(lines))
