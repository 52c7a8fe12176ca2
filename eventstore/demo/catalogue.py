"""The shop's campaigns: what is planned for each coupon, and the coupon as it stands at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

PERCENT_OFF, MONEY_OFF, FREE_SHIPPING = "PERCENT_OFF", "MONEY_OFF", "FREE_SHIPPING"
FIXED_PRICE, BUY_X_GET_Y = "FIXED_PRICE", "BUY_X_GET_Y"


@dataclass(frozen=True, slots=True)
class Card:
    """A coupon as Wix holds it at one moment, in no route's spelling.

    `value` is a percentage or an amount; for BUY_X_GET_Y the pair (x, y), for FREE_SHIPPING unused. `usages` is Wix's
    own counter. Times are aware UTC.
    """

    id: str
    code: str
    name: str
    kind: str
    value: Any
    created: datetime
    start: datetime
    end: datetime | None = None
    namespace: str | None = None
    group: str | None = None
    group_id: str | None = None
    limit: int | None = None
    per_customer: int | None = None
    minimum: float | None = None
    one_item: bool = False
    cycles: int | None = None
    active: bool = True
    usages: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to one coupon in the month. Moments are days of a 30-day month; negative is before it begins.

    `weight` is its share of all uses and `uses` an exact number instead. `changes` are (day, fields of `Card`, dates as
    days). `stragglers` are uses after the coupon's end, of orders taken before it. `unreported` is the share of uses
    that Wix counts and never tells us.
    """

    code: str
    name: str
    kind: str
    value: Any
    created: float
    weight: float
    wire: str
    end: float | None = None
    scope: tuple[str, str | None] | None = None
    limit: int | None = None
    per_customer: int | None = None
    minimum: float | None = None
    one_item: bool = False
    cycles: int | None = None
    uses: int | None = None
    changes: tuple[tuple[float, dict[str, Any]], ...] = field(default=())
    deleted: float | None = None
    restored: float | None = None
    stragglers: int = 0
    unreported: float = 0.0


STORES, COLLECTION, PRODUCT = ("stores", None), ("stores", "collection"), ("stores", "product")
BOOKINGS, SERVICE = ("bookings", None), ("bookings", "service")
EVENT, TICKET, PLAN = ("events", "event"), ("events", "ticket"), ("pricingPlans", "plan")
OFF: dict[str, Any] = {"active": False}
ON: dict[str, Any] = {"active": True}

OLDER = (
    Plan(
        "B2G1",
        "Buy 2 get 1",
        BUY_X_GET_Y,
        (2, 1),
        -244,
        70,
        "velo",
        scope=STORES,
        per_customer=3,
        changes=((23.4, OFF), (24.4, ON)),
    ),
    Plan(
        "SHIPFREE",
        "Free shipping over 50",
        FREE_SHIPPING,
        True,
        -610,
        150,
        "velo_v2",
        minimum=50,
        changes=((14.4, {"minimum": 60}),),
    ),
)
"""Coupons from before the store was connected: no creation reached us, a snapshot tells of them."""

CONFLICTING = "PRELAUNCH"
"""The code of the coupon whose deletion arrives under the event id of its creation."""

SUPPORT = tuple(
    Plan(
        f"SORRY{n:02d}",
        f"Apology {n}",
        MONEY_OFF,
        5 + n % 3 * 2.5,
        1.5 + 2.4 * n,
        1,
        wire,
        limit=1,
        per_customer=1,
        uses=1,
    )
    for n, wire in enumerate(("velo", "velo_v2", "velo", "velo_iso", "rest", "velo", "velo_v2", "velo"), start=1)
)
"""One coupon for one annoyed customer each."""

