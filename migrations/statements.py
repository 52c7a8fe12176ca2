"""Reads and runs the `.sql` files that belong to a revision."""

from __future__ import annotations

from pathlib import Path

SEPARATOR = "\n\n"
FOLDER = Path(__file__).parent / "sql"


def statements(name: str, **values: object) -> list[str]:
    """The statements of `migrations/sql/NAME`, one a paragraph (blank lines part them), without comments.

    `{key}` stands for a value that only the database knows, such as its schema's name; it is put in as it is given, so a
    name must be quoted already.
    """
    found = []
    for paragraph in (FOLDER / name).read_text(encoding="utf-8").split(SEPARATOR):
        statement = "\n".join(line for line in paragraph.splitlines() if not line.startswith("--")).strip()
        for key, value in values.items():
            statement = statement.replace(f"{{{key}}}", str(value))
        if statement:
            found.append(statement)
    return found


def run_sql_file(name: str, **values: object) -> None:
    """Execute the statements of `migrations/sql/NAME` in a revision."""
    from alembic import op

    for statement in statements(name, **values):
        op.execute(statement)
