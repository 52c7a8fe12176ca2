"""The same coupon is the same snapshot, whatever the spelling."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.errors import UnreadableDelivery
from eventstore.event import INT64_MAX, Coupon, Discount, DiscountType, Scope
from eventstore.wix import read_rest, read_sdk, read_snapshot, read_velo

SITE = "site"
METADATA = {"id": "event", "entityId": "entity", "eventTime": "2025-01-01T00:00:00Z"}


def coupon_of(entity: dict[str, Any]) -> Coupon:
    """The snapshot in a Velo event about `entity`."""
    event = read_velo("wixMarketing_onCouponCreated", {"metadata": METADATA, "entity": entity}, site_id=SITE)
    assert event.coupon is not None
    return event.coupon


def refusal_of(entity: dict[str, Any]) -> UnreadableDelivery:
    with pytest.raises(UnreadableDelivery) as refusal:
        coupon_of(entity)
    assert not refusal.value.malformed
    return refusal.value


# --- a coupon's facts, and a spelling of them -------------------------------------------------------------------------

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)
ids = st.uuids().map(str)
counts = st.integers(0, INT64_MAX)
amounts = st.decimals(0, Decimal("999999999.99"), places=2).map(lambda value: value + 0)
seconds = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)
moments = seconds | st.builds(lambda moment, ms: moment.replace(microsecond=ms * 1000), seconds, st.integers(0, 999))
RAW_TYPES = {
    DiscountType.MONEY_OFF: ("MoneyOff", "MoneyOffAmount", "MONEY_OFF_AMOUNT"),
    DiscountType.PERCENT_OFF: ("PercentOff", "PercentOffRate", "PERCENT_OFF_RATE"),
    DiscountType.FREE_SHIPPING: ("FreeShipping", "FREE_SHIPPING"),
    DiscountType.FIXED_PRICE: ("FixedPriceAmount", "FixedPrice", "FIXED_PRICE_AMOUNT"),
    DiscountType.BUY_X_GET_Y: ("BuyXGetY", "BUY_X_GET_Y"),
}
AMOUNT_FIELDS = {
    DiscountType.MONEY_OFF: "moneyOffAmount",
    DiscountType.PERCENT_OFF: "percentOffRate",
    DiscountType.FIXED_PRICE: "fixedPriceAmount",
}


@st.composite
def discounts(draw: st.DrawFn) -> Discount:
    kind = draw(st.sampled_from(list(RAW_TYPES)))
    raw_type = draw(st.sampled_from(RAW_TYPES[kind]))
    if kind is DiscountType.BUY_X_GET_Y:
        return Discount(type=kind, buy_x=draw(st.integers(1, 9)), get_y=draw(st.integers(1, 9)), raw_type=raw_type)
    value = draw(amounts) if kind in AMOUNT_FIELDS else None
    return Discount(type=kind, value=value, raw_type=raw_type)


coupons = st.builds(
    Coupon,
    id=ids,
    code=st.none() | texts,
    name=st.none() | texts,
    discount=discounts(),
    scope=st.none() | st.builds(Scope, namespace=texts, group=st.none() | texts, entity_id=st.none() | ids),
    start_time=st.none() | moments,
    expiration_time=st.none() | moments,
    created_at=st.none() | moments,
    usage_limit=st.none() | counts,
    limit_per_customer=st.none() | counts,
    minimum_subtotal=st.none() | amounts,
    limited_to_one_item=st.booleans(),
    applies_to_subscriptions=st.booleans(),
    discounted_cycle_count=st.none() | st.integers(1, 999),
    active=st.none() | st.booleans(),
    expired=st.booleans(),
    reported_usages=st.integers(-5, 10**6),
    app_id=st.none() | ids,
    display_name=st.none() | texts,
    display_price=st.none() | texts,
    display_media=st.none() | texts,
    extra=st.none() | st.fixed_dictionaries({"newField": texts | st.integers(0, 99) | st.booleans()}),
)


def js_date(moment: datetime) -> str:
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    day = f"{days[moment.weekday()]} {months[moment.month - 1]} {moment.day:02} {moment.year}"
    return f"{day} {moment:%H:%M:%S} GMT+0000 (Coordinated Universal Time)"


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def iso_milliseconds(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


TIME_SPELLINGS: list[Callable[[datetime], Any]] = [
    milliseconds,
    lambda moment: str(milliseconds(moment)),
    lambda moment: moment.isoformat(),
    iso_milliseconds,
]
ABSENT_SPELLINGS: tuple[Any, ...] = (None, {"value": None}, {})


@st.composite
def spellings(draw: st.DrawFn, coupon: Coupon) -> dict[str, Any]:
    """The coupon as one of Wix's routes might spell it."""
    top: dict[str, Any] = {}
    specification: dict[str, Any] = {}
    nested = draw(st.booleans())

    def one_of(*choices: Any) -> Any:
        return draw(st.sampled_from(choices))

    def spell(name: str, value: Any, *, always_top: bool = False, default: Any = None) -> None:
        if value == default and draw(st.booleans()):
            return
        value = one_of(*ABSENT_SPELLINGS) if value is None else value
        if not isinstance(value, dict) and draw(st.booleans()):
            value = {"value": value}
        # A body that is nested at all may still carry single fields outside (a loyalty coupon's code and name).
        (top if always_top or not nested or draw(st.booleans()) else specification)[name] = value

    def time(moment: datetime | None) -> Any:
        if moment is None:
            return None
        return one_of(*TIME_SPELLINGS, *([js_date] if moment.microsecond == 0 else []))(moment)

    def number(value: Decimal | int | None) -> Any:
        if value is None:
            return None
        return one_of(str(value), float(value) if isinstance(value, Decimal) else value)

    top[one_of("id", "_id")] = coupon.id
    spell(
        one_of("_dateCreated", "dateCreated", "_createdDate", "createdDate"), time(coupon.created_at), always_top=True
    )
    spell("code", coupon.code)
    spell("name", coupon.name)
    spell("startTime", time(coupon.start_time))
    spell("expirationTime", time(coupon.expiration_time))
    spell("usageLimit", number(coupon.usage_limit))
    spell("limitPerCustomer", number(coupon.limit_per_customer))
    spell("minimumSubtotal", number(coupon.minimum_subtotal))
    spell("limitedToOneItem", coupon.limited_to_one_item, default=False)
    spell("appliesToSubscriptions", coupon.applies_to_subscriptions, default=False)
    spell("discountedCycleCount", number(coupon.discounted_cycle_count))
    spell("active", coupon.active)
    spell("expired", coupon.expired, always_top=True, default=False)
    spell("numberOfUsages", coupon.reported_usages, always_top=True, default=0)
    spell("appId", one_of("", None) if coupon.app_id is None else coupon.app_id, always_top=True)

    discount = coupon.discount
    spell("type", discount.raw_type)
    for kind, field in AMOUNT_FIELDS.items():
        if kind is discount.type:
            spell(field, number(discount.value))
        elif draw(st.booleans()):
            spell(field, 0)
    if discount.type is DiscountType.BUY_X_GET_Y:
        spell("buyXGetY", {"x": discount.buy_x, "y": discount.get_y})
    elif draw(st.booleans()):
        spell("buyXGetY", one_of(None, {"x": 0, "y": 0}))
    if discount.type is DiscountType.FREE_SHIPPING:
        spell("freeShipping", value=True)
    elif draw(st.booleans()):
        spell("freeShipping", value=False)

    scope = coupon.scope
    if scope is None:
        spell("scope", one_of(None, {}))
    else:
        group = {"name": scope.group, "entityId": scope.entity_id}
        spell("scope", {"namespace": scope.namespace} | one_of(group, {"group": group}))

    media = coupon.display_media
    spell(
        "displayData",
        {
            "name": coupon.display_name,
            "formattedPrice": coupon.display_price,
            "mediaItem": media if media is None else one_of(media, {"url": media, "width": 640, "height": 480}),
        },
        always_top=True,
    )
    for name, value in (coupon.extra or {}).items():
        spell(one_of(name, "_" + name), value)
    keys = draw(st.permutations(sorted(top)))
    top = {key: top[key] for key in keys}
    return top | {"specification": specification} if nested else top


