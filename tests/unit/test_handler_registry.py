"""Handlers are found by their names and decorations; whatever would never be called is an error at start, with file and line."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from eventstore.errors import InputError
from eventstore.event import Actor, Coupon, Discount, DiscountType, Event, Source
from eventstore.handlers import Handler, Handlers, TryLater, coupons, handler_event, load_handlers, on
from eventstore.log.records import RecordedEvent
from eventstore.wix import FAMILIES, HANDLERS

WHEN = datetime(2026, 9, 1, 12, tzinfo=UTC)
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an events.py."""

    def to_file(text: str) -> Path:
        path = tmp_path / "events.py"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def undecoded() -> RecordedEvent:
    """A record that cannot be decoded: who looks into it fails."""
    return RecordedEvent(1, WHEN, "not an event", b"")


def recorded(type_: str = "coupon.applied", **more: Any) -> RecordedEvent:
    facts: dict[str, Any] = {"event_id": "e-1", "entity_id": "c-1", "coupon_id": "c-1", "site_id": "shop"} | more
    if "coupon" not in facts:
        facts["coupon"] = Coupon(code="Save", discount=Discount(type=DiscountType.PERCENT_OFF))
    event = Event(type=type_, event_time=WHEN, source=Source.REST, **facts)
    return RecordedEvent(1, WHEN, event.encode()[0].decode(), b"")


def types_of(handlers: Handlers) -> dict[str, list[str] | None]:
    return {each.name: None if each.types is None else sorted(each.types) for each in handlers}


# By name


@pytest.mark.parametrize(
    ("name", "type_"), [*HANDLERS.items(), ("wixLoyalty_onCouponUpdated", "loyalty_coupon.updated")]
)
def test_a_function_named_as_wix_names_it_is_found(write: Write, name: str, type_: str) -> None:
    handlers = load_handlers(write(f"def {name}(event):\n    return event\n"))
    [handler] = handlers
    assert (handler.name, handler.types, handler.is_async) == (name, frozenset({type_}), False)
    assert handlers.types == frozenset({type_})
    assert handler.wants(type_, undecoded())
    assert not any(handler.wants(family.type, undecoded()) for family in FAMILIES if family.type != type_)
    assert handler.function(1) == 1


def test_an_async_function_is_found_and_told_apart(write: Write) -> None:
    [handler] = load_handlers(write("async def wixMarketing_onCouponCreated(event):\n    return event\n"))
    assert handler.is_async
    found: Any = handler.function(7)
    assert asyncio.run(found) == 7


def test_handlers_come_in_the_order_of_the_file(write: Write) -> None:
    text = """
from eventstore.handlers import coupons, on

def wixMarketing_onCouponDeleted(event): ...

@on("coupon.applied")
def used(event): ...

def wixMarketing_onCouponCreated(event): ...

@coupons.on_coupon_updated
def updated(event): ...
"""
    assert [handler.name for handler in load_handlers(write(text))] == [
        "wixMarketing_onCouponDeleted",
        "used",
        "wixMarketing_onCouponCreated",
        "updated",
    ]


