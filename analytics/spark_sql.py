"""DuckDB's SQL written for Spark: the reports, the views and whatever else is asked, so that both engines answer alike.

SQLGlot reads the one dialect and writes the other. Where it would leave a word that Spark does not have, or one by which Spark
means something else, a rule here rewrites the syntax tree first. Values never become part of the text by pasting: those that have
none of the asker's letters in them stand in the tree as typed literals, and texts are named parameters, which Spark binds itself.

A test asks every report of both engines. A new one that means something else on Spark fails there, and is put right in the
report, where both read another way of saying it alike, or else by a rule here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from analytics.views import Macro, macros, scalar_macros
from eventstore.errors import InputError

DUCKDB = "duckdb"
SPARK = "spark"
_JSON = "JSON"


@dataclass(frozen=True, slots=True)
class SparkQuery:
    """A query for `SparkSession.sql(text, args=texts)`: `texts` are its named parameters."""

    text: str
    texts: dict[str, str]


def spark_query(
    sql: str, parameters: Mapping[str, object] | None = None, *, times: frozenset[str] = frozenset()
) -> SparkQuery:
    """A query in DuckDB's dialect for Spark, with values for its `$name`. `times`: columns that are known to hold times.

    Raises InputError for what cannot be read, for a parameter that is not given, and for a value that is none of SQL's.
    """
    try:
        found = [each for each in sqlglot.parse(sql, read=DUCKDB) if each is not None]
    except SqlglotError as error:
        raise InputError(f"the query cannot be read: {str(error).splitlines()[0]}") from error
    if len(found) != 1 or not isinstance(found[0], exp.Query):
        raise InputError("one query is wanted here: SELECT …, and nothing that writes or sets")
    tree = _without_scalar_macros(_without_macros(found[0]))
    texts: dict[str, str] = {}
    for place in list(tree.find_all(exp.Placeholder, exp.Parameter)):
        place.replace(_bound(place.name, parameters or {}, texts))
    # What stands deeper first, so that each rule sees what has become of it.
    for node in reversed(list(tree.walk())):
        for rule in _RULES:
            made = rule(node)
            if made is not None:
                node.replace(made)
                break
        else:
            if _is_time_as_text(node, times):
                node.replace(exp.DPipe(this=node.copy(), expression=exp.Literal.string("+00"), safe=True))
    return SparkQuery(tree.sql(SPARK, comments=False), texts)


def spark_type(type_: str) -> str:
    """Spark's name for one of DuckDB's types. JSON is a text there."""
    return "STRING" if type_ == _JSON else exp.DataType.build(type_, dialect=DUCKDB).sql(SPARK)


def _bound(name: str, parameters: Mapping[str, object], texts: dict[str, str]) -> exp.Expr:
    if name not in parameters:
        raise InputError(f"the query's parameter ${name} is not given")
    match parameters[name]:
        case None:
            return exp.null()
        case bool() as value:
            return exp.Boolean(this=value)
        case str() as value:
            texts[name] = value
            return exp.Placeholder(this=name)
        case int() as value:
            return _as(exp.Literal.number(value), "BIGINT")
        case Decimal() as value if value.is_finite():
            text = format(value, "f")
            whole, _, fraction = text.lstrip("-").partition(".")
            return _as(exp.Literal.number(text), f"DECIMAL({len(whole) + len(fraction)}, {len(fraction)})")
        case datetime() as value if value.tzinfo is not None:
            # As a text, for Python's driver of Spark hands over times before 1582 in another calendar.
            return _as(exp.Literal.string(value.isoformat()), "TIMESTAMPTZ")
        case date() as value if not isinstance(value, datetime):
            return _as(exp.Literal.string(value.isoformat()), "DATE")
        case value:
            raise InputError(
                f"the parameter {name} cannot be {value!r}: it takes a text, a number, a boolean, a date or a time with its zone"
            )


# Macros


def _without_macros(tree: exp.Expr) -> exp.Expr:
    """The same with every call of a macro replaced by its query."""
    known = {macro.name: macro for macro in macros()}
    number = 0
    while found := next((each for each in tree.find_all(exp.Table) if _called(each) in known), None):
        number += 1
        found.replace(_inlined(known[_called(found)], found, number))
    return tree


def _without_scalar_macros(tree: exp.Expr) -> exp.Expr:
    """The same with every call of a macro that gives a value replaced by its expression."""
    known = {macro.name: macro for macro in scalar_macros()}
    while found := next((each for each in tree.find_all(exp.Anonymous) if each.name.lower() in known), None):
        macro, given = known[found.name.lower()], found.expressions
        if len(given) != len(macro.parameters):
            raise InputError(f"{macro.name} takes {' and '.join(macro.parameters)}, not {len(given)} values")
        values = dict(zip(macro.parameters, given, strict=True))
        body = exp.paren(sqlglot.parse_one(macro.sql, read=DUCKDB))
        for column in list(body.find_all(exp.Column)):
            column.replace(exp.paren(values[column.name].copy()))
        found.replace(body)
    return tree


def _called(table: exp.Table) -> str:
    return str(table.this.name).lower() if isinstance(table.this, exp.Anonymous) else ""


def _inlined(macro: Macro, call: exp.Table, number: int) -> exp.Subquery:
    given = call.this.expressions
    if len(given) != len(macro.parameters):
        raise InputError(f"{macro.name} takes {' and '.join(macro.parameters)}, not {len(given)} values")
    values = dict(zip(macro.parameters, given, strict=True))
    body = sqlglot.parse_one(macro.sql, read=DUCKDB)
    for column in list(body.find_all(exp.Column)):
        if not column.table and column.name in values:
            column.replace(values[column.name].copy())
    # For Spark they all come to stand at the top of the query, where those of another call have the same names.
    renamed = {each.alias: f"{macro.name}_{number}_{each.alias}" for each in body.find_all(exp.CTE)}
    for each in body.find_all(exp.CTE):
        each.args["alias"].set("this", exp.to_identifier(renamed[each.alias]))
    for table in body.find_all(exp.Table):
        if table.name in renamed and not table.db:
            if not table.alias:
                table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
            table.set("this", exp.to_identifier(renamed[table.name]))
    alias = call.args.get("alias") or exp.TableAlias(this=exp.to_identifier(macro.name))
    query = exp.Subquery(this=body, alias=alias.copy())
    if joins := call.args.get("joins"):
        query.set("joins", [each.copy() for each in joins])
    return query


# Rules: each takes a node, whose own nodes are done, and gives what is to stand in its place; None: itself


def _microseconds(node: exp.Expr) -> exp.Expr | None:
    if not isinstance(node, exp.Anonymous) or node.name.lower() != "epoch_us":
        return None
    return exp.Anonymous(this="UNIX_MICROS", expressions=[each.copy() for each in node.expressions])


def _division(node: exp.Expr) -> exp.Expr | None:
    """DuckDB's `/` is always one of floats; Spark's, of decimals, is one of decimals that rounds differently."""
    if not isinstance(node, exp.Div):
        return None
    return exp.Div(this=_as(node.this, "DOUBLE"), expression=_as(node.expression, "DOUBLE"), typed=False, safe=False)


def _rounding(node: exp.Expr) -> exp.Expr | None:
    """DuckDB rounds a float as it is, Spark its shortest spelling: 1.005, which is a little less, to 1.00 and to 1.01."""
    if not isinstance(node, exp.Round) or not isinstance(node.this.unnest(), exp.Div) or "decimals" not in node.args:
        return None
    power = _as(exp.Literal.number(10 ** int(node.args["decimals"].name)), "DOUBLE")
    whole = exp.Round(this=exp.Mul(this=exp.paren(node.this.copy()), expression=power))
    return exp.paren(exp.Div(this=whole, expression=power.copy(), typed=False, safe=False))


def _lower_case(node: exp.Expr) -> exp.Expr | None:
    """DuckDB lowers each letter by itself. Of all letters Spark lowers two otherwise: a Σ that ends a word, and the dotted İ."""
    if not isinstance(node, exp.Lower):
        return None
    plain = exp.Translate(this=node.this.copy(), from_=exp.Literal.string("Σİ"), to=exp.Literal.string("σi"))
    return exp.Lower(this=plain)


def _joined_texts(node: exp.Expr) -> exp.Expr | None:
    """DuckDB joins what is no text too, and leaves out what is null."""
    if not isinstance(node, exp.Concat):
        return None
    made = node.copy()
    made.set("expressions", [each if each.is_string else _as(each, "VARCHAR") for each in node.expressions])
    return made


def _quantile(node: exp.Expr) -> exp.Expr | None:
    """The least of the values that so many do not exceed. Spark's own would make floats of them, and holds as much in memory."""
    if not isinstance(node, exp.PercentileDisc) or node.expression is None:
        return None
    values, share = node.this.copy(), node.expression.copy()
    place = exp.Ceil(this=exp.Mul(this=share, expression=exp.Count(this=values)))
    ordered = exp.Anonymous(
        this="SORT_ARRAY", expressions=[exp.Anonymous(this="COLLECT_LIST", expressions=[values.copy()])]
    )
    index = exp.Sub(this=exp.Greatest(this=_as(place, "INTEGER"), expressions=[_number(1)]), expression=_number(1))
    # It gives null where there is no such place, for there are no values.
    return exp.Anonymous(this="GET", expressions=[ordered, index])


def _hint(node: exp.Expr) -> exp.Expr | None:
    """Whether a part is to be computed once or where it is used Spark decides itself, and has no words for it."""
    if not isinstance(node, exp.CTE) or node.args.get("materialized") is None:
        return None
    made = node.copy()
    made.set("materialized", None)
    return made


_RULES: tuple[Callable[[exp.Expr], exp.Expr | None], ...] = (
    _microseconds,
    _division,
    _rounding,
    _lower_case,
    _joined_texts,
    _quantile,
    _hint,
)


def _is_time_as_text(node: exp.Expr, times: frozenset[str]) -> bool:
    """Whether a time becomes a text, which DuckDB writes with its zone, UTC here, and Spark without one."""
    if not isinstance(node, exp.Cast) or not node.to.is_type(*exp.DataType.TEXT_TYPES):
        return False
    return isinstance(node.this, exp.Column) and node.this.name in times


def _number(value: int) -> exp.Expr:
    return exp.Literal.number(value)


def _as(node: exp.Expr, type_: str) -> exp.Expr:
    return exp.cast(node.copy(), type_, dialect=DUCKDB)