@settings(max_examples=80, deadline=None)
@given(coupons.flatmap(lambda coupon: st.tuples(st.just(coupon), spellings(coupon))))
def test_any_spelling_of_a_coupon_is_the_same_snapshot_on_every_route(told: tuple[Coupon, dict[str, Any]]) -> None:
    coupon, entity = told
    assert coupon_of(entity) == coupon
    about = METADATA | {"entityFqdn": "wix.ecommerce.coupons.v2.coupon", "slug": "created"}
    velo = read_velo("wixMarketing_onCouponCreated", {"metadata": METADATA, "entity": entity}, site_id=SITE)
    rest = read_rest(about | {"createdEvent": {"entity": entity}}, site_id=SITE)
    sdk = read_sdk({"metadata": about, "entity": entity}, default_site_id=SITE)
    [observed] = read_snapshot({"coupons": [entity]}, site_id=SITE, observed_at=datetime(2025, 1, 1, tzinfo=UTC))
    assert velo.content_json() == rest.content_json() == sdk.content_json()
    assert observed.coupon == coupon


# --- the discount -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "discount"),
    [
        ({"moneyOffAmount": 10}, ("MONEY_OFF", "10")),
        ({"percentOffRate": "12.5"}, ("PERCENT_OFF", "12.5")),
        ({"fixedPriceAmount": {"value": 9.99}}, ("FIXED_PRICE", "9.99")),
        ({"freeShipping": True}, ("FREE_SHIPPING", None)),
        ({"freeShipping": {"value": True}}, ("FREE_SHIPPING", None)),
        # the populated field outranks the text
        ({"moneyOffAmount": 10, "type": "PercentOff"}, ("MONEY_OFF", "10")),
        ({"percentOffRate": 10, "type": "BrandNewType"}, ("PERCENT_OFF", "10")),
        # zero defaults beside the real field
        ({"percentOffRate": 10, "moneyOffAmount": 0, "freeShipping": False}, ("PERCENT_OFF", "10")),
        ({"fixedPriceAmount": 5, "buyXGetY": {"x": 0, "y": 0}, "type": "UNKNOWN"}, ("FIXED_PRICE", "5")),
        # only zero defaults: the text decides
        ({"moneyOffAmount": 0, "type": "MoneyOff"}, ("MONEY_OFF", "0")),
        ({"moneyOffAmount": 0, "percentOffRate": 0, "type": "PERCENT_OFF_RATE"}, ("PERCENT_OFF", "0")),
        ({"freeShipping": False, "type": "FREE_SHIPPING"}, ("FREE_SHIPPING", None)),
        ({"type": "FixedPrice"}, ("FIXED_PRICE", None)),
        # several populated: the text breaks the tie, if it names one of them
        ({"moneyOffAmount": 5, "percentOffRate": 10, "type": "MoneyOffAmount"}, ("MONEY_OFF", "5")),
        ({"moneyOffAmount": 5, "percentOffRate": 10, "type": "FreeShipping"}, ("UNKNOWN", None)),
        ({"moneyOffAmount": 5, "percentOffRate": 10}, ("UNKNOWN", None)),
        # nothing decides
        ({"moneyOffAmount": 0}, ("UNKNOWN", None)),
        ({"type": "BrandNewType"}, ("UNKNOWN", None)),
        ({"type": {"value": "UNKNOWN"}}, ("UNKNOWN", None)),
        ({}, ("UNKNOWN", None)),
    ],
)
def test_the_populated_field_says_what_the_coupon_does(
    fields: dict[str, Any], discount: tuple[str, str | None]
) -> None:
    found = coupon_of({"_id": "c", **fields}).discount
    assert (found.type, found.value) == (discount[0], None if discount[1] is None else Decimal(discount[1]))
    said = fields.get("type")
    assert found.raw_type == (said["value"] if isinstance(said, dict) else said)


