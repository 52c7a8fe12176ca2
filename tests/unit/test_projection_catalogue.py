"""The models' files: what a header must say, and that every column of every model is declared and explained."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import pytest

from eventstore.errors import NotFound, ProjectionError
from eventstore.log.tables import metadata
from eventstore.projections.catalogue import FACTS, Projection, load_catalogue, parse, projection, projections
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


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("projection: uses", "projection: Uses", "'Uses' is no name for a projection: use small letters"),
        ("projection: uses", "projection: my uses", "'my uses' is no name for a projection"),
        ("projection: uses", "projection: uses__old", "'uses__old' is no name for a projection"),
        ("projection: uses", f"projection: {'u' * 41}", "40 characters at most"),
        ("projection: uses", "projection: pg_uses", "none that begins with sqlite_, pg_, duckdb_"),
        *[
            ("projection: uses", f"projection: {name}", f"a projection cannot be named {name}: .* choose another")
            for name in ("events", "log_head", "dead_letters", "alembic_version", "facts", "batch", "partial", "order")
        ],
        ("version: 2", "version: 0", "`-- version: 0` is not a whole number from 1 on"),
        ("version: 2", "version: 1.5", "`-- version: 1.5` is not a whole number"),
        ("version: 2", "version: new", "`-- version: new` is not a whole number"),
        ("version: 2", "version: 2\n-- version: 3", "has `-- version:` more than once"),
        ("from: facts", "from: facts and more", "`-- from: facts and more` is not `facts` or a projection with"),
        ("from: facts", "from: facts (sequence)", "`-- from: facts` takes no columns"),
        ("key: site_id, coupon_id", "key: site_id, coupon", "`-- key:` names 'coupon'"),
        (
            "key: site_id, coupon_id",
            "key: site_id, site_id",
            "`-- key:` names 'site_id'; it takes columns .* each once",
        ),
        ("key: site_id, coupon_id", "key: ,", "`-- key:` names 'no column'"),
        ("key: site_id, coupon_id", "key: site_id, _memory", "_memory cannot be in the key"),
        ("index: site_id, uses", "index: used", "`-- index:` names 'used'"),
        (
            "column: uses       bigint  how often, counted here",
            "column: uses bigint",
            "needs a name, a type and what it is",
        ),
        ("column: uses       bigint", "column: Uses  bigint", "'Uses' is no name for a column"),
        ("column: uses       bigint", "column: __uses  bigint", "'__uses' is no name for a column"),
        (
            "column: coupon_id  text    the coupon",
            "column: uses  text  the coupon",
            "the column uses is declared twice",
        ),
        ("-- [merge]", "-- [lift]", "needs one `-- \\[lift\\]` and one `-- \\[merge\\]`"),
    ],
)
def test_a_header_that_is_wrong_is_refused_with_the_file_and_what_is_wrong(good: str, bad: str, said: str) -> None:
    assert good in GOOD
    with pytest.raises(ProjectionError, match=rf"^uses\.sql: .*{said}"):
        parse(GOOD.replace(good, bad, 1), "uses.sql")


def test_what_stands_behind_the_first_query_is_no_header() -> None:
    text = GOOD.replace("SELECT site_id, coupon_id, count(*)", "-- from: nowhere\nSELECT site_id, coupon_id, count(*)")
    assert (
        parse(text.replace("GROUP BY site_id, coupon_id\n", "GROUP BY site_id, coupon_id;\n"), "here").source == FACTS
    )


# Folders of one's own


def folder_of(tmp_path: Path, **models: str) -> Path:
    for name, text in models.items():
        (tmp_path / f"{name}.sql").write_text(text, encoding="utf-8")
    return tmp_path


DERIVED = """-- projection: orders_of_sites
-- version: 1
-- from: redemptions (reports)
-- key: site_id
-- about: How many orders used a coupon.
-- column: site_id  text    the site
-- column: orders   bigint  orders

-- [lift]
SELECT site_id, count(*) AS orders FROM redemptions GROUP BY site_id

