"""The charts: what they draw of a report's answer or a query's, told from their Vega-Lite, which the real library then draws."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import combinations
from typing import Any

import pyarrow as pa
import pytest

from analytics import charts
from analytics.catalogue import ReportColumn
from analytics.parts import Sentence
from analytics.results import ReportResult

NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)
# Machado, Oliveira and Fernandes (2009), full deficiency, on linear RGB.
VISIONS = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
TOLD_APART = 10.0
"""The least distance (CIE76) of two colours that stand side by side; from about 2.3 on a difference is just noticed."""


def rows(**columns: list[Any]) -> pa.Table:
    return pa.table(columns)


def drawn(chart: charts.Drawing) -> dict[str, Any]:
    """The chart's Vega-Lite, valid by its schema and drawn by the real library."""
    import vl_convert

    assert isinstance(chart, charts.Chart)
    chart.altair.to_dict(validate=True)
    spec = chart.spec()
    assert "<svg" in vl_convert.vegalite_to_svg(json.dumps({**spec, "width": 300}))
    return spec


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The data of all the layers of a chart, in their order."""
    found: list[dict[str, Any]] = []
    for each in [spec, *spec.get("layer", [])]:
        found += [row for row in each.get("data", {}).get("values", []) if row not in found]
    return found


def titles(spec: dict[str, Any]) -> set[str]:
    """The titles of a chart's axes."""
    encodings = [each.get("encoding", {}) for each in (spec, *spec.get("layer", []))]
    return {each[axis]["title"] for each in encodings for axis in ("x", "y") if each.get(axis, {}).get("title")}