def test_buy_x_get_y_carries_both_numbers() -> None:
    for spelling in ({"x": 2, "y": 1}, {"x": "2", "y": {"value": 1}}):
        discount = coupon_of({"_id": "c", "buyXGetY": spelling, "type": "BuyXGetY"}).discount
        assert (discount.type, discount.buy_x, discount.get_y) == (DiscountType.BUY_X_GET_Y, 2, 1)
        assert discount.value is None


# --- strict on meaning, lenient on looks ------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["startTime", "expirationTime", "_dateCreated", "dateCreated", "createdDate"])
def test_a_date_that_does_not_exist_is_refused_with_its_path(field: str) -> None:
    assert refusal_of({"_id": "c", field: "2021-02-30T00:00:00Z"}).where == f"entity.{field}"
    assert (
        refusal_of({"_id": "c", "specification": {field: {"value": "9" * 30}}}).where == f"entity.specification.{field}"
    )


@pytest.mark.parametrize(
    ("entity", "where"),
    [
        ({"usageLimit": "many"}, "entity.usageLimit"),
        ({"usageLimit": 2**63}, "entity.usageLimit"),
        ({"specification": {"minimumSubtotal": 10**12}}, "entity.specification.minimumSubtotal"),
        ({"moneyOffAmount": True}, "entity.moneyOffAmount"),
        ({"buyXGetY": {"x": "two"}}, "entity.buyXGetY.x"),
        ({"buyXGetY": [2, 1]}, "entity.buyXGetY"),
        ({"freeShipping": "maybe"}, "entity.freeShipping"),
        ({"active": "soon"}, "entity.active"),
        ({"code": ["A"]}, "entity.code"),
        ({"scope": "stores"}, "entity.scope"),
        ({"scope": {"namespace": "stores", "group": [1]}}, "entity.scope.group"),
        ({"scope": {"group": {"entityId": {"a": 1}}}}, "entity.scope.group.entityId"),
        ({"specification": "?"}, "entity.specification"),
        ({"_id": "a\0b"}, "entity._id"),
        ({"_id": "a\nb"}, "entity._id"),
        ({"name": "x" * 20_001}, "entity.name"),
    ],
)
def test_a_fact_that_would_be_guessed_is_refused_with_its_path(entity: dict[str, Any], where: str) -> None:
    assert refusal_of({"id": None, **entity}).where == where


