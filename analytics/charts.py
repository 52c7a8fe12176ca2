"""The charts of the notebooks: from a report's answer, or a query's, to a picture in one visual language.

    from analytics import charts

    charts.ranked(analytics.run_report(db, "usage-per-coupon"), label="code", value="times_used", unit="uses")

Each takes the data and the names of its columns and gives a `Chart`, which a notebook shows and an exported page holds
(`.altair` is Altair's own object, to go on with), or a `Sentence` where there is nothing to draw.

Charts are transparent and take the text colour of the page they stand on, so they need not know whether it is light or dark, and
are as wide as their place. Categories have the colours of Okabe and Ito, which people with any colour vision tell apart;
where colour tells something, so does a label or a tooltip. Days and times are UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html import escape
from typing import Any

import altair as alt
import orjson

from analytics.parts import Data, Part, Render, Sentence, table

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's colours, without their yellow, which is not seen on white, and their black, which is not on black."""
MAIN = PALETTE[0]
"""What is drawn in one colour."""
UNDER, OVER = "#D55E00", "#0072B2"
"""Less and more than expected."""
DISCOUNT_TYPES = ("MONEY_OFF", "PERCENT_OFF", "FREE_SHIPPING", "FIXED_PRICE", "BUY_X_GET_Y", "UNKNOWN")
"""The categories of most charts, in the reports' order: a type has the same colour wherever it stands."""
GREY = "#8a8f98"
"""Rules and grids: seen on white and on black."""
HEIGHT = 260
"""Of charts whose height does not come from their rows, in pixels."""
TICKS = 8
"""Labelled days on an axis of time; on a phone every other one gives way."""
BAR = 24
"""The height of a bar with its gap, in pixels."""
RANKED = 12
"""Bars of a ranking: more do not fit on a screen beside anything else."""
FEWEST = 7
"""Periods that a chart has room for at the least."""
GAPLESS = 60
"""Bars past which a gap between them would be wider than they are on a phone."""
MIME = "application/vnd.vegalite.v6+json"

GRAINS = ("day", "week", "month")
_DAYS_BY_DAY, _DAYS_BY_WEEK = 92, 731
"""Spans, in days, up to which single days, and single weeks, are bars that can be told apart on a phone."""

_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelLimit": 130,
        "gridColor": GREY,
        "gridOpacity": 0.25,
        "domainColor": GREY,
        "tickColor": GREY,
    },
    "header": {"labelColor": "currentColor", "titleColor": "currentColor"},
    "text": {"color": "currentColor", "fontSize": 12},
    "rule": {"color": GREY},
}
# Only in SVG does a colour follow the page's.
_EMBED = {"embedOptions": {"renderer": "svg", "actions": False}}


@dataclass(frozen=True)
class Chart(Part):
    """A chart, as wide as its place. `about` says what it shows to those who cannot see it."""

    altair: alt.TopLevelMixin
    about: str
    key: tuple[tuple[str, str], ...] = ()
    """What its colours mean, in their order: it stands above the chart, where it can wrap."""

    def spec(self) -> dict[str, Any]:
        """Vega-Lite, with all of its data in it."""
        told: dict[str, Any] = self.altair.to_dict(validate=False)
        told["usermeta"] = _EMBED
        told["description"] = self.about
        return told

    def html(self, render: Render) -> str:
        chips = "".join(
            '<span style="display:inline-flex;align-items:center;gap:6px">'
            f'<span style="width:11px;height:11px;border-radius:2px;background:{color}"></span>{escape(kind)}</span>'
            for kind, color in self.key
        )
        key = f'<div style="display:flex;flex-wrap:wrap;gap:3px 16px;font-size:.8rem;margin:0 0 6px">{chips}</div>'
        return (key if self.key else "") + render(Drawn(self.spec()))


@dataclass(frozen=True)
class Drawn:
    """What is left of a chart for its surroundings to draw."""

    spec: dict[str, Any]

    def _mime_(self) -> tuple[str, str]:
        return MIME, orjson.dumps(self.spec).decode()


Drawing = Chart | Sentence
"""What a function of this module gives."""


def grain(since: date | None, until: date | None) -> str:
    """How finely to cut the days from `since` to `until`: one of GRAINS."""
    days = (until - since).days if since is not None and until is not None else 0
    return "day" if days <= _DAYS_BY_DAY else "week" if days <= _DAYS_BY_WEEK else "month"


