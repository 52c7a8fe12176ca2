# /// script
# [tool.marimo.display]
# theme = "system"
# ///
# mypy: ignore-errors
# ruff: noqa: B018, N803
"""One coupon's story.

One coupon's life, chosen by its code or its id: what it is now, every event on a line of time, its uses as they add up beside
what Wix reported, and what each event changed, before and after.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="full", app_title="Coupon story", sql_output="native")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import pyarrow.compute as pc

    import analytics
    from analytics import charts, parts
    from analytics.notebook import TIME_LIMIT, sql
    from eventstore.config import load_settings

    return TIME_LIMIT, analytics, charts, load_settings, mo, parts, pc, sql


@app.cell(hide_code=True)
def _(load_settings, mo):
    settings = load_settings()
    # What it is started with: ?coupon=… in the address, or --coupon=… behind the command.
    asked = {**mo.cli_args().to_dict(), **mo.query_params().to_dict()}
    return asked, settings


@app.cell(hide_code=True)
def _(TIME_LIMIT, analytics, settings):
    db = analytics.connect(settings.url, lake=settings.lake, projections=settings.projections, time_limit=TIME_LIMIT)
    return (db,)


@app.cell(hide_code=True)
def _(db):
    # The most used coupon, to begin with.
    _first = db.arrow(
        """
        SELECT coalesce(coupons.code, coupons.coupon_id) AS coupon
        FROM coupons
        LEFT JOIN coupon_usage
            ON coupon_usage.site_id = coupons.site_id AND coupon_usage.coupon_id = coupons.coupon_id
        ORDER BY coalesce(coupon_usage.times_used, 0) DESC, coupons.last_event_time DESC, coupons.coupon_id
        LIMIT 1
        """
    )
    most_used = _first["coupon"][0].as_py() if _first.num_rows else ""
    return (most_used,)


@app.cell(hide_code=True)
def _(asked, mo, most_used):
    wanted = mo.ui.text(
        value=str(asked.get("coupon", most_used)), label="Code or id of a coupon", placeholder="SUMMER10"
    )
    return (wanted,)


@app.cell(hide_code=True)
def _(asked, db, sql, wanted):
    matches = db.arrow(sql("coupon_matches"), {"asked": wanted.value.strip(), "site": asked.get("site")}).to_pylist()
    return (matches,)


@app.cell(hide_code=True)
def _(matches, mo):
    # One code may have been given to several coupons, one after the other or on several sites.
    _options = {}
    for _place, _each in enumerate(matches):
        _name = _each["name"] or _each["code"] or "no name"
        _options[f"{_name} · {_each['times_used']:,} uses · {_each['coupon_id']} · site {_each['site_id']}"] = _place
    which = mo.ui.dropdown(_options, value=next(iter(_options), None), label=f"{len(matches):,} coupons have had it")
    return (which,)


@app.cell(hide_code=True)
def _(matches, parts, wanted, which):
    chooser = parts.Line([parts.Title("Coupon story"), wanted, *([which] if len(matches) > 1 else [])])
    chooser
    return


@app.cell(hide_code=True)
def _(db, matches, sql, which):
    coupon = matches[which.value] if which.value is not None else None
    _key = {"site": coupon["site_id"], "coupon": coupon["coupon_id"]} if coupon else {"site": "", "coupon": ""}
    events = db.arrow(sql("coupon_events"), _key)
    uses = db.arrow(sql("coupon_uses"), _key)
    return coupon, events, uses


@app.cell(hide_code=True)
def _(analytics, coupon, db, parts, wanted):
    if coupon is None:
        _shown = parts.Sentence(
            f"No coupon has the code or the id {wanted.value!r}."
            if wanted.value.strip()
            else "The store knows no coupon yet."
        )
    else:
        _value = "" if coupon["discount_value"] is None else f"{coupon['discount_value'].normalize():f} "
        _kind = (coupon["discount_type"] or "unknown kind").replace("_", " ").lower()
        _reported = coupon["reported_usages"]
        _apart = 0 if _reported is None else coupon["times_used"] - _reported
        _over = coupon["usage_limit"] is not None and coupon["times_used"] > coupon["usage_limit"]
        _state = (
            "deleted" if coupon["deleted"] else "expired" if coupon["expired"] else "on" if coupon["active"] else "off"
        )
        _since = coupon["deleted_at"] if coupon["deleted"] else coupon["last_event_time"]
        _window = analytics.run_report(db, "uses-out-of-window", site=coupon["site_id"], limit=None)
        _columns = [each.name for each in _window.columns]
        _out = [row for row in _window.rows if row[_columns.index("coupon_id")] == coupon["coupon_id"]]
        _reasons = _columns.index("reasons")
        _shown = parts.Tiles(
            [
                parts.Tile("Code", coupon["code"] or "not told", coupon["name"] or "no name"),
                parts.Tile("Discount", f"{_value}{_kind}", coupon["raw_type"] or ""),
                parts.Tile(
                    "State", _state, f"{'since' if coupon['deleted'] else 'last event'} {_since:%Y-%m-%d %H:%M} UTC"
                ),
                parts.Tile(
                    "Uses",
                    f"{coupon['times_used']:,}",
                    "over its limit of " + f"{coupon['usage_limit']:,}"
                    if _over
                    else "no limit"
                    if coupon["usage_limit"] is None
                    else f"of {coupon['usage_limit']:,} allowed",
                    "bad" if _over else "plain",
                ),
                parts.Tile(
                    "Wix's count",
                    "–" if _reported is None else f"{_reported:,}",
                    "never reported"
                    if _reported is None
                    else "agrees with ours"
                    if not _apart
                    else f"ours less Wix's: {_apart:+,}",
                    "watch" if _apart else "plain",
                ),
                parts.Tile(
                    "Uses out of window",
                    f"{len(_out):,}",
                    ", ".join(sorted({row[_reasons] for row in _out})) or "all while it was valid",
                    "bad" if _out else "good",
                ),
            ]
        )
    summary = _shown
    summary
    return


@app.cell(hide_code=True)
def _(charts, coupon, events, parts, uses):
    _reported = [
        (each["event_time"], each["reported_usages"])
        for each in events.to_pylist()
        if each["reported_usages"] is not None
    ]
    pictures = parts.Row(
        [
            parts.Card(
                "Its life",
                charts.timeline(
                    events,
                    time="event_time",
                    kind="type",
                    order=(
                        "coupon.created",
                        "coupon.updated",
                        "coupon.applied",
                        "coupon.deleted",
                        "coupon.observed",
                    ),
                    tooltip={"order_id": "Order", "source": "Route", "position": "Position"},
                    empty="There is no event to show.",
                ),
                "Every event, at the time that Wix says it happened.",
            ),
            parts.Card(
                "Uses, added up",
                charts.total(
                    uses,
                    time="redeemed_at",
                    value="uses",
                    unit="uses",
                    limit=coupon["usage_limit"] if coupon else None,
                    reported=_reported,
                    empty="It has not been used.",
                ),
                "Each order counts once, at its first report; beside it Wix's own counter, as events told it.",
            ),
        ]
    )
    pictures
    return


@app.cell(hide_code=True)
def _(mo):
    every_use = mo.ui.switch(value=False, label="Every use too")
    return (every_use,)


@app.cell(hide_code=True)
def _(events, every_use, parts, pc):
    _left_out = sum(1 for only_used in events["only_used"].to_pylist() if only_used)
    _kept = events if every_use.value else events.filter(pc.invert(events["only_used"]))
    history = parts.Card(
        "Before → after",
        parts.Column(
            [
                every_use,
                parts.Table(
                    _kept,
                    "There is no event to tell.",
                    {
                        "event_time": "happened (UTC)",
                        "type": "event",
                        "told": "what it told or changed",
                        "source": "route",
                        "position": "position",
                    },
                ),
            ]
        ),
        f"What each event changed, in the order in which it happened; {_left_out:,} told only of a use.",
    )
    history
    return


if __name__ == "__main__":
    app.run()