-- [merge]
SELECT site_id, CAST(sum(orders) AS BIGINT) AS orders FROM partial GROUP BY site_id -- a last word
"""


def test_a_folder_adds_its_models_behind_those_that_every_store_has(tmp_path: Path) -> None:
    catalogue = load_catalogue([folder_of(tmp_path, uses="\ufeff" + GOOD, a=DERIVED)])
    assert names(catalogue) == [*names(projections()), "orders_of_sites", "uses"]
    assert names(catalogue.with_dependents(("orders_of_sites",))) == ["redemptions", "coupon_usage", "orders_of_sites"]
    assert load_catalogue() is projections()


def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ProjectionError, match=r"nowhere of your own projections is no folder; .*EVENTSTORE_PROJECTIONS"
    ):
        load_catalogue([tmp_path / "nowhere"])
    with pytest.raises(ProjectionError, match=r"holds no `\.sql` file"):
        load_catalogue([tmp_path])
    (tmp_path / "latin.sql").write_bytes(GOOD.encode() + b"\xe9")
    with pytest.raises(ProjectionError, match=r"latin\.sql: cannot be read as text"):
        load_catalogue([tmp_path])


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        (
            "projection: orders_of_sites",
            "projection: coupons",
            r"there is a projection coupons already, in coupons\.sql",
        ),
        (
            "from: redemptions",
            "from: redemption",
            r"`-- from: redemption` is no projection; there are facts, coupons, ",
        ),
        ("from: redemptions", "from: orders_of_sites", "`-- from: orders_of_sites` is no projection"),
        (
            "redemptions (reports)",
            "redemptions (report)",
            "redemptions has no column report to read; there are site_id",
        ),
        ("redemptions (reports)", "redemptions", "`-- from: redemptions` needs the columns that the lift reads"),
        ("FROM redemptions", "FROM redemption", "the model orders_of_sites does not run: .*redemption"),
        ("CAST(sum(orders) AS BIGINT)", "sum(orders)", r"makes orders as HUGEINT, .* bigint: use CAST\(… AS BIGINT\)"),
        ("SELECT site_id, count(*) AS orders", "SELECT site_id, 1 AS one, count(*) AS orders", "lifts the columns"),
    ],
)
def test_a_model_that_would_not_do_in_a_store_is_refused_with_its_file(
    tmp_path: Path, good: str, bad: str, said: str
) -> None:
    assert good in DERIVED
    with pytest.raises(ProjectionError, match=rf"(?s)^{re.escape(str(tmp_path))}.mine\.sql: .*{said}"):
        load_catalogue([folder_of(tmp_path, mine=DERIVED.replace(good, bad))])


def test_a_model_whose_rows_cannot_be_found_by_its_source_s_columns_is_refused(tmp_path: Path) -> None:
    text = DERIVED.replace("site_id", "shop").replace("SELECT shop, count", "SELECT site_id AS shop, count")
    with pytest.raises(ProjectionError, match="the key needs a column of redemptions, as it stands there"):
        load_catalogue([folder_of(tmp_path, mine=text)])
    text = DERIVED.replace("site_id", "reports").replace("reports  text", "reports  json")
    with pytest.raises(ProjectionError, match="the key's reports is json and that of redemptions bigint"):
        load_catalogue([folder_of(tmp_path, mine=text)])


def test_two_files_cannot_make_the_same_table(tmp_path: Path) -> None:
    folder_of(tmp_path, one=GOOD, two=GOOD)
    with pytest.raises(ProjectionError, match=r"two\.sql: there is a projection uses already, in .*one\.sql"):
        load_catalogue([tmp_path])


# Running a model


def test_a_good_model_runs() -> None:
    session = ModelSession([parse(GOOD, "uses.sql")])
    session.close()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (GOOD.replace("AS uses,", "AS others,"), "uses does not run"),
        (GOOD.replace("FROM facts", "FROM nowhere"), "uses does not run"),
        (
            GOOD.replace("-- column: uses       bigint  how often, counted here\n", "").replace("-- index:", "--"),
            "header declares others",
        ),
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
