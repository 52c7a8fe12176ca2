"""Bringing a store to this program: its schema, then the projections whose tables today's models have not made.

Nothing stops meanwhile. A server that runs this program already serves the older tables until a rebuild has swapped them, and
goes on appending; its projections follow again from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from eventstore.errors import StoreNotReady
from eventstore.log import schema
from eventstore.log.engine import shown
from eventstore.projections import tables
from eventstore.projections.catalogue import Catalogue

if TYPE_CHECKING:
    from eventstore.projections.rebuild import RebuildProgress


@dataclass(frozen=True, slots=True)
class UpgradedProjection:
    """A projection that was rebuilt: the version of its model that had made its table (None: nothing had), and the one that has
    made it now."""

    name: str
    version_before: int | None
    version: int
    rows: int


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What an upgrade did. The revisions are of the schema and alike where it was this program's already; `projections` are
    those that were rebuilt, from the log up to `position`, in `seconds`."""

    revision_before: str
    revision: str
    projections: tuple[UpgradedProjection, ...]
    position: int
    seconds: float

    @property
    def did_something(self) -> bool:
        return self.revision_before != self.revision or bool(self.projections)


def upgrade(
    engine: Engine, catalogue: Catalogue, *, on_progress: Callable[[RebuildProgress], None] | None = None
) -> Upgraded:
    """Migrate the store's schema and rebuild the projections that are behind, with those that they hang together with.

    Safe to repeat, and to break off: what is done stays done. Raises StoreNotReady where there is no store or a newer one,
    NotOwner where the database role does not own the tables, and what a rebuild raises.
    """
    before = schema.revision(engine)
    if before is None:
        raise StoreNotReady(
            f"there is no store at {shown(engine.url)}; `eventstore init` makes one, --store or EVENTSTORE_URL names another"
        )
    schema.migrate(engine)
    tables.ensure(engine, catalogue)
    with engine.connect() as connection:
        found = tables.read_checkpoints(connection)
    behind = tuple(model.name for model in tables.behind(found, catalogue))
    if not behind:
        return Upgraded(before, schema.HEAD_REVISION, (), 0, 0.0)
    from eventstore.projections.rebuild import rebuild_projections

    done = rebuild_projections(engine, catalogue, behind, on_progress=on_progress)
    return Upgraded(
        before,
        schema.HEAD_REVISION,
        tuple(
            UpgradedProjection(name, found[name].version or None, catalogue.find(name).version, rows)
            for name, rows in done.rows.items()
        ),
        done.position,
        done.seconds,
    )
