"""What there is to ask: every view and macro with its columns and what they mean. No store is needed to tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analytics.columns import TableColumn, projection_columns
from analytics.lake import Snapshot
from analytics.views import REGISTER_COLUMNS, macros, views
from eventstore.errors import NotFound
from eventstore.nearest import did_you_mean
from eventstore.projections.catalogue import Catalogue, projections

_MACROS = {
    "register": "The coupons as they were true at true_at, of what the log had recorded by known_by; null: whenever. "
    "Here too a date without a time is its midnight UTC.",
    "coupons_as_of": "The coupons as they were true at a time, by when the events happened. A date without a time is its "
    "midnight UTC: its beginning, where the report register means its end.",
    "known_at": "The coupons as they were known at a time, by when the log recorded the events. A date without a time is its "
    "midnight UTC.",
}


@dataclass(frozen=True, slots=True)
class Askable:
    """Something that a query can name: how it is written, what it is, and its columns.

    `usage`: its name, and for a macro its parameters, as in `coupons_as_of(moment)`.
    """

    name: str
    usage: str
    about: str
    columns: tuple[TableColumn, ...]


def askable(catalogue: Catalogue | None = None) -> tuple[Askable, ...]:
    """All there is, views first. `catalogue`: of an open store with projections of your own; None: those of every store."""
    known = catalogue or projections()
    empty = Snapshot(location="", position=0, events_end=0, events=(), projections={}, deliveries=())
    found = [Askable(each.name, each.name, each.about, each.columns) for each in views(empty, known)]
    model = known.find(REGISTER_COLUMNS)
    # The macros make what the model documents, and not what the lake keeps beside it.
    documented = {each.name for each in model.shown}
    register = tuple(each for each in projection_columns(model) if each.name in documented)
    found += [
        Askable(each.name, f"{each.name}({', '.join(each.parameters)})", _MACROS[each.name], register)
        for each in macros()
    ]
    return tuple(found)


def find(name: str, among: Sequence[Askable]) -> Askable:
    """The one of that name, in any case. Raises NotFound, with the nearest and all there are."""
    wanted = name.lower().partition("(")[0]
    for each in among:
        if each.name.lower() == wanted:
            return each
    names = [each.name for each in among]
    raise NotFound(f"there is no table {name!r}{did_you_mean(wanted, names)}; there are {', '.join(names)}")