CAMPAIGNS = (
    Plan(
        "WELCOME10",
        "Welcome 10 %",
        PERCENT_OFF,
        10,
        -9,
        300,
        "velo",
        per_customer=1,
        changes=((8.4, {"value": 12}), (15.4, {"value": 10})),
    ),
    Plan(
        "BACK2SCHOOL",
        "Back to school 20 %",
        PERCENT_OFF,
        20,
        -6,
        170,
        "velo_v2",
        end=14,
        scope=COLLECTION,
        stragglers=4,
        changes=((6.4, {"value": 25}),),
    ),
    Plan(
        "YOGA25",
        "Yoga class for 25",
        FIXED_PRICE,
        25,
        -5,
        60,
        "velo_iso",
        scope=SERVICE,
        one_item=True,
        changes=((10.4, {"value": 27}), (20.4, {"name": "Any class for 27"})),
    ),
    Plan(
        "VIP30",
        "VIP: 30 off",
        MONEY_OFF,
        30,
        -8,
        45,
        "sdk",
        minimum=150,
        per_customer=2,
        changes=((16.5, OFF), (19.4, ON)),
    ),
    Plan(
        "AUTUMN15",
        "Autumn 15 %",
        PERCENT_OFF,
        15,
        4.4,
        120,
        "velo",
        end=24.9,
        scope=STORES,
        changes=((12.4, {"end": 27.9}),),
    ),
    Plan(
        "FLASH24",
        "24-hour flash: 5 off",
        MONEY_OFF,
        5,
        2.3,
        50,
        "velo",
        end=5.4,
        deleted=6.4,
        scope=STORES,
        stragglers=3,
    ),
    Plan("Flash24", "Flash again: 7.50 off", MONEY_OFF, 7.5, 17.3, 40, "velo_v2", end=20.4, scope=STORES),
    Plan("INSTA10", "Instagram 10 %", PERCENT_OFF, 10, -4, 55, "velo", unreported=0.12),
    Plan(
        "NEWS5",
        "Newsletter: 5 off",
        MONEY_OFF,
        5,
        -3,
        80,
        "rest",
        minimum=40,
        changes=((9.4, {"value": 6}), (20.4, {"value": 5})),
    ),
    Plan(
        "TIKTOK12",
        "TikTok 12 %",
        PERCENT_OFF,
        12,
        1.4,
        35,
        "rest_json",
        scope=STORES,
        changes=((11.4, OFF), (13.4, ON)),
    ),
    Plan("MAYA15", "Maya's 15 %", PERCENT_OFF, 15, 0.4, 25, "velo", end=21.9, scope=PRODUCT, stragglers=2),
    Plan(
        "PODCAST20",
        "Podcast listeners 20 %",
        PERCENT_OFF,
        20,
        3.4,
        18,
        "velo_v2",
        limit=120,
        changes=((18.4, {"limit": 200}),),
    ),
    Plan(
        "FIRSTCLASS",
        "First class half price",
        PERCENT_OFF,
        50,
        -2,
        30,
        "velo_iso",
        scope=BOOKINGS,
        one_item=True,
        per_customer=1,
    ),
    Plan("PILATES15", "Pilates for 15", FIXED_PRICE, 15, 5.4, 14, "rest", scope=SERVICE, one_item=True, end=28.9),
    Plan("GALA10", "Gala: 10 off a ticket", MONEY_OFF, 10, -1, 1, "velo", scope=EVENT, limit=25, uses=29),
    Plan(
        "EARLYBIRD",
        "Early bird 15 %",
        PERCENT_OFF,
        15,
        -7,
        22,
        "sdk",
        scope=TICKET,
        end=12.9,
        changes=((4.4, {"end": 9.9}),),
    ),
    Plan(
        "MEMBER3M",
        "20 % for three months",
        PERCENT_OFF,
        20,
        -3,
        16,
        "rest_json",
        scope=PLAN,
        cycles=3,
        changes=((13.4, {"value": 25}),),
    ),
    Plan("PLANSTART", "10 off any plan", MONEY_OFF, 10, 6.4, 9, "velo_v2", scope=("pricingPlans", None), cycles=1),
    Plan("SHIPWEEKEND", "Weekend free shipping", FREE_SHIPPING, True, 9.4, 45, "velo", end=12.9),
    Plan("SOCKS321", "Socks: 3 for 2", BUY_X_GET_Y, (2, 1), 2.4, 26, "rest", scope=COLLECTION),
    Plan("CANDLE2", "Buy 3 candles get 2", BUY_X_GET_Y, (3, 2), 8.4, 12, "velo_iso", scope=PRODUCT, end=26.9),
    Plan(
        "SURVEY8",
        "Thanks for the survey",
        MONEY_OFF,
        8,
        -2,
        20,
        "rest",
        minimum=30,
        deleted=10.4,
        restored=11.3,
        changes=((15.4, {"value": 8.5}),),
    ),
    Plan(
        "REFER15",
        "Bring a friend",
        PERCENT_OFF,
        15,
        -9,
        24,
        "velo_local",
        per_customer=5,
        changes=((5.4, {"per_customer": 10}),),
    ),
    Plan("STAFF40", "Staff 40 %", PERCENT_OFF, 40, -9.5, 10, "sdk", scope=STORES),
    Plan(
        "CART5",
        "Come back to your cart",
        MONEY_OFF,
        5,
        -5,
        38,
        "velo_local",
        minimum=35,
        changes=((21.4, {"value": 4}),),
    ),
    Plan("MUG12", "The mug for 12", FIXED_PRICE, 12, 10.4, 9, "velo", scope=PRODUCT, deleted=22.4, stragglers=2),
    Plan("CONCERT20", "Autumn concert 20 %", PERCENT_OFF, 20, 7.4, 11, "rest", scope=EVENT, end=19.9),
    Plan("TYPO1O", "Typo, made again as SALE10", PERCENT_OFF, 10, 1.38, 1, "velo", uses=0, deleted=1.41),
    Plan("SALE10", "Sale 10 %", PERCENT_OFF, 10, 1.43, 28, "velo", scope=STORES, changes=((25.4, OFF),), stragglers=2),
    Plan("B2B2026", "Resellers 30 %", PERCENT_OFF, 30, -8.5, 1, "velo_v2", minimum=500, uses=0),
    Plan("TEST-DO-NOT-USE", "test", MONEY_OFF, 1, -9.8, 1, "velo", uses=0),
    Plan("WINTERPREP", "Winter begins 25 %", PERCENT_OFF, 25, 27.4, 1, "velo_iso", scope=COLLECTION, uses=0, end=60),
    Plan(CONFLICTING, "Before the launch", MONEY_OFF, 10, 0.8, 1, "rest", scope=STORES, uses=0),
    *SUPPORT,
)

PRODUCTS = {
    "stores": ("Indonesian Blend", "€35.00"),
    "bookings": ("Yoga class", "€32.00"),
    "events": ("Autumn concert", "€48.00"),
    "pricingPlans": ("Unlimited classes", "€89.00"),
}
"""What the display data of a scoped coupon shows, by namespace."""

APPS = {
    "stores": "1380b703-ce81-ff05-f115-39571d94dfcd",
    "bookings": "13d21c63-b5ec-5912-8397-c3a5ddb27a97",
    "events": "140603ad-af8d-84a5-2c80-a0f60cb47351",
    "pricingPlans": "215238eb-22a5-4c36-9e7b-e7c08025e04e",
}
"""The Wix app that takes the order, by namespace."""
