# /// script
# [tool.marimo.display]
# theme = "system"
# ///
# mypy: ignore-errors
# ruff: noqa: B018, N803
"""Reconciliation.

Our count of each coupon's uses against Wix's `numberOfUsages`: where they differ, by how much, and what usually causes it.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="full", app_title="Reconciliation", sql_output="native")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import pyarrow as pa

    import analytics
    from analytics import charts, parts
    from analytics.notebook import TIME_LIMIT
    from eventstore.config import load_settings

    return TIME_LIMIT, analytics, charts, load_settings, mo, pa, parts


@app.cell(hide_code=True)
def _(load_settings, mo):
    settings = load_settings()
    # What it is started with: ?site=… in the address, or --site=… behind the command.
    asked = {**mo.cli_args().to_dict(), **mo.query_params().to_dict()}
    return asked, settings


@app.cell(hide_code=True)
def _(TIME_LIMIT, analytics, settings):
    db = analytics.connect(settings.url, lake=settings.lake, projections=settings.projections, time_limit=TIME_LIMIT)
    return (db,)


@app.cell(hide_code=True)
def _(asked, db, mo):
    _sites = db.arrow("SELECT DISTINCT site_id FROM coupons ORDER BY site_id")["site_id"].to_pylist()
    site = mo.ui.dropdown(
        {"All sites": None, **{each: each for each in _sites}}, value=asked.get("site", "All sites"), label="Site"
    )
    only_apart = mo.ui.switch(value=True, label="Only those that differ")
    return only_apart, site


@app.cell(hide_code=True)
def _(only_apart, parts, site):
    filters = parts.Line([parts.Title("Reconciliation"), site, only_apart])
    filters
    return


@app.cell(hide_code=True)
def _(analytics, db, site):
    counted = analytics.run_report(db, "reconciliation", site=site.value)
    column = {each.name: place for place, each in enumerate(counted.columns)}
    return column, counted


@app.cell(hide_code=True)
def _(column, counted, parts):
    _known = [row for row in counted.rows if row[column["reported_usages"]] is not None]
    _fewer = [-row[column["difference_at_snapshot"]] for row in _known if row[column["difference_at_snapshot"]] < 0]
    _more = [row[column["difference_at_snapshot"]] for row in _known if row[column["difference_at_snapshot"]] > 0]
    tiles = parts.Tiles(
        [
            parts.Tile("Coupons", f"{len(counted.rows):,}", f"of {len(_known):,} Wix has told a count"),
            parts.Tile("Agree", f"{len(_known) - len(_fewer) - len(_more):,}", "our count is Wix's"),
            parts.Tile(
                "We count fewer",
                f"{len(_fewer):,}",
                f"{sum(_fewer):,} uses that we were not told of" if _fewer else "we lack no use",
                "bad" if _fewer else "good",
            ),
            parts.Tile(
                "We count more",
                f"{len(_more):,}",
                f"{sum(_more):,} uses that its latest snapshot lacks" if _more else "Wix lacks no use",
                "watch" if _more else "good",
            ),
        ]
    )
    tiles
    return


@app.cell(hide_code=True)
def _(charts, counted, parts):
    picture = parts.Card(
        "Our count less Wix's",
        charts.differences(
            counted,
            label="code",
            value="difference_at_snapshot",
            unit="uses",
            tooltip={"times_used": "Our count", "reported_usages": "Wix's count", "cause": "Likely cause"},
            most=25,
            empty="Our count of every coupon agrees with Wix's.",
        ),
        "To the left uses that we lack, to the right uses that Wix's latest snapshot lacks; the largest 25.",
    )
    picture
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    Compared is what Wix's counter was in the latest snapshot with what we had counted by then: uses after it are no difference.
    **We count fewer** where events were lost, or happened before the store existed: `eventstore import-coupons … --dry-run` shows
    what Query Coupons knows. **We count more** where Wix counted back, as for a cancelled order, which no event tells. The cause
    that fits each coupon stands in the table.
    """)
    return


@app.cell(hide_code=True)
def _(column, counted, mo, only_apart, pa):
    _shown = [
        "code",
        "name",
        "times_used",
        "reported_usages",
        "uses_after_snapshot",
        "difference_at_snapshot",
        "cause",
        "snapshot_time",
        "deleted",
        "coupon_id",
    ]
    _rows = [row for row in counted.rows if not only_apart.value or row[column["difference_at_snapshot"]]]
    table = mo.ui.table(
        pa.table({name.replace("_", " "): [row[column[name]] for row in _rows] for name in _shown}),
        selection=None,
        page_size=15,
        label="Coupon by coupon",
    )
    table
    return


if __name__ == "__main__":
    app.run()
