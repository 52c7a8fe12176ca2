"""What the notebooks show, in pieces that a notebook and an exported page draw alike: tiles, tables, cards, rows of them.

A part is HTML with a hole for each thing that only its surroundings can draw, a chart or a filter. In a notebook marimo fills
the holes; in an exported page `analytics.exporting` does. Colours are the page's own text colour and greys that show on any
ground, so that a part needs not know whether the page is light or dark; rows wrap, so that it needs not know how wide it is.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from html import escape, unescape
from typing import TypeAlias

import pyarrow as pa

from analytics.results import ReportResult, cell

Render = Callable[[object], str]
"""Draws what is not a part, or what a part cannot draw itself, as HTML."""
Data: TypeAlias = ReportResult | pa.Table
"""What is shown: a report's answer, or the answer of a query."""

TABLE_ROWS = 200
"""Rows of a table that are shown unless a notebook says otherwise: more than one reads, and quick to draw."""
CARD_WIDTH = 440
"""The width, in pixels, below which two cards do not stand beside each other: a chart's labels need as much."""
TILE_WIDTH = 150
"""The least width of a tile in pixels: two stand beside each other on a phone."""

_TAG = re.compile(r"<[^>]*>")
_EDGE = "1px solid rgba(128,128,128,.28)"
_QUIET = "opacity:.72"
_CELL = "padding:5px 14px 5px 0;vertical-align:top;min-width:5rem"
TONES = {"plain": "rgba(128,128,128,.45)", "good": "#009E73", "watch": "#E69F00", "bad": "#D55E00"}
"""What a tile's edge says of its number. Never the colour alone: the tile's note says it in words."""


class Part(ABC):
    """Something that a notebook shows. marimo draws it by `_mime_`, an exported page by `html`."""

    @abstractmethod
    def html(self, render: Render) -> str:
        """Its HTML; `render` draws the charts and filters in it."""

    def _mime_(self) -> tuple[str, str]:
        return "text/html", self.html(_in_marimo)


def _in_marimo(thing: object) -> str:
    import marimo

    return str(marimo.as_html(thing).text)


def _drawn(thing: object, render: Render) -> str:
    return thing.html(render) if isinstance(thing, Part) else render(thing)


@dataclass(frozen=True)
class Sentence(Part):
    """A sentence in the place of a chart or a table that would be empty."""

    text: str

    def html(self, render: Render) -> str:  # noqa: ARG002
        return f'<p style="margin:18px 0;{_QUIET}">{escape(self.text)}</p>'


@dataclass(frozen=True)
class Title(Part):
    """The heading of a page."""

    text: str

    def html(self, render: Render) -> str:  # noqa: ARG002
        return f'<div role="heading" aria-level="1" style="font-size:1.7rem;font-weight:650">{escape(self.text)}</div>'


@dataclass(frozen=True)
class Tile:
    """A number with its name and a note; `tone` is one of TONES."""

    label: str
    value: str
    note: str = ""
    tone: str = "plain"


@dataclass(frozen=True)
class Tiles(Part):
    """The few numbers that one looks at first."""

    tiles: Sequence[Tile]

    def html(self, render: Render) -> str:  # noqa: ARG002
        drawn = "".join(
            f'<div style="border:{_EDGE};border-left:4px solid {TONES[each.tone]};border-radius:8px;padding:10px 14px">'
            f'<div style="font-size:.8rem;{_QUIET}">{escape(each.label)}</div>'
            f'<div style="font-size:1.7rem;font-weight:600;line-height:1.25;font-variant-numeric:tabular-nums">'
            f"{escape(each.value)}</div>"
            f'<div style="font-size:.78rem;{_QUIET}">{escape(each.note)}</div></div>'
            for each in self.tiles
        )
        return _grid(drawn, TILE_WIDTH, "10px")


@dataclass(frozen=True)
class Card(Part):
    """A part, a chart or anything else under a title and a line that says how to read it."""

    title: str
    content: object
    note: str = ""

    def html(self, render: Render) -> str:
        note = f'<p style="font-size:.85rem;margin:2px 0 10px;{_QUIET}">{escape(self.note)}</p>' if self.note else ""
        return (
            f'<section style="border:{_EDGE};border-radius:10px;padding:14px 16px;min-width:0;overflow:hidden">'
            f'<div role="heading" aria-level="2" style="font-size:1.02rem;font-weight:600;margin:0 0 2px">'
            f"{escape(self.title)}</div>{note}"
            f"{_drawn(self.content, render)}</section>"
        )