def test_what_is_only_for_show_never_refuses_a_coupon() -> None:
    coupon = coupon_of({"_id": "c", "name": 5, "type": [], "displayData": {"name": 7, "mediaItem": [1]}})
    assert (coupon.name, coupon.display_name, coupon.display_media) == (None, None, None)
    assert coupon_of({"_id": "c", "displayData": "no object"}).display_name is None
    assert coupon_of({"_id": "c", "displayData": {"mediaItem": {"width": 1}}}).display_media is None


def test_an_unknown_namespace_passes() -> None:
    assert coupon_of({"_id": "c", "scope": {"namespace": "rentals", "group": {"name": "boat"}}}).scope == Scope(
        namespace="rentals", group="boat"
    )


@pytest.mark.parametrize("scope", [None, {}, {"namespace": None}, {"namespace": "", "group": {}}])
def test_no_scope_is_everything(scope: Any) -> None:
    assert coupon_of({"_id": "c", "scope": scope}).scope is None


def test_nul_in_a_text_is_replaced() -> None:
    coupon = coupon_of({"_id": "c", "name": "a\0b", "newField": {"k\0": "v\0"}})
    assert coupon.name == "a\ufffdb"
    assert coupon.extra == {"newField": {"k\ufffd": "v\ufffd"}}


def test_fields_that_wix_has_added_since_are_kept_in_one_spelling() -> None:
    entity = {
        "_id": "c",
        "_zeta": {"value": 1},
        "specification": {"alpha": [{"_b": 1, "a": 2}], "gone": None, "scope": {"namespace": "stores", "depth": 2}},
        "displayData": {"badge": {"value": "new"}},
        "_updatedDate": "2025-01-01T00:00:00Z",
    }
    coupon = coupon_of(entity)
    assert coupon.extra == {
        "alpha": [{"a": 2, "b": 1}],
        "displayData.badge": "new",
        "scope.depth": 2,
        "updatedDate": "2025-01-01T00:00:00Z",
        "zeta": 1,
    }
    assert list(coupon.extra) == sorted(coupon.extra)
    assert coupon_of({"_id": "c"}).extra is None


def test_a_null_in_the_specification_does_not_hide_a_field_outside_it() -> None:
    coupon = coupon_of({"_id": "c", "code": "A", "specification": {"code": None, "name": "n"}})
    assert (coupon.code, coupon.name) == ("A", "n")