def test_a_handler_imported_under_wixs_name_is_found(write: Write, tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text("def created(event): ...\n")
    handlers = load_handlers(write("from .more import created as wixMarketing_onCouponCreated\n"))
    assert types_of(handlers) == {"wixMarketing_onCouponCreated": ["coupon.created"]}


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("wixMarketing_onCouponCreate", "wixMarketing_onCouponCreated"),
        ("wixMarketing_onCouponDelted", "wixMarketing_onCouponDeleted"),
        ("wixmarketing_oncouponapplied", "wixMarketing_onCouponApplied"),
        ("wix_marketing_on_coupon_applied", "wixMarketing_onCouponApplied"),
        ("WixMarketing_onCouponUpdated", "wixMarketing_onCouponUpdated"),
        ("wixLoyalty_onCouponDelete", "wixLoyalty_onCouponDeleted"),
        ("wixMarketingonCouponCreated", "wixMarketing_onCouponCreated"),
        ("wxMarketing_onCouponCreated", "wixMarketing_onCouponCreated"),
        ("onCouponApplied", "wixMarketing_onCouponApplied"),
        ("on_coupon_created", "wixMarketing_onCouponCreated or wixLoyalty_onCouponCreated"),
        ("wixStores_onOrderPaid", "wixMarketing_onCouponCreated, wixMarketing_onCouponUpdated"),
    ],
)
def test_a_misspelt_name_is_an_error_that_names_the_right_one(write: Write, name: str, right: str) -> None:
    path = write(f"def wixMarketing_onCouponUpdated(event): ...\n\n\n\ndef {name}(event): ...\n")
    with pytest.raises(InputError) as caught:
        load_handlers(path)
    assert str(caught.value).startswith(f"{path}:5: {name} is no name of a handler; ")
    assert right in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "from .helpers import wixMarketing_onCouponCreate",
        "import helpers; from helpers import *",
        "def _wixMarketing_onCouponCreate(event): ...",
        "def send_mail(event): ...\ndef coupon_is_new(event): ...\ndef on_error(event): ...",
        "wixMarketing_onCouponCreate = 'a text'",
        "from eventstore.handlers import on\n@on('coupon.created')\ndef wixMarketing_onCouponCreate(event): ...",
    ],
    ids=["imported", "star", "private", "unlike", "no function", "decorated"],
)
def test_a_name_that_is_no_misspelt_handler_is_left_alone(write: Write, tmp_path: Path, text: str) -> None:
    (tmp_path / "helpers.py").write_text("def wixMarketing_onCouponCreate(event): ...\n")
    assert "wixMarketing_onCouponApplied" in load_handlers(
        write(f"{text}\ndef wixMarketing_onCouponApplied(event): ...\n")
    )


def test_a_misspelt_name_is_seen_through_a_decorator_and_a_condition(write: Write) -> None:
    text = """
import functools

if True:
    @functools.lru_cache
    def wixMarketing_onCouponDelete(event): ...
"""
    with pytest.raises(InputError, match=r"events\.py:6: wixMarketing_onCouponDelete is no name"):
        load_handlers(write(text))


# By decoration


@pytest.mark.parametrize(
    ("types", "found"),
    [
        (("coupon.applied",), ["coupon.applied"]),
        (("coupon.applied", "coupon.deleted"), ["coupon.applied", "coupon.deleted"]),
        (
            ("coupon.*",),
            ["coupon.applied", "coupon.created", "coupon.deleted", "coupon.observed", "coupon.updated"],
        ),
        (("loyalty_coupon.*",), ["loyalty_coupon.created", "loyalty_coupon.deleted", "loyalty_coupon.updated"]),
        (("*",), None),
        (("coupon.applied", "*"), None),
        (("wix.ecommerce.coupons.v2.coupon_applied",), ["coupon.applied"]),
        (("wix.loyalty.v1.reward_updated",), ["wix.loyalty.v1.reward_updated"]),
        (("wix.loyalty.v1.coupon_expired",), ["wix.loyalty.v1.coupon_expired"]),
        (("AppInstalled",), ["AppInstalled"]),
    ],
    ids=str,
)
def test_types_may_be_several_or_all_of_a_kind(types: tuple[str, ...], found: list[str] | None) -> None:
    handlers = Handlers()

    @handlers.on(*types)
    def handler(event: object) -> None: ...

    assert types_of(handlers) == {"handler": found}
    assert handlers["handler"].wants("coupon.applied", undecoded()) == (found is None or "coupon.applied" in found)
    assert handlers["handler"].wants("wix.other.v1.thing_made", undecoded()) == (found is None)


