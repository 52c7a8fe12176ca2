# /// script
# [tool.marimo.display]
# theme = "system"
# ///
# mypy: ignore-errors
# ruff: noqa: B018, N803
"""Start here.

A tour of the views that can be asked, with SQL to change: what there is, what happened, what the coupons are now, how often they
were used; then how to draw a chart and how to put a value into a query.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Start here", sql_output="native")


@app.cell(hide_code=True)
def _():
    import marimo as mo

    import analytics
    from analytics import charts, parts
    from analytics.notebook import TIME_LIMIT
    from analytics.sql_cells import SqlCells
    from eventstore.config import load_settings

    return SqlCells, TIME_LIMIT, analytics, charts, load_settings, mo, parts


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    # Start here

    Every event of your coupons stands in one log, and what follows from it in a few views. Here you ask them in SQL: change a
    query and run its cell with **Ctrl-Enter**. Nothing can break: the connection reads these views and can do nothing else.
    """)
    return


@app.cell(hide_code=True)
def _(load_settings):
    settings = load_settings()
    asked = {}
    return asked, settings


@app.cell
def _(SqlCells, TIME_LIMIT, analytics, settings):
    db = analytics.connect(settings.url, lake=settings.lake, projections=settings.projections, time_limit=TIME_LIMIT)
    store = SqlCells(db)
    return db, store


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## What there is

    `facts` is the log, an event a row; `events` is the same with each event's whole `payload`, and slower for it. The others are
    worked out from it: `coupons` as they are now, `redemptions`, one for each order that used a coupon, `coupon_usage` and
    `loyalty_coupons`. `deliveries` counts what became no event.
    """)
    return


@app.cell
def _(mo, store):
    what_there_is = mo.sql(
        """
        SELECT 'facts' AS view, count(*) AS rows FROM facts
        UNION ALL SELECT 'coupons', count(*) FROM coupons
        UNION ALL SELECT 'redemptions', count(*) FROM redemptions
        UNION ALL SELECT 'coupon_usage', count(*) FROM coupon_usage
        UNION ALL SELECT 'loyalty_coupons', count(*) FROM loyalty_coupons
        UNION ALL SELECT 'deliveries', count(*) FROM deliveries
        """,
        engine=store,
    )
    return (what_there_is,)


@app.cell(hide_code=True)
def _(mo, what_there_is):
    view = mo.ui.dropdown(what_there_is["view"].to_pylist(), value="coupons", label="The columns of")
    view
    return (view,)


@app.cell
def _(db, view):
    # A value goes into a query as a parameter, never as text.
    columns = db.arrow(
        """
        SELECT column_name, data_type, comment
        FROM duckdb_columns()
        WHERE table_name = $view AND NOT internal
        ORDER BY column_index
        """,
        {"view": view.value},
    )
    return (columns,)


@app.cell(hide_code=True)
def _(columns, parts):
    columns_shown = parts.Table(
        columns, "This view has no columns.", {"column_name": "column", "data_type": "type", "comment": "what it is"}
    )
    columns_shown
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## What happened

    Times are UTC. `event_time` is when Wix says that it happened, `recorded_at` when it was told here; `event_date` is the day,
    and the quickest to group by.
    """)
    return


@app.cell
def _(mo, store):
    what_happened = mo.sql(
        """
        SELECT type, count(*) AS events, min(event_time) AS first, max(event_time) AS last
        FROM facts
        GROUP BY type
        ORDER BY events DESC, type
        """,
        engine=store,
    )
    return (what_happened,)


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Which coupons are used

    A use is an order: `times_used` counts it once, however often it was reported. `reported_usages` is what Wix says.
    """)
    return


@app.cell
def _(mo, store):
    most_used = mo.sql(
        """
        SELECT
            coupons.code,
            coupons.discount_type,
            coupon_usage.times_used,
            coupons.reported_usages,
            coupon_usage.last_used_at
        FROM coupon_usage
        JOIN coupons USING (site_id, coupon_id)
        ORDER BY times_used DESC, code
        LIMIT 10
        """,
        engine=store,
    )
    return (most_used,)


@app.cell
def _(charts, most_used):
    # An answer becomes a chart by the names of its columns.
    charts.ranked(most_used, label="code", value="times_used", unit="uses", by="discount_type")
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## When they are used

    In UTC; for another zone write `redeemed_at AT TIME ZONE 'Europe/Berlin'`.
    """)
    return


@app.cell
def _(mo, store):
    by_hour = mo.sql(
        """
        SELECT dayname(redeemed_at) AS weekday, isodow(redeemed_at) AS number, count(*) AS uses
        FROM redemptions
        GROUP BY ALL
        ORDER BY number
        """,
        engine=store,
    )
    return (by_hour,)


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Questions that have an answer already

    Each report is a query in a file, with its parameters; `analytics.report(NAME).sql` shows it.
    """)
    return


@app.cell
def _(analytics, parts):
    import pyarrow as pa

    parts.Table(
        pa.table(
            {
                "report": [each.name for each in analytics.reports()],
                "question": [each.question for each in analytics.reports()],
            }
        ),
        "There are no reports.",
    )
    return


@app.cell
def _(analytics, charts, db):
    types = analytics.run_report(db, "usage-per-discount-type")
    charts.ranked(types, label="discount_type", value="times_used", unit="uses", by="discount_type")
    return


if __name__ == "__main__":
    app.run()