def over_time(
    data: Data,
    *,
    time: str,
    value: str,
    unit: str,
    per: str = "day",
    by: str | None = None,
    order: Sequence[str] = (),
    height: int = HEIGHT,
    empty: str = "Nothing happened in this span of time.",
) -> Drawing:
    """Bars over time, as many as there are days, weeks (from Monday) or months (`per`) in `time`.

    `by`: a column whose values are stacked in colours, in `order`, which then says the colours too. `unit` names what `value`
    counts.
    """
    rows = [row for row in _rows(data) if row[time] is not None and row[value]]
    if not rows:
        return Sentence(empty)
    kinds = [each for each in order if any(by and row[by] == each for row in rows)]
    kinds += sorted({str(row[by]) for row in rows} - set(kinds)) if by else []
    sums: dict[tuple[date, str], Any] = {}
    for row in rows:
        key = (_first_day(row[time], per), str(row[by]) if by else "")
        sums[key] = sums.get(key, 0) + row[value]
    # Stacked here: Vega-Lite stacks no bars that have a beginning and an end.
    values, heights = [], dict.fromkeys((start for start, _ in sums), 0)
    for (start, kind), total in sorted(
        sums.items(), key=lambda each: (each[0][0], each[0][1] in kinds and kinds.index(each[0][1]))
    ):
        foot, heights[start] = heights[start], heights[start] + total
        values.append(
            {
                "from": start.isoformat(),
                "to": _next(start, per).isoformat(),
                "value": _number(total),
                "foot": _number(foot),
                "head": _number(heights[start]),
                "kind": _words(kind),
            }
        )
    colors = _colors(kinds, order)
    tooltip = [
        alt.Tooltip("from:T", title=f"{per.capitalize()} (UTC)", format="%Y-%m-%d", formatType="utc"),
        alt.Tooltip("value:Q", title=unit.capitalize(), format=","),
    ]
    chart = _chart(values).mark_bar(binSpacing=0 if len(heights) > GAPLESS else 1)
    drawn = chart.encode(
        x=alt.X("from:T", title=_per(per), scale=_days_scale(list(heights), per), axis=_days_axis(list(heights), per)),
        x2="to:T",
        y=alt.Y("foot:Q", title=unit.capitalize(), axis=_count_axis(heights.values())),
        y2="head:Q",
        tooltip=tooltip,
    )
    if by:
        drawn = drawn.encode(
            color=alt.Color("kind:N", scale=_scale(colors), legend=None),
            tooltip=[alt.Tooltip("kind:N", title=_words(by).capitalize()), *tooltip],
        )
    else:
        drawn = drawn.encode(color=alt.value(MAIN))
    return _styled(drawn, height, f"{unit} by {per}", colors if by else {})


def ranked(
    data: Data,
    *,
    label: str,
    value: str,
    unit: str,
    by: str | None = None,
    most: int = RANKED,
    empty: str = "There is nothing to rank yet.",
) -> Drawing:
    """The largest values as bars with their numbers, the largest on top; rows without one are left out.

    `by`: a column that colours them, by DISCOUNT_TYPES' colours where it holds those.
    """
    rows = sorted((row for row in _rows(data) if row[value]), key=lambda row: (-row[value], str(row[label])))[:most]
    if not rows:
        return Sentence(empty)
    labels = _labels(rows, label)
    values: list[dict[str, Any]] = [
        {
            "label": told,
            "value": _number(row[value]),
            "kind": _words(str(row[by])) if by else "",
        }
        for told, row in zip(labels, rows, strict=True)
    ]
    tooltip = [alt.Tooltip("label:N", title=_words(label).capitalize())]
    tooltip += [alt.Tooltip("kind:N", title=_words(by).capitalize())] if by else []
    tooltip += [alt.Tooltip("value:Q", title=unit.capitalize(), format=",")]
    bars = _chart(values).encode(
        y=_bars_axis(labels),
        x=alt.X(
            "value:Q",
            title=unit.capitalize(),
            axis=_count_axis([each["value"] for each in values]),
            # The number stands behind the bar.
            scale=alt.Scale(domainMin=0, domainMax=max(each["value"] for each in values) * 1.25),
        ),
        tooltip=tooltip,
    )
    kinds = list(dict.fromkeys(str(row[by]) for row in rows)) if by else []
    colors = _colors(kinds, DISCOUNT_TYPES)
    color: Any = alt.Color("kind:N", scale=_scale(colors), legend=None) if by else alt.value(MAIN)
    drawn = alt.layer(
        bars.mark_bar(cornerRadiusEnd=2).encode(color=color),
        bars.mark_text(align="left", dx=5).encode(
            text=alt.Text("value:Q", format=","), color=alt.value("currentColor")
        ),
    )
    return _styled(
        drawn, BAR * len(values), f"{unit} by {_words(label)}, the largest first", colors if by != label else {}
    )