def rgb(color: str) -> list[float]:
    """The linear RGB of #rrggbb."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def lab(linear: list[float]) -> list[float]:
    """CIELAB under D65."""
    matrix = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(weight * part for weight, part in zip(row, linear, strict=True)) for row in matrix]
    scaled = [value / white for value, white in zip(xyz, (0.95047, 1.0, 1.08883), strict=True)]
    x, y, z = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in scaled)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


@pytest.mark.parametrize("vision", VISIONS)
def test_no_two_colours_look_alike_to_any_colour_vision(vision: str) -> None:
    seen = {}
    for color in charts.PALETTE:
        mixed = [sum(w * part for w, part in zip(row, rgb(color), strict=True)) for row in VISIONS[vision]]
        seen[color] = lab([min(1.0, max(0.0, part)) for part in mixed])
    for one, other in combinations(charts.PALETTE, 2):
        apart = sum((a - b) ** 2 for a, b in zip(seen[one], seen[other], strict=True)) ** 0.5
        assert apart > TOLD_APART, (one, other)


@pytest.mark.parametrize("ground", ["#ffffff", "#181c1a"], ids=["light", "dark"])
def test_every_colour_is_seen_on_a_light_and_on_a_dark_page(ground: str) -> None:
    def light(color: str) -> float:
        return sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), rgb(color), strict=True)) + 0.05

    for color in charts.PALETTE:
        ratio = light(color) / light(ground)
        assert max(ratio, 1 / ratio) > 2, color


@pytest.mark.parametrize(
    "chart",
    [
        pytest.param(
            lambda data: charts.over_time(data, time="a", value="b", unit="uses", empty="None."), id="over time"
        ),
        pytest.param(lambda data: charts.ranked(data, label="a", value="b", unit="uses", empty="None."), id="ranked"),
        pytest.param(
            lambda data: charts.differences(data, label="a", value="b", unit="uses", empty="None."), id="diff"
        ),
        pytest.param(lambda data: charts.timeline(data, time="a", kind="b", tooltip={}, empty="None."), id="timeline"),
        pytest.param(lambda data: charts.total(data, time="a", value="b", unit="uses", empty="None."), id="total"),
    ],
)
def test_where_there_is_nothing_to_draw_a_sentence_says_so(chart: Any) -> None:
    assert chart(rows(a=[], b=[])) == Sentence("None.")
    assert chart(rows(a=[None], b=[None])) == Sentence("None.")


def test_bars_over_time_stack_their_kinds_in_order_and_each_keeps_its_colour() -> None:
    one, two = date(2026, 9, 1), date(2026, 9, 2)
    data = rows(day=[one, one, two, two], kind=["PERCENT_OFF", "MONEY_OFF", "PERCENT_OFF", "other"], uses=[3, 2, 4, 1])
    chart = charts.over_time(data, time="day", value="uses", unit="uses", by="kind", order=charts.DISCOUNT_TYPES)
    spec = drawn(chart)
    assert [(row["from"], row["to"], row["kind"], row["foot"], row["head"]) for row in values(spec)] == [
        ("2026-09-01", "2026-09-02", "money off", 0, 2),
        ("2026-09-01", "2026-09-02", "percent off", 2, 5),
        ("2026-09-02", "2026-09-03", "percent off", 0, 4),
        ("2026-09-02", "2026-09-03", "other", 4, 5),
    ]
    assert titles(spec) == {"Day (UTC)", "Uses"}
    assert isinstance(chart, charts.Chart)
    assert dict(chart.key)["percent off"] == charts.PALETTE[1]
    alone = charts.over_time(
        data.slice(2, 1), time="day", value="uses", unit="uses", by="kind", order=charts.DISCOUNT_TYPES
    )
    assert isinstance(alone, charts.Chart)
    assert alone.key == (("percent off", charts.PALETTE[1]),)


def test_weeks_begin_on_monday_and_months_on_their_first_day() -> None:
    days = rows(day=[date(2026, 9, 6), date(2026, 9, 7), date(2026, 12, 31)], uses=[1, 2, 4])
    weeks = drawn(charts.over_time(days, time="day", value="uses", unit="uses", per="week"))
    assert [(row["from"], row["to"], row["value"]) for row in values(weeks)] == [
        ("2026-08-31", "2026-09-07", 1),
        ("2026-09-07", "2026-09-14", 2),
        ("2026-12-28", "2027-01-04", 4),
    ]
    months = drawn(charts.over_time(days, time="day", value="uses", unit="uses", per="month"))
    assert [(row["from"], row["to"], row["value"]) for row in values(months)] == [
        ("2026-09-01", "2026-10-01", 3),
        ("2026-12-01", "2027-01-01", 4),
    ]


@pytest.mark.parametrize("per", charts.GRAINS)
def test_the_ends_of_the_calendar_are_drawn_like_any_other_day(per: str) -> None:
    for days in ([date.min], [date.max], [date.min, date.max]):
        data = rows(day=days, uses=[1] * len(days))
        assert len(values(drawn(charts.over_time(data, time="day", value="uses", unit="uses", per=per)))) == len(days)
    ends = rows(at=[datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)], kind=["a", "b"])
    drawn(charts.timeline(ends, time="at", kind="kind", tooltip={}, empty=""))


def test_longer_spans_are_cut_more_coarsely() -> None:
    first = date(2026, 1, 1)
    assert charts.grain(first, first) == "day"
    assert charts.grain(first, date(2026, 4, 3)) == "day"
    assert charts.grain(first, date(2026, 4, 4)) == "week"
    assert charts.grain(first, date(2028, 2, 1)) == "month"


def test_a_ranking_shows_the_largest_first_and_tells_two_coupons_of_one_code_apart() -> None:
    columns = (ReportColumn("coupon_id", "text", ""), ReportColumn("code", "text", ""), ReportColumn("n", "uses", ""))
    answer = (("11111111-a", "A", 1), ("22222222-b", "A", 3), ("33333333-c", None, 2), ("d", "zero", 0))
    spec = drawn(charts.ranked(ReportResult("r", "R", {}, 1, columns, answer), label="code", value="n", unit="uses"))
    assert [(row["label"], row["value"]) for row in values(spec)] == [
        ("A · 22222222", 3),
        ("33333333-c", 2),
        ("A · 11111111", 1),
    ]
    assert titles(spec) == {"Uses"}


def test_differences_go_to_the_left_where_we_count_fewer_and_leave_out_what_agrees() -> None:
    data = rows(code=["a", "b", "c", "d"], off=[2, -5, 0, None], ours=[3, 1, 1, 1])
    chart = charts.differences(data, label="code", value="off", unit="uses", tooltip={"ours": "Our count"})
    spec = drawn(chart)
    assert [(row["label"], row["value"], row["kind"], row["ours"]) for row in values(spec)] == [
        ("b", -5, "we count fewer", 1),
        ("a", 2, "we count more", 3),
    ]
    assert isinstance(chart, charts.Chart)
    assert chart.key == (("we count fewer", charts.UNDER), ("we count more", charts.OVER))


def test_a_running_total_stands_beside_the_limit_and_what_wix_reported() -> None:
    data = rows(at=[NOON, NOON.replace(hour=13)], uses=[1, 2])
    spec = drawn(charts.total(data, time="at", value="uses", unit="uses", limit=1, reported=[(NOON, 1)]))
    assert {"value": 1, "label": "limit 1"} in values(spec)
    assert {"at": "2026-09-01T12:00:00Z", "value": 1, "series": "reported by Wix"} in values(spec)
    assert {"at": "2026-09-01T13:00:00Z", "value": 2, "series": "counted here"} in values(spec)
    assert titles(spec) == {"Time (UTC)", "Uses"}


def test_an_amount_is_drawn_as_a_number() -> None:
    spec = drawn(charts.ranked(rows(code=["a"], amount=[Decimal("2.50")]), label="code", value="amount", unit="amount"))
    assert values(spec)[0]["value"] == 2.5
