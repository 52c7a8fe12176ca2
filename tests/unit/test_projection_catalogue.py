"""The models' files: what a header must say, and that every column of every model is declared and explained."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files

import pytest

from eventstore.errors import NotFound, ProjectionError
from eventstore.log.tables import metadata
from eventstore.projections.catalogue import FACTS, Projection, parse, projection, projections
from eventstore.projections.duck import ModelSession

GOOD = """-- projection: uses
-- version: 2
-- from: facts
-- key: site_id, coupon_id
-- index: site_id, uses
-- about: How often.
-- column: site_id    text    the site
-- column: coupon_id  text    the coupon
-- column: uses       bigint  how often, counted here
-- column: _memory    json    memory of the merge

-- [lift]
SELECT site_id, coupon_id, count(*) AS uses, [1] AS _memory FROM facts GROUP BY site_id, coupon_id

-- [merge]
SELECT site_id, coupon_id, sum(uses)::BIGINT AS uses, any_value(_memory) AS _memory FROM partial GROUP BY site_id, coupon_id
"""


def names(models: Iterable[Projection]) -> list[str]:
    return [model.name for model in models]


# Reading a header


def test_a_header_is_read_word_for_word() -> None:
    model = parse(GOOD, "uses.sql")
    assert (model.name, model.version, model.source, model.about) == ("uses", 2, "facts", "How often.")
    assert model.key == ("site_id", "coupon_id")
    assert model.indexes == (("site_id", "uses"),)
    assert [(column.name, column.type, column.doc) for column in model.columns] == [
        ("site_id", "text", "the site"),
        ("coupon_id", "text", "the coupon"),
        ("uses", "bigint", "how often, counted here"),
        ("_memory", "json", "memory of the merge"),
    ]
    assert [column.name for column in model.shown] == ["site_id", "coupon_id", "uses"]
    assert model.lift.startswith("SELECT site_id")
    assert model.merge.endswith("GROUP BY site_id, coupon_id")


def test_a_header_names_the_columns_that_it_watches_in_its_source() -> None:
    model = parse(GOOD.replace("from: facts", "from: redemptions (redeemed_at, app_id)"), "uses.sql")
    assert (model.source, model.watched) == ("redemptions", ("redeemed_at", "app_id"))


@pytest.mark.parametrize("needed", ["projection", "version", "from", "key", "about", "column"])
def test_a_header_that_lacks_a_line_is_refused_with_the_file_and_the_line(needed: str) -> None:
    text = re.sub(rf"^-- {needed}:.*\n", "", GOOD, flags=re.MULTILINE)
    with pytest.raises(ProjectionError, match=rf"uses\.sql: the header lacks `-- {needed}:`"):
        parse(text, "uses.sql")


@pytest.mark.parametrize("query", ["lift", "merge"])
def test_a_file_without_both_queries_is_refused(query: str) -> None:
    with pytest.raises(ProjectionError, match=r"uses\.sql: needs one"):
        parse(GOOD.replace(f"-- [{query}]", f"-- {query}"), "uses.sql")


def test_a_column_of_an_unknown_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ProjectionError, match=r"column uses has the type float; known are text, bigint"):
        parse(GOOD.replace("uses       bigint", "uses       float"), "uses.sql")


# Running a model


def test_a_good_model_runs() -> None:
    session = ModelSession([parse(GOOD, "uses.sql")])
    session.close()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (GOOD.replace("AS uses,", "AS others,"), "uses does not run"),
        (GOOD.replace("FROM facts", "FROM nowhere"), "uses does not run"),
        (GOOD.replace("-- column: uses       bigint  how often, counted here\n", ""), "header declares others"),
        (GOOD.replace("-- column: _memory", "-- column: _other"), "header declares others"),
    ],
)
def test_a_model_that_does_not_make_what_its_header_declares_is_refused(broken: str, said: str) -> None:
    with pytest.raises(ProjectionError, match=said):
        ModelSession([parse(broken, "uses.sql")])


# The models there are


def test_every_file_of_the_models_folder_is_in_the_catalogue() -> None:
    found = {each.name.removesuffix(".sql") for each in (files("eventstore.projections") / "models").iterdir()}
    assert found - {"__pycache__"} == set(names(projections()))


@pytest.mark.parametrize("model", projections().models, ids=lambda model: model.name)
class TestEveryModel:
    def test_is_named_as_its_file(self, model: Projection) -> None:
        text = (files("eventstore.projections") / "models" / f"{model.name}.sql").read_text(encoding="utf-8")
        assert parse(text, "here") == model

    def test_says_what_it_is_about(self, model: Projection) -> None:
        assert len(model.about) > 20
        assert model.about.endswith(".")
        assert model.version >= 1

    def test_explains_every_column_once(self, model: Projection) -> None:
        assert len({column.name for column in model.columns}) == len(model.columns)
        for column in model.columns:
            assert len(column.doc) > 5, column
            assert column.is_memory == column.doc.startswith("memory of the "), column

    def test_has_a_key_of_declared_shown_text_columns_that_begins_with_the_site(self, model: Projection) -> None:
        shown = {column.name: column.type for column in model.shown}
        assert model.key[0] == "site_id"
        assert [shown[name] for name in model.key] == ["text"] * len(model.key)
        assert list(model.table.primary_key.columns.keys()) == list(model.key)

    def test_indexes_and_watches_columns_that_there_are(self, model: Projection) -> None:
        declared = {column.name for column in model.columns}
        assert {name for index in model.indexes for name in index} <= declared
        if model.source != FACTS:
            assert set(model.watched) <= {column.name for column in projection(model.source).columns}
            assert model.watched

    def test_makes_exactly_the_columns_that_its_header_declares(self, model: Projection) -> None:
        session = ModelSession(projections())
        try:
            made = session.connection.execute(f"DESCRIBE {model.name}__merged").fetchall()
        finally:
            session.close()
        types = {"text": "VARCHAR", "bigint": "BIGINT", "boolean": "BOOLEAN", "timestamp": "TIMESTAMP WITH TIME ZONE"}
        declared = {column.name: column.type for column in model.columns}
        assert {row[0] for row in made} == set(declared)
        for name, type_, *_ in made:
            if declared[name] in types:
                assert type_ == types[declared[name]], name
            elif declared[name] == "decimal":
                assert type_ == "DECIMAL(18,6)", name

    def test_is_no_table_of_the_log(self, model: Projection) -> None:
        assert model.name not in metadata.tables

    def test_shows_no_personal_field(self, model: Projection) -> None:
        assert not {"member_id", "account_id", "actor_id"} & {column.name for column in model.columns}


def test_a_model_stands_behind_the_one_it_reads_from() -> None:
    order = names(projections())
    for model in projections():
        assert model.source == FACTS or order.index(model.source) < order.index(model.name)


def test_models_that_share_a_checkpoint_are_named_together() -> None:
    assert names(projections().with_dependents(())) == names(projections())
    assert names(projections().with_dependents(("coupons",))) == ["coupons"]
    assert names(projections().with_dependents(("redemptions",))) == ["redemptions", "coupon_usage"]
    assert names(projections().with_dependents(("coupon_usage",))) == ["redemptions", "coupon_usage"]
    assert names(projections().with_dependents(("loyalty_coupons", "coupons"))) == ["coupons", "loyalty_coupons"]


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match="the known ones are coupons, redemptions, coupon_usage, loyalty_coupons"):
        projection("nothing")