def differences(
    data: Data,
    *,
    label: str,
    value: str,
    unit: str,
    tooltip: Mapping[str, str] | None = None,
    most: int = RANKED,
    empty: str = "Every count agrees.",
) -> Drawing:
    """How far our count lies from Wix's (`value`, ours less theirs), the farthest on top: to the left what we lack, to the right
    what Wix lacks. Rows that agree are left out. `tooltip`: what else a bar tells, headings by column."""
    rows = sorted((row for row in _rows(data) if row[value]), key=lambda row: (-abs(row[value]), str(row[label])))[
        :most
    ]
    if not rows:
        return Sentence(empty)
    labels = _labels(rows, label)
    values: list[dict[str, Any]] = [
        {
            "label": told,
            "value": _number(row[value]),
            "kind": "we count more" if row[value] > 0 else "we count fewer",
            **{name: _told(row[name]) for name in tooltip or {}},
        }
        for told, row in zip(labels, rows, strict=True)
    ]
    far = max(abs(each["value"]) for each in values) * 1.4
    sides = [
        -far if any(each["value"] < 0 for each in values) else 0,
        far if any(each["value"] > 0 for each in values) else 0,
    ]
    bars = _chart(values).encode(
        y=_bars_axis(labels),
        x=alt.X(
            "value:Q",
            title=f"{unit.capitalize()}: ours less Wix's",
            axis=_count_axis([far]),
            scale=alt.Scale(domain=sides),
        ),
        tooltip=[
            alt.Tooltip("label:N", title=_words(label).capitalize()),
            alt.Tooltip("value:Q", title="Difference", format="+,"),
            *[alt.Tooltip(f"{name}:N", title=heading) for name, heading in (tooltip or {}).items()],
        ],
    )
    key = {"we count fewer": UNDER, "we count more": OVER}
    there = [kind for kind in key if any(each["kind"] == kind for each in values)]
    colors = {kind: key[kind] for kind in there}
    number = bars.encode(text=alt.Text("value:Q", format="+,"), color=alt.value("currentColor"))
    drawn = alt.layer(
        bars.mark_bar(cornerRadiusEnd=2).encode(color=alt.Color("kind:N", scale=_scale(colors), legend=None)),
        number.transform_filter("datum.value > 0").mark_text(align="left", dx=5),
        number.transform_filter("datum.value < 0").mark_text(align="right", dx=-5),
    )
    return _styled(drawn, BAR * len(values), f"our count less Wix's, in {unit}, by {_words(label)}", colors)


def timeline(
    data: Data, *, time: str, kind: str, tooltip: Mapping[str, str], order: Sequence[str] = (), empty: str
) -> Drawing:
    """A mark an event on a line a kind, in `order`. `tooltip`: what else a mark tells, headings by column."""
    rows = [row for row in _rows(data) if row[time] is not None]
    if not rows:
        return Sentence(empty)
    kinds = [each for each in order if any(row[kind] == each for row in rows)]
    kinds += sorted({row[kind] for row in rows} - set(kinds))
    values = [
        {"at": _iso(row[time]), "kind": row[kind], **{name: _told(row[name]) for name in tooltip}} for row in rows
    ]
    drawn = (
        _chart(values)
        .mark_point(filled=True, size=90, opacity=0.8)
        .encode(
            x=alt.X("at:T", title="Time (UTC)", scale=_time_scale(values, "at"), axis=_time_axis()),
            y=alt.Y("kind:N", title=None, sort=kinds, axis=alt.Axis(labelLimit=150, grid=True)),
            color=alt.Color("kind:N", scale=_scale(_colors(kinds, order)), legend=None),
            shape=alt.Shape("kind:N", sort=kinds, legend=None),
            tooltip=[
                alt.Tooltip("at:T", title="Time (UTC)", format="%Y-%m-%d %H:%M:%S", formatType="utc"),
                alt.Tooltip("kind:N", title="Event"),
                *[alt.Tooltip(f"{name}:N", title=heading) for name, heading in tooltip.items()],
            ],
        )
    )
    return _styled(drawn, 40 * len(kinds) + 10, "events over time, a line for each kind")