@pytest.mark.parametrize(
    ("types", "said"),
    [
        (("coupon.aplied",), "unknown type 'coupon.aplied'; did you mean 'coupon.applied'?"),
        (("coupon_applied",), "did you mean 'coupon.applied'?"),
        (("CouponApplied",), "did you mean 'coupon.applied'?"),
        (("loyalty.created",), "did you mean 'loyalty_coupon.created'?"),
        (("wixMarketing_onCouponApplied",), "did you mean 'coupon.applied'?"),
        (("wix.ecommerce.coupons.v2.coupon_create",), "did you mean 'coupon.created'?"),
        (("coupon.",), "unknown type 'coupon.'"),
        (("order.paid",), "the known ones are coupon.created, "),
        (("",), "the known ones are coupon.created, "),
        ((7,), "the known ones are coupon.created, "),
        ((), 'which events? @on("coupon.applied")'),
        ((print,), 'write the types of events: @on("coupon.applied")'),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_an_unknown_type_is_an_error_with_the_line_and_the_right_one(types: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Handlers().on(*types)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{__file__}:")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("PERCENT_OFF", DiscountType.PERCENT_OFF),
        ("PercentOff", DiscountType.PERCENT_OFF),
        ("PERCENT_OFF_RATE", DiscountType.PERCENT_OFF),
        (DiscountType.BUY_X_GET_Y, DiscountType.BUY_X_GET_Y),
        ("UNKNOWN", DiscountType.UNKNOWN),
    ],
)
def test_a_discount_type_may_be_the_stores_name_or_any_of_wixs(given: str, found: DiscountType) -> None:
    handlers = Handlers()
    handlers.on("coupon.*", discount_type=given)(takes_one)
    assert handlers["takes_one"].wanted[0].discount_types == frozenset({found})


def takes_one(event: object) -> None:
    """A handler."""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"discount_type": "PERCENTOF"}, "unknown discount type 'PERCENTOF'; did you mean 'PERCENT_OFF'?"),
        ({"discount_type": "xyz"}, "the known ones are MONEY_OFF, "),
        ({"site": 7}, "site=7 is neither a text nor a list of texts"),
        ({"code": []}, "code=[] is neither"),
        ({"coupon": ["a", None]}, "coupon=['a', None] is neither"),
        ({"time_limit": 0}, "time_limit=0 is no number of seconds above 0"),
        ({"time_limit": float("nan")}, "time_limit=nan"),
        ({"time_limit": "5"}, "time_limit='5'"),
        ({"attempts": 0}, "attempts=0 is no whole number from 1 on"),
        ({"attempts": True}, "attempts=True"),
        ({"name": ""}, "name='' is no name"),
        ({"name": "a\nb"}, "name='a\\nb' is no name"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_an_option_that_cannot_be_is_an_error(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Handlers().on("coupon.applied", **options)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{__file__}:")


def wants(record: RecordedEvent, *types: str, **filters: Any) -> bool:
    handlers = Handlers()
    handlers.on(*(types or ("*",)), **filters)(takes_one)
    return handlers["takes_one"].wants(record.event.type, record)


def test_filters_narrow_down_what_a_handler_gets() -> None:
    record = recorded()
    assert wants(record, site="shop")
    assert not wants(record, site="another")
    assert wants(record, site=["another", "shop"])
    assert wants(record, coupon="c-1")
    assert not wants(record, coupon="c-2")
    assert wants(record, discount_type="PERCENT_OFF")
    assert not wants(record, discount_type="MONEY_OFF")
    assert wants(record, discount_type={"MONEY_OFF", "PERCENT_OFF"})
    assert wants(record, code="SAVE")
    assert not wants(record, code="SAVE10")
    assert wants(record, "coupon.applied", site="shop", coupon="c-1", discount_type="PERCENT_OFF", code="save")
    assert not wants(record, "coupon.applied", site="shop", coupon="c-1", discount_type="PERCENT_OFF", code="x")


def test_an_event_that_carries_no_coupon_has_no_discount_type_and_no_code() -> None:
    record = recorded("coupon.deleted", coupon=None)
    assert not wants(record, discount_type="PERCENT_OFF")
    assert not wants(record, discount_type="UNKNOWN")
    assert not wants(record, code="SAVE")
    assert wants(record, coupon="c-1", site="shop")


def test_an_event_of_another_type_is_told_without_decoding_it() -> None:
    handlers = Handlers()
    handlers.on("coupon.applied", code="SAVE", site="shop")(takes_one)
    record = undecoded()
    assert not handlers["takes_one"].wants("coupon.created", record)
    assert "event" not in vars(record)


def test_stacked_decorators_give_what_any_of_them_wants(write: Write) -> None:
    text = """
from eventstore.handlers import on

@on("coupon.applied", site="shop")
@on("coupon.deleted", site="another", time_limit=5)
@on("coupon.applied", code="SAVE", attempts=3)
def both(event): ...
"""
    [handler] = load_handlers(write(text))
    assert handler.types == frozenset({"coupon.applied", "coupon.deleted"})
    assert (handler.time_limit, handler.attempts) == (5, 3)
    assert handler.wants("coupon.applied", recorded())
    assert handler.wants("coupon.applied", recorded(site_id="x"))
    assert not handler.wants("coupon.applied", recorded(site_id="x", coupon=None))
    assert not handler.wants("coupon.deleted", recorded("coupon.deleted"))
    assert handler.wants("coupon.deleted", recorded("coupon.deleted", site_id="another"))


def test_stacked_decorators_that_contradict_are_an_error(write: Write) -> None:
    text = """
from eventstore.handlers import on

@on("coupon.applied", attempts=2)
@on("coupon.deleted", attempts=3)
def both(event): ...
"""
    with pytest.raises(InputError, match=r"events\.py:\d+: both has attempts=3 and attempts=2; leave one"):
        load_handlers(write(text))


def test_a_decorated_function_is_still_a_function() -> None:
    @on("coupon.applied")
    def double(event: int) -> int:
        return 2 * event

    @coupons.on_coupon_created
    def handled(event: object) -> str:
        return "handled"

    assert double(2) == 4
    assert handled(None) == "handled"


def test_handlers_are_registered_as_the_sdk_does(write: Write) -> None:
    text = """
from eventstore.handlers import coupons, loyalty

def created(event): ...
async def deleted(event): ...

coupons.on_coupon_created(created)
coupons.on_coupon_updated(created)
coupons.on_coupon_deleted(deleted)

@coupons.on_coupon_applied
def used(event): ...

@loyalty.on_coupon_created
def reward(event): ...

loyalty.on_coupon_deleted(reward)
"""
    assert types_of(load_handlers(write(text))) == {
        "created": ["coupon.created", "coupon.updated"],
        "deleted": ["coupon.deleted"],
        "used": ["coupon.applied"],
        "reward": ["loyalty_coupon.created", "loyalty_coupon.deleted"],
    }


def test_a_misspelt_registration_names_the_right_one(write: Write) -> None:
    text = "from eventstore.handlers import coupons\n\ncoupons.onCouponCreated(print)\n"
    with pytest.raises(InputError, match=r"events\.py:3: AttributeError: .*did you mean 'on_coupon_created'\?"):
        load_handlers(write(text))


def test_handlers_can_be_made_without_a_file() -> None:
    handlers = Handlers()

    @handlers.on("coupon.applied", time_limit=2.5, attempts=4)
    async def used(event: object) -> None: ...

    handlers.coupons.on_coupon_created(takes_one)
    handlers.add(takes_one, "coupon.deleted")
    handlers.add(print, "*", name="printer")
    assert types_of(handlers) == {
        "used": ["coupon.applied"],
        "takes_one": ["coupon.created", "coupon.deleted"],
        "printer": None,
    }
    assert handlers.types is None
    assert (handlers["used"].is_async, handlers["used"].time_limit, handlers["used"].attempts) == (True, 2.5, 4)
    assert len(handlers) == 3
    assert "printer" in handlers
    assert isinstance(handlers["printer"], Handler)


def test_a_name_of_its_own_keeps_the_position_of_a_renamed_function(write: Write) -> None:
    text = "from eventstore.handlers import on\n\n@on('coupon.applied', name='used')\ndef redeemed(event): ...\n"
    assert types_of(load_handlers(write(text))) == {"used": ["coupon.applied"]}


# What cannot be a handler

HEAD = "import functools\nfrom eventstore.handlers import coupons, on\n"
BROKEN = {
    "takes nothing": ("def wixMarketing_onCouponCreated(): ...", 3, "must take one argument, the event"),
    "takes two": ("@on('coupon.applied')\ndef used(event, context): ...", 3, "used(event, context) must take one"),
    "wants a keyword": ("def wixMarketing_onCouponCreated(event, *, context): ...", 3, "must take one argument"),
    "a class": ("class wixMarketing_onCouponCreated:\n    pass", 3, "wixMarketing_onCouponCreated is a class"),
    "a decorated class": ("@on('coupon.applied')\nclass Used: ...", 3, "Used is a class"),
    "a generator": ("def wixMarketing_onCouponCreated(event):\n    yield", 3, "has a yield"),
    "an async generator": ("@on('*')\nasync def every(event):\n    yield", 3, "has a yield"),
    "a text": ("wixMarketing_onCouponCreated = 'text'", 3, "is not a function"),
    "a partial": (
        "@on('*')\ndef a(event): ...\nwixMarketing_onCouponCreated = functools.partial(a)",
        5,
        "is not a function",
    ),
    "a lambda": ("on('*')(lambda event: None)", 3, "a lambda has no name"),
    "twice one name": (
        "@on('*')\ndef a(event): ...\n@on('coupon.applied')\ndef a(event): ...",
        5,
        "there is a handler 'a' at",
    ),
    "an unknown type": ("@on('coupon.aplied')\ndef a(event): ...", 3, "did you mean 'coupon.applied'?"),
    "an unknown discount": (
        "\n@on('coupon.applied', discount_type='PERCENT')\ndef a(event): ...",
        4,
        "did you mean 'PERCENT_OFF'?",
    ),
    "without parentheses": ("@on\ndef a(event): ...", 3, "write the types"),
    "named for another event": (
        "@on('coupon.deleted')\ndef wixMarketing_onCouponCreated(event): ...",
        4,
        "is Wix's name for coupon.created, but it is registered for coupon.deleted",
    ),
    "no syntax": ("def f(:\n    pass", 3, "invalid syntax"),
    "raises": ("1 / 0", 3, "ZeroDivisionError: division by zero"),
    "ends": ("raise SystemExit(3)", 3, "SystemExit: 3"),
    "an import": ("\nimport no_such_module", 4, "No module named 'no_such_module'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_run_as_meant_is_an_error_with_its_line(write: Write, case: str) -> None:
    text, line, said = BROKEN[case]
    path = write(HEAD + text + "\n")
    with pytest.raises(InputError) as caught:
        load_handlers(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert said in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_error_in_a_neighbour_names_the_neighbour(write: Write, tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("\n\nraise ValueError('no such mail server')\n")
    with pytest.raises(InputError, match=r"helpers\.py:3: ValueError: no such mail server$"):
        load_handlers(write("from .helpers import send\n"))
    (tmp_path / "helpers.py").write_text("\ndef send(:\n")
    with pytest.raises(InputError, match=r"helpers\.py:2: invalid syntax"):
        load_handlers(write("import helpers\n"))


def test_a_file_without_handlers_says_how_to_write_one(write: Write) -> None:
    with pytest.raises(InputError, match=r"events\.py: no handlers; call a function wixMarketing_onCouponCreated, "):
        load_handlers(write("def helper(x): ...\n"))


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.py cannot be read: No such file"):
        load_handlers(tmp_path / "missing.py")
    with pytest.raises(InputError, match="cannot be read"):
        load_handlers(tmp_path)


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "events.py").write_bytes(b"x = '\xff\x00'\n")
    with pytest.raises(InputError, match=r"events\.py"):
        load_handlers(tmp_path / "events.py")
    (tmp_path / "events.txt").write_text("def wixMarketing_onCouponCreated(event): ...\n")
    with pytest.raises(InputError, match=r"ends in \.py"):
        load_handlers(tmp_path / "events.txt")


# Modules


def test_neighbours_can_be_imported_either_way(write: Write, tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("def twice(x):\n    return 2 * x\n")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "__init__.py").write_text("from .inner import ONE\n")
    (tmp_path / "lib" / "inner.py").write_text("ONE = 1\n")
    text = """
import helpers
from . import helpers as same
from .lib import ONE

def wixMarketing_onCouponCreated(event):
    from .helpers import twice
    return helpers.twice(event) + same.twice(event) + twice(event) + ONE
"""
    before = list(sys.path)
    [handler] = load_handlers(write(text))
    assert handler.function(1) == 7
    assert sys.path == before


def test_a_neighbour_registers_handlers_too(write: Write, tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text(
        "from eventstore.handlers import on\n@on('coupon.deleted')\ndef gone(event): ...\n"
    )
    text = "import more\ndef wixMarketing_onCouponCreated(event): ...\n"
    for _ in range(2):
        assert list(types_of(load_handlers(write(text)))) == ["wixMarketing_onCouponCreated", "gone"]


def test_a_file_that_has_changed_is_loaded_anew_with_its_neighbours(write: Write, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "helpers.py").write_text(f"NUMBER = {number}  # {'x' * number}\n")
        [handler] = load_handlers(
            write(f"import helpers\ndef wixMarketing_onCouponCreated(event):\n    return helpers.NUMBER, {number}\n")
        )
        assert handler.function(None) == (number, number)


def test_two_folders_may_have_neighbours_of_one_name(tmp_path: Path) -> None:
    loaded = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "settings.py").write_text(f"SHOP = {name!r}\n")
        (folder / "events.py").write_text(
            "import settings\ndef wixMarketing_onCouponCreated(event):\n    return settings.SHOP\n"
        )
        loaded.append(load_handlers(folder / "events.py"))
    assert [handler.function(None) for handlers in loaded for handler in handlers] == ["one", "two"]


def test_a_file_may_define_dataclasses_and_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "my-shop.events.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Note:\n    text: str\n\n"
        "def wixMarketing_onCouponCreated(event):\n    return Note('x').text, __file__\n"
    )
    [handler] = load_handlers(path)
    assert handler.function(None) == ("x", str(path))


def test_a_path_relative_to_the_working_directory_is_taken(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("from .helpers import x\ndef wixMarketing_onCouponCreated(event):\n    return x\n")
    (path.parent / "helpers.py").write_text("x = 5\n")
    monkeypatch.chdir(path.parent)
    [handler] = load_handlers(Path("events.py"))
    monkeypatch.chdir(os.sep)
    assert handler.function(None) == 5
    assert handler.where == "events.py:2"


def test_a_wrapped_handler_is_found_under_its_own_name(write: Write) -> None:
    text = """
import functools

def logged(function):
    @functools.wraps(function)
    def wrapper(event):
        return "logged", function(event)
    return wrapper

def bare(function):
    return lambda event: function(event)

@logged
def wixMarketing_onCouponCreated(event):
    return event

@bare
def wixMarketing_onCouponDeleted(event):
    return event
"""
    handlers = load_handlers(write(text))
    assert set(types_of(handlers)) == {"wixMarketing_onCouponCreated", "wixMarketing_onCouponDeleted"}
    assert handlers["wixMarketing_onCouponCreated"].function(1) == ("logged", 1)
    assert handlers["wixMarketing_onCouponDeleted"].function(2) == 2


def test_an_async_handler_in_a_plain_wrapper_is_async() -> None:
    async def used(event: object) -> None: ...

    @functools.wraps(used)
    def logged(event: object) -> object:
        return used(event)

    handlers = Handlers()
    handlers.on("coupon.applied")(logged)
    assert handlers["used"].is_async


def test_a_method_can_be_a_handler() -> None:
    class Shop:
        def used(self, event: object) -> object:
            return event

    handlers = Handlers()
    shop = Shop()
    handlers.coupons.on_coupon_applied(shop.used)
    assert handlers["used"].function(3) == 3
    with pytest.raises(InputError, match="is not a function"):
        handlers.on("*")(functools.partial(shop.used))


def test_try_later_says_for_how_long() -> None:
    error = TryLater("the mail server is away", seconds=30)
    assert (str(error), error.seconds) == ("the mail server is away", 30)
    assert TryLater().seconds is None
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="no time to wait"):
            TryLater("x", seconds=wrong)


def test_a_loaded_handler_gets_the_documented_event(write: Write) -> None:
    [handler] = load_handlers(
        write("def wixMarketing_onCouponApplied(event):\n    return event.data.coupon.code, event.data.wixAppOrderId\n")
    )
    record = recorded(order_id="o-1", actor=Actor(type="APP", id="a"))
    assert handler.wants("coupon.applied", record)
    assert handler.function(handler_event("coupon.applied", record, idempotency_key="k")) == ("Save", "o-1")
