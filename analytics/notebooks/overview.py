# /// script
# [tool.marimo.display]
# theme = "system"
# ///
# mypy: ignore-errors
# ruff: noqa: B018, N803
"""Overview.

The dashboard: how often coupons were used and of which kind, which were used most, where our count and Wix's differ, what
arrived, and what needs a look. Choose a site and a span of days; `eventstore dashboard` runs it as an app.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="full", app_title="Coupons", sql_output="native")


@app.cell(hide_code=True)
def _():
    from datetime import UTC, date, datetime, time, timedelta

    import marimo as mo

    import analytics
    from analytics import charts, parts
    from analytics.notebook import TIME_LIMIT, sql
    from eventstore.config import load_settings

    return (
        TIME_LIMIT,
        UTC,
        analytics,
        charts,
        date,
        datetime,
        load_settings,
        mo,
        parts,
        sql,
        time,
        timedelta,
    )


@app.cell(hide_code=True)
def _(load_settings, mo):
    settings = load_settings()
    # What it is started with: ?site=… in the address, or --site=… behind the command.
    asked = {**mo.cli_args().to_dict(), **mo.query_params().to_dict()}
    return asked, settings


@app.cell(hide_code=True)
def _(mo):
    refresh = mo.ui.refresh(options=["30s", "1m", "5m"], label="Refresh")
    return (refresh,)


@app.cell(hide_code=True)
def _(TIME_LIMIT, analytics, refresh, settings, sql):
    # Whenever `refresh` says so, the store is asked anew.
    refresh.value
    db = analytics.connect(settings.url, lake=settings.lake, projections=settings.projections, time_limit=TIME_LIMIT)
    sites = db.arrow(sql("span")).to_pylist()
    return db, sites


@app.cell(hide_code=True)
def _(asked, mo, sites):
    _names = {"All sites": None, **{each["site_id"]: each["site_id"] for each in sites}}
    site = mo.ui.dropdown(_names, value=asked.get("site", "All sites"), label="Site")
    return (site,)


@app.cell(hide_code=True)
def _(UTC, asked, datetime, site, sites):
    # The days that there is anything of at the site: from the first to the last, or today where there is nothing.
    _there = [each for each in sites if site.value in (None, each["site_id"])]
    _today = datetime.now(UTC).date()
    first_day = min((each["first_day"] for each in _there), default=_today)
    last_day = max((each["last_day"] for each in _there), default=_today)
    begun_with = (asked.get("since"), asked.get("until"))
    return begun_with, first_day, last_day


@app.cell(hide_code=True)
def _(begun_with, mo):
    _days = {"All days": None, "Last 7 days": 7, "Last 30 days": 30, "Last 90 days": 90, "Last 365 days": 365}
    preset = mo.ui.dropdown(_days, value="All days" if any(begun_with) else "Last 30 days", label="Span")
    return (preset,)


@app.cell(hide_code=True)
def _(begun_with, date, first_day, last_day, mo, preset, timedelta):
    _from, _to = (date.fromisoformat(each) if each else None for each in begun_with)
    _from = min(max(_from or first_day, first_day), last_day)
    _to = max(min(_to or last_day, last_day), _from)
    if preset.value is not None and (_to - _from).days >= preset.value:
        _from = _to - timedelta(days=preset.value - 1)
    days = mo.ui.date_range(start=first_day, stop=last_day, value=(_from, _to), label="Days (UTC)")
    return (days,)


@app.cell(hide_code=True)
def _(days, parts, preset, refresh, site):
    filters = parts.Line([parts.Title("Coupons"), site, preset, days, refresh])
    filters
    return


@app.cell(hide_code=True)
def _(UTC, charts, datetime, days, time, timedelta):
    # A span of whole days, and as many days before it to compare with.
    since = datetime.combine(days.value[0], time(), UTC)
    until = datetime.combine(days.value[1], time(), UTC) + timedelta(days=1)
    span_days = (until - since).days
    per = charts.grain(*days.value)
    return per, since, span_days, until


@app.cell(hide_code=True)
def _(analytics, db, since, site, sql, timedelta, until):
    _values = {"site": site.value, "since": since, "until": until}
    _earlier = max(since - (until - since), since.min.replace(tzinfo=since.tzinfo) + timedelta(days=1))
    totals = db.arrow(sql("totals"), {**_values, "before": _earlier}).to_pylist()[0]
    by_day = db.arrow(sql("uses_by_day"), _values)
    per_coupon = analytics.run_report(db, "usage-per-coupon", **_values)
    per_type = analytics.run_report(db, "usage-per-discount-type", **_values)
    arrived = analytics.run_report(db, "delivery-log", site=site.value, since=since, until=None)
    findings = analytics.run_report(db, "findings", **_values, limit=1)
    out_of_window = analytics.run_report(db, "uses-out-of-window", **_values)
    # Wix's counter is of a coupon's whole life, whatever the span.
    apart = analytics.run_report(db, "reconciliation", site=site.value, differing=True)
    return apart, arrived, by_day, findings, out_of_window, per_coupon, per_type, totals


@app.cell(hide_code=True)
def _(apart, out_of_window, parts, per_coupon, span_days, totals):
    def _values(result, name):
        _place = [each.name for each in result.columns].index(name)
        return [row[_place] for row in result.rows]

    _used = sum(1 for times in _values(per_coupon, "times_used") if times)
    _off = sum(abs(each) for each in _values(apart, "difference_at_snapshot"))
    _before, _now = totals["uses_before"], totals["uses"]
    _change = (
        f"{(_now - _before) / _before:+.0%} on the {span_days:,} days before"
        if _before
        else "none in as many days before"
    )
    tiles = parts.Tiles(
        [
            parts.Tile("Uses", f"{_now:,}", _change),
            parts.Tile("Coupons used", f"{_used:,}", f"of {totals['coupons']:,} known"),
            parts.Tile("Valid today", f"{totals['live']:,}", "switched on, begun and not expired"),
            parts.Tile(
                "Uses out of window",
                f"{len(out_of_window.rows):,}" + ("+" if len(out_of_window.rows) >= 10_000 else ""),
                "see below" if out_of_window.rows else "all while their coupon was valid",
                "bad" if out_of_window.rows else "good",
            ),
            parts.Tile(
                "Counts that differ",
                f"{len(apart.rows):,}",
                f"by {_off:,} uses, over all time" if apart.rows else "all agree with Wix's",
                "watch" if apart.rows else "good",
            ),
        ]
    )
    tiles
    return


@app.cell(hide_code=True)
def _(by_day, charts, parts, per):
    uses_over_time = parts.Card(
        "Uses over time",
        charts.over_time(
            by_day,
            time="day",
            value="uses",
            unit="uses",
            per=per,
            by="discount_type",
            order=charts.DISCOUNT_TYPES,
            empty="No coupon was used in this span of days.",
        ),
        f"Orders that used a coupon, by {per} and by the kind of discount.",
    )
    uses_over_time
    return


@app.cell(hide_code=True)
def _(apart, charts, parts, per_coupon, per_type):
    _none = "No coupon was used in this span of days."
    _top = parts.Card(
        "Coupons used most",
        charts.ranked(
            per_coupon, label="code", value="times_used", unit="uses", by="discount_type", most=15, empty=_none
        ),
        "In this span; an order counts once, however often it was reported.",
    )
    _kinds = parts.Card(
        "Uses by kind of discount",
        charts.ranked(
            per_type, label="discount_type", value="times_used", unit="uses", by="discount_type", empty=_none
        ),
        "In this span.",
    )
    _apart = parts.Card(
        "Our count and Wix's",
        charts.differences(
            apart,
            label="code",
            value="difference_at_snapshot",
            unit="uses",
            tooltip={"times_used": "Our count", "reported_usages": "Wix's count", "cause": "Likely cause"},
            most=8,
            empty="Our count of every coupon agrees with Wix's.",
        ),
        "Where they differed when Wix last told its own, over all time. The notebook reconciliation goes on from here.",
    )
    compared = parts.Row([_top, parts.Column([_kinds, _apart])])
    compared
    return


@app.cell(hide_code=True)
def _(findings, out_of_window, parts):
    alerts = parts.Row(
        [
            parts.Card(
                "Findings",
                parts.Table(
                    findings,
                    "Nothing is odd about the events of this span.",
                    {
                        "found": "how many",
                        "what": "what is odd: the latest",
                        "coupon_code": "coupon",
                        "event_time": "happened (UTC)",
                    },
                ),
                "What is odd about the events of this span, by kind.",
            ),
            parts.Card(
                "Uses out of window",
                parts.Table(
                    out_of_window,
                    "No coupon was used before its start, after its end, while switched off or after its deletion.",
                    {"used_at": "used (UTC)", "code": "code", "reasons": "why", "name": "coupon"},
                    most=15,
                ),
                "Uses in this span that the coupon, as it stood then, did not allow.",
            ),
        ]
    )
    alerts
    return


@app.cell(hide_code=True)
def _(arrived, charts, parts):
    received = parts.Card(
        "Deliveries",
        charts.over_time(
            arrived,
            time="day",
            value="received",
            unit="deliveries",
            per=charts.grain(arrived.rows[0][0], arrived.rows[-1][0]) if arrived.rows else "day",
            by="route",
            order=("velo", "rest", "sdk", "snapshot", "unknown"),
            height=160,
            empty="Nothing was delivered since the span began.",
        ),
        "By the day of their receipt and by route, from the span's first day until now.",
    )
    received
    return


if __name__ == "__main__":
    app.run()