def total(
    data: Data,
    *,
    time: str,
    value: str,
    unit: str,
    limit: int | None = None,
    reported: Sequence[tuple[datetime, int]] = (),
    empty: str = "It has not been used yet.",
) -> Drawing:
    """The running total `value` as a stair, the `limit` as a dashed rule, and what Wix `reported` as a broad stair behind."""
    rows = [row for row in _rows(data) if row[time] is not None and row[value] is not None]
    if not rows:
        return Sentence(empty)
    values = [{"at": _iso(row[time]), "value": _number(row[value])} for row in rows]
    told = [{"at": _iso(at), "value": count} for at, count in reported]
    y = alt.Y("value:Q", title=unit.capitalize(), axis=_count_axis([each["value"] for each in values]))
    x = alt.X("at:T", title="Time (UTC)", scale=_time_scale([*values, *told], "at"), axis=_time_axis())
    hint = [
        alt.Tooltip("at:T", title="Time (UTC)", format="%Y-%m-%d %H:%M", formatType="utc"),
        alt.Tooltip("value:Q", title=unit.capitalize(), format=","),
    ]
    key = {"counted here": MAIN, "reported by Wix": PALETTE[5]}
    color = alt.Color("series:N", scale=_scale(key), legend=None)
    stair = _chart([{**each, "series": "counted here"} for each in values])
    layers: list[Any] = []
    if told:
        # Broad and behind: where the two agree, both are seen.
        line = _chart([{**each, "series": "reported by Wix"} for each in told])
        layers.append(
            line.mark_line(interpolate="step-after", strokeWidth=8, opacity=0.45).encode(x=x, y=y, color=color)
        )
        layers.append(line.mark_point(filled=True, size=60, opacity=0.45).encode(x=x, y=y, color=color, tooltip=hint))
    layers.append(stair.mark_line(interpolate="step-after", strokeWidth=2.5).encode(x=x, y=y, color=color))
    layers.append(stair.mark_point(filled=True, size=20).encode(x=x, y=y, color=color, tooltip=hint))
    if limit is not None:
        rule = _chart([{"value": limit, "label": f"limit {limit:,}"}])
        layers.append(rule.mark_rule(strokeDash=[6, 4], strokeWidth=1.5).encode(y=y))
        layers.append(
            rule.mark_text(align="left", baseline="bottom", dx=4, dy=-3).encode(
                y=y, x=alt.value(0), text="label:N", color=alt.value("currentColor")
            )
        )
    return _styled(alt.layer(*layers), HEIGHT, f"the running total of {unit}", key if told else {})


