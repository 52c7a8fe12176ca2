"""A notebook written to a file: run once, and what it shows put into a page, or a Jupyter notebook, that needs nothing else.

The page holds its charts' data and the library that draws them, so it opens without a network, follows the reader's choice of
light or dark, and its charts still answer to the mouse. marimo's own page would load its scripts from another host. The Jupyter
notebook holds the code, and each output twice: a picture that is shown everywhere, and the chart itself for those who draw it.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from html import escape, unescape
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pyarrow as pa

from analytics.files import new_file
from analytics.notebook import FOLDER, Notebook, asked_of, notebook, ready
from analytics.parts import Part, Table, plain_text
from eventstore.config import Settings
from eventstore.errors import InputError

SUFFIXES = (".html", ".ipynb")
"""What a notebook can be written to."""
OVERRIDDEN = ("settings", "asked")
"""What every notebook defines in one cell, and is given instead: whose store it asks, and what it begins with."""
PICTURE_WIDTH = 760
"""Of a chart as a picture, in pixels: it is drawn without a page whose width it could take."""
PICTURE_SCALE = 2.0
"""Its pixels for each of those, for sharp text."""
_LABEL = re.compile(r"data-label='([^']*)'")
_GENERATED = "Read from the log at position {position:,}, {time:%Y-%m-%d %H:%M} UTC."


@dataclass(frozen=True)
class Cell:
    """A cell that has been run: its code, whether readers are to see that, and what it shows; None: nothing."""

    code: str
    hidden: bool
    shown: object


@dataclass(frozen=True)
class Ran:
    """A notebook that has been run, and how far into the log it looked."""

    notebook: Notebook
    cells: tuple[Cell, ...]
    position: int


def export(name: str, target: Path, *, settings: Settings | None = None, asked: Mapping[str, str] | None = None) -> int:
    """Run the notebook and write what it shows to `target`, whose ending says how: .html or .ipynb. Returns the log's position.

    `asked`: what it begins with, by name: see `analytics.notebook.ASKED`. An existing file is replaced, once the new one is
    complete. Raises InputError, NotFound and StoreNotReady.
    """
    if target.suffix not in SUFFIXES:
        raise InputError(f"a notebook is written to a file that ends in {' or '.join(SUFFIXES)}, not to {target}")
    done = run(name, settings=settings, asked=asked)
    text = page(done) if target.suffix == ".html" else jupyter(done)
    with new_file(target) as file:
        file.write(text.encode())
    return done.position


def run(name: str, *, settings: Settings | None = None, asked: Mapping[str, str] | None = None) -> Ran:
    """Run the notebook in this process, without a server. Raises as `export` does."""
    given = asked_of(asked or {})
    used = ready(settings)
    found = notebook(name)
    app = _app(found)
    outputs, definitions = app.run(defs={"settings": used, "asked": given})
    cells = [each for each in _cells(found) if not each[2] & set(OVERRIDDEN)]
    ran = [
        Cell(code, hidden, shown if asked_by_sql is None else definitions[asked_by_sql])
        for (code, hidden, _, asked_by_sql), shown in zip(cells, outputs, strict=True)
    ]
    return Ran(found, tuple(ran), definitions["db"].position)


def page(ran: Ran) -> str:
    """The run as one HTML document that loads nothing."""
    specs: list[dict[str, Any]] = []
    body = "".join(
        f'<div class="cell">{_code(each)}{_html(each.shown, _chart_place(specs))}</div>'
        for each in ran.cells
        if each.shown is not None or not each.hidden
    )
    note = escape(_GENERATED.format(position=ran.position, time=datetime.now(UTC)))
    return _template("page.html").format(
        title=escape(ran.notebook.title),
        style=_template("page.css"),
        body=body,
        note=note,
        # In a script `</` would end it, whatever a coupon is called.
        specs=json.dumps(specs).replace("<", "\\u003c"),
        library=_library().replace("</script", "<\\/script") if specs else "",
        script=_template("page.js"),
    )


def jupyter(ran: Ran) -> str:
    """The run as a Jupyter notebook (nbformat 4.5): its code, and its outputs."""
    cells: list[dict[str, Any]] = [_markdown(0, f"# {ran.notebook.title}\n\n{ran.notebook.about}")]
    for number, each in enumerate(ran.cells, start=1):
        cells.append(
            {
                "cell_type": "code",
                "id": f"cell-{number}",
                "metadata": {"jupyter": {"source_hidden": each.hidden}},
                "execution_count": number,
                "source": each.code,
                "outputs": _outputs(each, number),
            }
        )
    note = _GENERATED.format(position=ran.position, time=datetime.now(UTC))
    cells.append(_markdown(len(cells), note))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "title": ran.notebook.title}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def _app(found: Notebook) -> Any:
    """The file's app, its module made anew: a run leaves nothing behind for the next."""
    spec = spec_from_file_location(f"_notebook_{found.name}", found.path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with _without_arguments():
        spec.loader.exec_module(module)
    return module.app


@contextmanager
def _without_arguments() -> Iterator[None]:
    """What this program was called with is not for the notebook."""
    kept, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = kept


def _cells(found: Notebook) -> list[tuple[str, bool, set[str], str | None]]:
    """Of each cell, as the file says: its code, whether that is hidden, what it defines, and the name of a query's answer.

    Of a query marimo shows the answer by itself, and gives none back.
    """
    text = found.path.read_text(encoding="utf-8")
    cells = []
    for function in ast.parse(text).body:
        if not isinstance(function, ast.FunctionDef) or not any(_is_cell(each) for each in function.decorator_list):
            continue
        hidden = any(
            keyword.arg == "hide_code" and isinstance(keyword.value, ast.Constant) and bool(keyword.value.value)
            for each in function.decorator_list
            if isinstance(each, ast.Call)
            for keyword in each.keywords
        )
        *body, last = function.body
        defined = {each.id for each in ast.walk(last) if isinstance(each, ast.Name)}
        cells.append((_source(text, body), hidden, defined, _query(body)))
    return cells


def _is_cell(decorator: ast.expr) -> bool:
    at = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(at, ast.Attribute) and at.attr == "cell"


def _source(text: str, body: list[ast.stmt]) -> str:
    from textwrap import dedent

    if not body:
        return ""
    lines = text.splitlines()
    first = body[0].lineno - 1
    while lines[first - 1].lstrip().startswith("#"):  # a comment above the first statement
        first -= 1
    return dedent("\n".join(lines[first : body[-1].end_lineno]))


def _query(body: list[ast.stmt]) -> str | None:
    match body:
        case [
            ast.Assign(
                targets=[ast.Name(id=name)], value=ast.Call(func=ast.Attribute(attr="sql", value=ast.Name(id="mo")))
            )
        ]:
            return name
    return None


def _html(shown: object, chart: Callable[[object], str]) -> str:
    """What a cell shows as HTML, its charts drawn by `chart`."""
    import altair as alt
    import marimo as mo

    from analytics.charts import Chart, Drawn

    def render(thing: object) -> str:
        match thing:
            case None:
                return ""
            case Drawn():
                return chart(thing.spec)
            case Part():
                return thing.html(render)
            case alt.TopLevelMixin():
                return Chart(thing, "").html(render)
            case pa.Table():
                return Table(thing, "No rows.").html(render)
            case mo.ui.table():
                return Table(thing.data, "No rows.").html(render)
            case _ if isinstance(thing, mo.Html) and hasattr(thing, "value"):
                return _filter(thing)
            case mo.Html():
                return str(thing.text)
            case _:
                return f"<pre>{escape(str(thing))}</pre>"

    return render(shown)


def _filter(thing: Any) -> str:
    """What a filter was set to, in words: nobody can move it any more."""
    label = _LABEL.search(thing.text)
    name = plain_text(json.loads(unescape(label[1])) or "") if label else ""
    value = getattr(thing, "selected_key", thing.value)
    match value:
        case _ if not name or type(thing).__name__ == "refresh":
            return ""
        case bool():
            value = "yes" if value else "no"
        case tuple():
            value = " to ".join(str(each) for each in value)
    return f'<span class="filter">{escape(name)}: <b>{escape(str(value))}</b></span>'


def _chart_place(specs: list[dict[str, Any]]) -> Callable[[object], str]:
    def place(spec: Any) -> str:
        specs.append(spec)
        return f'<div class="chart" data-chart="{len(specs) - 1}" role="img" aria-label="{escape(spec["description"])}"></div>'

    return place


def _code(cell: Cell) -> str:
    return "" if cell.hidden else f"<details><summary>code</summary><pre>{escape(cell.code)}</pre></details>"


def _markdown(number: int, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": f"text-{number}", "metadata": {}, "source": text}


def _outputs(cell: Cell, number: int) -> list[dict[str, Any]]:
    """The cell's output: its HTML with each chart as a picture, and, of a chart alone, the chart."""
    if cell.shown is None:
        return []
    told = _html(cell.shown, _picture)
    data = {"text/html": told, "text/plain": type(cell.shown).__name__}
    return [{"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data}]


def _picture(spec: Any) -> str:
    """The chart as a picture on white, in the page itself."""
    from base64 import b64encode

    import vl_convert

    fixed = {**spec, "width": PICTURE_WIDTH, "background": "white"}
    told = json.dumps(fixed).replace("currentColor", "#222222")
    png = vl_convert.vegalite_to_png(told, scale=PICTURE_SCALE)
    return (
        f'<img alt="{escape(spec["description"])}" style="max-width:100%;background:#fff" '
        f'src="data:image/png;base64,{b64encode(png).decode()}">'
    )


@lru_cache(maxsize=1)
def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _template(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