@dataclass(frozen=True)
class Row(Part):
    """Things side by side where there is room, else one below the other. `width`: the least of each, in pixels."""

    things: Sequence[object]
    width: int = CARD_WIDTH

    def html(self, render: Render) -> str:
        return _grid("".join(_drawn(each, render) for each in self.things), self.width, "14px")


@dataclass(frozen=True)
class Column(Part):
    """Things one below the other, as one thing of a row."""

    things: Sequence[object]

    def html(self, render: Render) -> str:
        drawn = "".join(_drawn(each, render) for each in self.things)
        return f'<div style="display:flex;flex-direction:column;gap:14px;min-width:0">{drawn}</div>'


@dataclass(frozen=True)
class Line(Part):
    """Filters in a line, which wraps."""

    things: Sequence[object]

    def html(self, render: Render) -> str:
        drawn = "".join(f"<div>{_drawn(each, render)}</div>" for each in self.things)
        return f'<div style="display:flex;flex-wrap:wrap;gap:8px 22px;align-items:center">{drawn}</div>'


@dataclass(frozen=True)
class Table(Part):
    """Rows to read. `columns`: those to show, by name, with their headings; None: all. `empty`: said where there is no row."""

    data: Data
    empty: str
    columns: dict[str, str] | None = None
    most: int = TABLE_ROWS

    def html(self, render: Render) -> str:  # noqa: ARG002
        names, rows, units = table(self.data)
        if not rows:
            return Sentence(self.empty).html(str)
        kept = self.columns or {name: name.replace("_", " ") for name in names}
        places = [names.index(name) for name in kept]
        right = {place for place in places if _is_numeric(row[place] for row in rows)}
        head = "".join(
            f'<th style="{_CELL};text-align:{"right" if place in right else "left"};font-weight:600;white-space:nowrap">'
            f"{escape(heading)}</th>"
            for place, heading in zip(places, kept.values(), strict=True)
        )
        body = "".join(
            f'<tr style="border-top:{_EDGE}">{"".join(_cell(row[place], units[place], place in right) for place in places)}</tr>'
            for row in rows[: self.most]
        )
        left = len(rows) - self.most
        more = f'<p style="font-size:.85rem;margin:8px 0 0;{_QUIET}">… and {left:,} more rows</p>' if left > 0 else ""
        return (
            '<div style="overflow-x:auto"><table style="border-collapse:collapse;font-size:.86rem;width:100%;margin:0">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}"
        )


def table(data: Data) -> tuple[list[str], list[tuple[object, ...]], list[str]]:
    """The names of the columns, the rows, and the columns' units (see `analytics.catalogue.UNITS`; "" where none is told)."""
    if isinstance(data, ReportResult):
        return [each.name for each in data.columns], list(data.rows), [each.unit for each in data.columns]
    names = data.column_names
    return names, list(zip(*(column.to_pylist() for column in data.columns), strict=True)), [""] * len(names)


def _grid(drawn: str, least: int, gap: str) -> str:
    columns = f"repeat(auto-fit,minmax(min(100%,{least}px),1fr))"
    return f'<div style="display:grid;grid-template-columns:{columns};gap:{gap};align-items:stretch">{drawn}</div>'


def _cell(value: object, unit: str, right: bool) -> str:
    alike = ";text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap" if right else ""
    if isinstance(value, date):
        alike = ";white-space:nowrap"
    if isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}"
    else:
        text = cell(value, unit)
    return f'<td style="{_CELL}{alike}">{escape(text)}</td>'


def _is_numeric(values: Iterable[object]) -> bool:
    there = [value for value in values if value is not None]
    return bool(there) and all(
        isinstance(value, int | float | Decimal) and not isinstance(value, bool | datetime) for value in there
    )


def plain_text(html: str) -> str:
    """The text of a piece of HTML, such as marimo makes of a label."""
    return unescape(_TAG.sub("", html)).strip()