def _chart(values: list[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.Data(values=values))  # type: ignore[no-untyped-call]


def _styled(drawn: Any, height: int, about: str, key: Mapping[str, str] | None = None) -> Chart:
    placed = drawn.properties(
        width="container", height=height, autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    )
    return Chart(placed.configure(**_CONFIG), about, tuple((key or {}).items()))


def _rows(data: Data) -> list[dict[str, Any]]:
    names, rows, _ = table(data)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _colors(kinds: Sequence[str], order: Sequence[str]) -> dict[str, str]:
    """A colour for each kind that is there, by its name for people: by its place in `order`, so that a kind keeps its colour."""
    known = {kind: PALETTE[place % len(PALETTE)] for place, kind in enumerate(order)}
    left = [color for color in PALETTE if color not in known.values()] or list(PALETTE)
    others = iter(left * (len(kinds) + 1))
    return {_words(kind): known[kind] if kind in known else next(others) for kind in kinds}


def _scale(colors: Mapping[str, str]) -> alt.Scale:
    return alt.Scale(domain=list(colors), range=list(colors.values()))


def _bars_axis(labels: Sequence[str]) -> alt.Y:
    return alt.Y(
        "label:N",
        title=None,
        sort=list(labels),
        axis=alt.Axis(ticks=False, domain=False),
        scale=alt.Scale(padding=0.25),
    )


def _count_axis(values: Iterable[Any]) -> alt.Axis:
    """Whole numbers only, and few of them."""
    most = max((abs(each) for each in values), default=0)
    return alt.Axis(format="~s" if most >= 10_000 else ",.0f", tickMinStep=1, tickCount=5, labelFlush=False)


def _time_axis() -> alt.Axis:
    return alt.Axis(labelOverlap="parity", labelSeparation=8, tickCount=6, grid=False)


def _days_scale(starts: Sequence[date], per: str) -> alt.Scale:
    """From the first period to the end of the last; with empty ones after it, lest a lone bar fill the chart."""
    end = max(starts)
    while len(starts) < FEWEST and (end - min(starts)).days < FEWEST * {"day": 1, "week": 7, "month": 30}[per]:
        after = _next(end, per)
        if after == end:
            break
        end = after
    return alt.Scale(type="utc", domain=[min(starts).isoformat(), max(end, _next(max(starts), per)).isoformat()])


def _days_axis(starts: Sequence[date], per: str) -> alt.Axis:
    """Ticks at days that begin a period, about eight of them, with the year where there is more than one."""
    first, last = min(starts), max(starts)
    form = "%b %Y" if per == "month" else "%-d %b" if first.year == last.year else "%-d %b %Y"
    length = {"day": 1, "week": 7, "month": 30}[per]
    step = max(1, -(-((last - first).days // length + 1) // TICKS))
    ticks: list[date] = [min(starts)]
    while len(ticks) < 2 * TICKS and ticks[-1] < last:
        after = ticks[-1]
        for _ in range(step):
            after = _next(after, per)
        if after <= ticks[-1]:
            break
        ticks.append(after)
    return alt.Axis(
        values=[alt.DateTime(year=each.year, month=each.month, date=each.day, utc=True) for each in ticks],
        format=form,
        labelOverlap="parity",
        labelSeparation=8,
        grid=False,
    )


def _time_scale(values: Sequence[Mapping[str, Any]], name: str) -> alt.Scale:
    """From the first to the last time, and an hour more on each side where there is but one."""
    times = [datetime.fromisoformat(each[name]) for each in values]
    first, last = min(times), max(times)
    edge = max((last - first) * 0.02, timedelta(hours=1) if first == last else timedelta())
    try:
        domain = [_iso(first - edge), _iso(last + edge)]
    except OverflowError:  # at an end of the calendar
        domain = [_iso(first), _iso(last)]
    return alt.Scale(type="utc", domain=domain)


def _per(per: str) -> str:
    return {"day": "Day (UTC)", "week": "Week from Monday (UTC)", "month": "Month (UTC)"}[per]


def _day(value: date) -> date:
    return value.astimezone(UTC).date() if isinstance(value, datetime) else value


def _first_day(value: date, per: str) -> date:
    day = _day(value)
    if per == "week":
        # The calendar's first days have no Monday before them.
        return day - timedelta(days=min(day.weekday(), day.toordinal() - 1))
    return day.replace(day=1) if per == "month" else day


def _next(start: date, per: str) -> date:
    try:
        if per == "month":
            return start.replace(day=1, month=start.month % 12 + 1, year=start.year + start.month // 12)
        return start + timedelta(days=7 if per == "week" else 1)
    except (OverflowError, ValueError):  # at the end of the calendar
        return start


def _iso(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _number(value: Any) -> int | float:
    return float(value) if isinstance(value, Decimal) else value


def _told(value: Any) -> Any:
    return _iso(value) if isinstance(value, datetime) else value if isinstance(value, int | str) else str(value or "–")


def _labels(rows: Sequence[Mapping[str, Any]], label: str) -> list[str]:
    """A label a row, no two alike: two coupons may have had one code, and a coupon may have none that is known."""
    plain = [str(row[label] if row[label] is not None else row.get("coupon_id") or "–") for row in rows]
    plain = [_words(text) if text in DISCOUNT_TYPES else text for text in plain]
    found: list[str] = []
    for row, text in zip(rows, plain, strict=True):
        told = text if plain.count(text) == 1 else f"{text} · {str(row.get('coupon_id', ''))[:8]}"
        found.append(told if told not in found else f"{told} ({found.count(told) + len(found)})")
    return found


def _words(name: str) -> str:
    """MONEY_OFF and times_used, as people read them."""
    return name.replace("_", " ").lower() if name.isupper() or "_" in name else name
