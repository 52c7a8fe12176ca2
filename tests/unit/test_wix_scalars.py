"""One value, every spelling: times, numbers, flags, texts and ids as Wix writes them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.errors import UnreadableDelivery
from eventstore.wix import scalars

JUNE_30 = datetime(2021, 6, 30, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("spelling", "moment"),
    [
        ("Wed Jun 30 2021 21:00:00 GMT+0000 (Coordinated Universal Time)", JUNE_30),
        ("Wed Jun 30 2021 21:00:00 GMT+0000", JUNE_30),
        ("Thu Jul 01 2021 00:00:00 GMT+0300 (Israel Daylight Time)", JUNE_30),
        ("Thu Jul 01 2021 02:30:00 GMT+0530 (India Standard Time)", JUNE_30),
        ("Wed Jun 30 2021 23:00:00 GMT+0200 (Mitteleuropäische Sommerzeit)", JUNE_30),
        ("Wed Jun 30 2021 14:00:00 GMT-0700 (PDT)", JUNE_30),
        ("Wed Jun 30 2021 21:00:00 GMT", JUNE_30),
        ("1625086800000", JUNE_30),
        (1625086800000, JUNE_30),
        (1625086800000.0, JUNE_30),
        ({"value": "1625086800000"}, JUNE_30),
        ({"value": 1625086800000}, JUNE_30),
        ("2021-06-30T21:00:00Z", JUNE_30),
        ("2021-06-30T21:00:00.000Z", JUNE_30),
        ("2021-06-30T21:00:00.000000Z", JUNE_30),
        ("2021-06-30T21:00:00.000000000Z", JUNE_30),
        ("2021-06-30T23:00:00+02:00", JUNE_30),
        ("2021-06-30 14:00:00-0700", JUNE_30),
        ("2021-06-30T21:00:00", JUNE_30),
        ({"value": "2021-06-30T21:00:00.000Z"}, JUNE_30),
        ("2021-07-17T11:56:03.852350Z", datetime(2021, 7, 17, 11, 56, 3, 852350, tzinfo=UTC)),
        ("1748764799999", datetime(2025, 6, 1, 7, 59, 59, 999000, tzinfo=UTC)),
        ("-1", datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        ("Tue Feb 29 2028 00:00:00 GMT+0000", datetime(2028, 2, 29, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
    ],
)
def test_a_time_is_one_moment_in_every_spelling(spelling: Any, moment: datetime) -> None:
    found = scalars.time(spelling, "t")
    assert found == moment
    assert found is not None
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "spelling",
    [
        "2021-02-30T00:00:00Z",
        "2023-02-29T00:00:00.000Z",
        "2021-13-01T00:00:00Z",
        "2021-06-31",
        "2021-06-30T21:60:00Z",
        "2021-06-30T21:00:00+25:00",
        "Tue Feb 30 2021 00:00:00 GMT+0000 (Coordinated Universal Time)",
        "Mon Feb 29 2021 00:00:00 GMT+0000",
        "Wed Foo 30 2021 21:00:00 GMT+0000",
        "Wed Jun 30 2021 21:00:00 PST",
        "Wed Jun 30 2021 21:00:00 GMT+9999",
        "Wed Jun 30 2021 21:00:00 GMT+0000 Coordinated",
        "Wed Jun 30 2021 21 GMT+0000",
        "Wed Jun 30 2021",
        "Invalid Date",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+05:00",
        "9999-12-31T23:59:59-05:00",
        "+010000-01-01T00:00:00Z",
        "8640000000000000",
        8640000000000000,
        -8640000000000000,
        10**400,
        "9" * 5000,
        1e300,
        float("nan"),
        "²",
        "--1",
        "\0",
        "yesterday",
        True,
        [],
        {"seconds": 5},
        {"value": {"value": 0}},
    ],
)
def test_a_time_that_does_not_exist_is_refused_with_its_path(spelling: Any) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        scalars.time(spelling, "startTime")
    assert refusal.value.where == "startTime"
    assert not refusal.value.malformed


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-14 * 60, 14 * 60))
def test_any_moment_with_any_offset_is_found_again(moment: datetime, minutes: int) -> None:
    offset = timedelta(minutes=minutes)
    assert scalars.time(moment.isoformat(), "t") == moment
    whole = moment.replace(microsecond=0)
    if datetime(2, 1, 1, tzinfo=UTC) < whole < datetime(9998, 1, 1, tzinfo=UTC):
        local = (whole + offset).replace(tzinfo=None)
        sign = "-" if minutes < 0 else "+"
        zone = f"{sign}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
        name = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()[local.month - 1]  # noqa: SIM905
        assert scalars.time(f"Mon {name} {local.day:02} {local.year:04} {local:%H:%M:%S} GMT{zone} (X)", "t") == whole


@pytest.mark.parametrize("absent", [None, "", {}, {"value": None}, {"value": ""}])
@pytest.mark.parametrize(
    "reader", [scalars.time, scalars.count, scalars.amount, scalars.flag, scalars.text, scalars.label, scalars.ident]
)
def test_null_empty_and_an_empty_wrapper_are_absent(reader: Callable[[Any, str], Any], absent: Any) -> None:
    assert reader(absent, "x") is None


@pytest.mark.parametrize(
    ("spelling", "number"),
    [
        (5, 5),
        ("5", 5),
        ({"value": 5}, 5),
        ({"value": "5"}, 5),
        (5.0, 5),
        ("5.0", 5),
        ("-3", -3),
        (0, 0),
        ("9223372036854775807", 2**63 - 1),
        (-(2**63) + 1, -(2**63) + 1),
    ],
)
def test_a_count_is_a_whole_number_in_every_spelling(spelling: Any, number: int) -> None:
    found = scalars.count(spelling, "x")
    assert found == number
    assert type(found) is int


@pytest.mark.parametrize(
    "spelling",
    [
        *(True, False, 5.5, "5.5", "five", "NaN", "Infinity", "1_000", "٥", [], {"x": 1}, {"value": True}),
        *(2**63, -(2**63), 10**5000, "9223372036854775808", "1E+999999999", "1E+9999999", "9" * 5000, 1e300),
    ],
    ids=lambda value: str(type(value)),
)
def test_what_is_not_a_whole_number_of_64_bits_is_refused(spelling: Any) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        scalars.count(spelling, "usageLimit")
    assert refusal.value.where == "usageLimit"


@pytest.mark.parametrize(
    ("spelling", "amount"),
    [
        (10, "10"),
        (0.1, "0.1"),
        (7.5, "7.5"),
        ("19.99", "19.99"),
        ({"value": "19.99"}, "19.99"),
        ({"value": 0}, "0"),
        (" 5 ", "5"),
        ("1E-999999999", "1E-999999999"),
        (999_999_999_999.999, "999999999999.999"),
    ],
)
def test_an_amount_is_exact_in_every_spelling(spelling: Any, amount: str) -> None:
    assert scalars.amount(spelling, "x") == Decimal(amount)


@pytest.mark.parametrize(
    "spelling",
    [
        *(True, "ten", "1,5", "NaN", "sNaN", "-Infinity", float("inf"), [], {"amount": 5}),
        *(10**12, -(10**12), "999999999999.9999999", "1E+9999999", "1E+999999999999", 10**5000),
    ],
    ids=lambda value: str(type(value)),
)
def test_what_is_not_an_amount_below_a_million_million_is_refused(spelling: Any) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        scalars.amount(spelling, "moneyOffAmount")
    assert refusal.value.where == "moneyOffAmount"


@pytest.mark.parametrize(
    ("spelling", "flag"),
    [(True, True), (False, False), ({"value": True}, True), ("true", True), ("FALSE", False), (1, True), (0, False)],
)
def test_a_flag_is_true_or_false_in_every_spelling(spelling: Any, flag: bool) -> None:
    assert scalars.flag(spelling, "x") is flag


@pytest.mark.parametrize("spelling", ["yes", 2, [], {"a": True}])
def test_what_is_neither_true_nor_false_is_refused(spelling: Any) -> None:
    with pytest.raises(UnreadableDelivery, match="neither true nor false"):
        scalars.flag(spelling, "active")


def test_a_text_keeps_every_character_but_nul() -> None:
    assert scalars.text("a\0b\n✓", "x") == "a\ufffdb\n✓"
    assert scalars.text({"value": "FLASH"}, "x") == "FLASH"
    assert scalars.text(2025, "x") == "2025"


@pytest.mark.parametrize("value", ["x" * 20_001, True, [], {"a": 1}, 10**5000], ids=lambda value: str(type(value)))
def test_what_is_not_a_text_of_acceptable_length_is_refused(value: Any) -> None:
    with pytest.raises(UnreadableDelivery):
        scalars.text(value, "code")


@pytest.mark.parametrize("value", [True, 5, [], {"a": 1}])
def test_a_decorative_text_of_a_wrong_type_is_absent(value: Any) -> None:
    assert scalars.label(value, "name") is None


@pytest.mark.parametrize("value", ["a\0", "a\nb", "\x7f", "x" * 201, 1.5e300, True, [], {"a": 1}])
def test_an_id_is_one_line_of_at_most_200_characters(value: Any) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        scalars.ident(value, "entityId")
    assert refusal.value.where == "entityId"


def test_an_id_is_opaque() -> None:
    for value in ("03a35393", " spaced ", "é\u2028", "x" * 200):
        assert scalars.ident(value, "x") == value
    assert scalars.ident(10023, "x") == "10023"


def test_unnamed_json_has_one_spelling() -> None:
    told = {"_id": 1, "b": {"value": "x"}, "a": [{"z\0": 0, "_y": {"value": None}}], "m": {"value": [1]}}
    assert scalars.plain(told, "") == {"a": [{"y": None, "z\ufffd": 0}], "b": "x", "id": 1, "m": {"value": [1]}}
    assert list(scalars.plain({"b": 1, "_a": 2}, "")) == ["a", "b"]
    assert scalars.plain({"id": 1, "_id": 2}, "") == {"_id": 2, "id": 1}


def test_messages_stay_short_and_never_quote_an_id() -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        scalars.time("x" * 10_000, "startTime")
    assert len(str(refusal.value)) < 200
    with pytest.raises(UnreadableDelivery) as refusal:
        scalars.ident("secret\n", "memberId")
    assert "secret" not in str(refusal.value)
