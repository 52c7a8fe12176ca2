"""What each route says about the event itself: its family, entity, time, order, and who."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from eventstore.errors import UnknownHandler, UnreadableDelivery
from eventstore.event import Account, Actor, Event, Source
from eventstore.wix import (
    FAMILIES,
    HANDLERS,
    detect_route,
    read,
    read_envelope,
    read_rest,
    read_sdk,
    read_snapshot,
    read_velo,
    site_of,
)

SITE = "site"
TIME = "2025-01-01T00:00:00Z"
NOW = datetime(2025, 6, 1, tzinfo=UTC)
COUPON = {"id": "coupon", "specification": {"code": "A", "moneyOffAmount": 5, "type": "MoneyOff"}}
FQDN = "wix.ecommerce.coupons.v2.coupon"


def velo(handler: str = "wixMarketing_onCouponCreated", *, entity: Any = COUPON, **metadata: Any) -> Event:
    told = {"id": "event", "entityId": "coupon", "eventTime": TIME, **metadata}
    return read_velo(handler, {"metadata": told, "entity": entity}, site_id=SITE)


def domain_event(slug: str = "created", fqdn: str = FQDN, **fields: Any) -> dict[str, Any]:
    return {"id": "event", "entityFqdn": fqdn, "slug": slug, "entityId": "coupon", "eventTime": TIME, **fields}


def rest(slug: str = "created", fqdn: str = FQDN, **fields: Any) -> Event:
    return read_rest(domain_event(slug, fqdn, **fields), site_id=SITE)


def sdk(slug: str = "created", *, metadata: dict[str, Any] | None = None, **fields: Any) -> Event:
    told = {"_id": "event", "entityFqdn": FQDN, "slug": slug, "entityId": "coupon", "eventTime": TIME}
    return read_sdk({"metadata": told | (metadata or {}), **fields}, default_site_id=SITE)


# --- families ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("handler", "event_type"), HANDLERS.items())
def test_a_velo_handler_names_the_family(handler: str, event_type: str) -> None:
    assert velo(handler).type == event_type


def test_an_unknown_velo_handler_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownHandler, match="wixMarketing_onCouponApplied") as refusal:
        velo("wixStores_onOrderPaid")
    assert refusal.value.name == "wixStores_onOrderPaid"
    assert refusal.value.known == tuple(HANDLERS)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.type)
def test_fqdn_and_slug_name_the_family_on_rest_and_sdk(family: Any) -> None:
    about = {"entityFqdn": family.entity_fqdn, "slug": family.slug}
    body = {"id": "x", "couponReference": {"couponId": "coupon"}}
    assert read_rest(domain_event() | about | {"createdEvent": {"entity": body}}, site_id=SITE).type == family.type
    assert sdk(metadata=about, entity=body).type == family.type
    assert sdk(metadata={"entityFqdn": None, "slug": None, "eventType": family.event_type}, entity=body).type == (
        family.type
    )


def test_an_event_of_another_family_is_kept_under_its_event_type() -> None:
    event = rest("updated", "wix.loyalty.v1.reward", updatedEvent={"currentEntity": {"_id": "r", "points": 5}})
    assert (event.type, event.recognised) == ("wix.loyalty.v1.reward_updated", False)
    assert event.body == {"id": "r", "points": 5}
    assert (event.coupon, event.coupon_id) == (None, None)
    told = sdk("updated", metadata={"entityFqdn": "wix.loyalty.v1.reward"}, entity={"id": "r", "points": 5})
    assert told.content_json() == event.content_json()
    other = sdk("updated", metadata={"entityFqdn": "wix.loyalty.v1.reward"}, entity={"id": "r", "points": 6})
    assert told.content_json() != other.content_json()


@pytest.mark.parametrize(
    ("fqdn", "slug"),
    [("loyalty", "coupon.created"), ("coupon.created", "x"), ("subject.erased", "x"), ("coupon.observed", "x")],
)
def test_no_event_from_outside_passes_for_one_of_the_stores_own(fqdn: str, slug: str) -> None:
    with pytest.raises(UnreadableDelivery, match="the store's own"):
        rest(slug, fqdn)
    with pytest.raises(UnreadableDelivery, match="the store's own"):
        sdk(metadata={"entityFqdn": None, "slug": None, "eventType": fqdn if slug == "x" else f"{fqdn}_{slug}"})


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"createdEvent": {"entityAsJson": '{"b":1,"_a":{"value":2}}'}}, {"a": {"value": 2}, "b": 1}),
        ({"actionEvent": {"body": {"x": 1}}}, {"x": 1}),
        ({"deletedEvent": {"deletedEntityAsJson": '{"x":1}'}}, {"x": 1}),
        ({"deletedEvent": {}}, None),
        ({"deletedEvent": {"by": "owner"}}, {"by": "owner"}),
        ({"extendedFieldsUpdatedEvent": {"namespaces": {"a": 1}}}, {"namespaces": {"a": 1}}),
        ({"somethingElse": {"a": [1, None]}}, {"somethingElse": {"a": [1, None]}}),
        ({}, None),
    ],
)
def test_the_body_of_an_unrecognised_event_is_kept(fields: dict[str, Any], body: Any) -> None:
    assert rest("happened", "wix.new.v1.thing", **fields).body == body


def test_new_fields_of_a_use_are_part_of_the_event() -> None:
    event = rest("applied", actionEvent={"body": {"coupon": COUPON, "wixAppOrderId": "o", "amount": {"value": 5}}})
    assert event.body == {"amount": 5}
    assert rest("applied", actionEvent={"body": {"coupon": COUPON, "wixAppOrderId": "o"}}).body is None


# --- entity, time, order ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [None, "", {}])
def test_an_event_without_its_time_is_refused(absent: Any) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        velo(eventTime=absent)
    assert refusal.value.where == "metadata.eventTime"
    with pytest.raises(UnreadableDelivery) as refusal:
        rest(eventTime=absent)
    assert refusal.value.where == "eventTime"


def test_an_event_that_names_no_entity_is_refused() -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        velo("wixMarketing_onCouponDeleted", entity=None, entityId=None)
    assert refusal.value.where == "metadata.entityId"
    assert not refusal.value.malformed


def test_the_bodys_own_id_stands_in_for_an_absent_entity_id() -> None:
    assert velo(entityId=None).entity_id == "coupon"
    assert rest("applied", entityId="", actionEvent={"body": {"coupon": COUPON}}).entity_id == "coupon"
    assert rest("x", "wix.new.v1.thing", entityId=None, createdEvent={"entity": {"_id": "e"}}).entity_id == "e"


def test_the_coupons_id_is_the_bodys_first_and_the_entitys_second() -> None:
    assert velo(entityId="other").coupon_id == "coupon"
    assert velo(entity={"code": "A"}, entityId="other").coupon_id == "other"
    assert velo("wixMarketing_onCouponDeleted", entity=None, entityId="other").coupon_id == "other"
    assert velo("wixLoyalty_onCouponDeleted", entity=None, entityId="loyalty").coupon_id is None


@pytest.mark.parametrize(
    ("spelling", "sequence"),
    [("12", 12), (12, 12), (None, None), ("", None), ("9223372036854775807", 2**63 - 1)],
)
def test_the_sequence_is_a_whole_number_or_absent(spelling: Any, sequence: int | None) -> None:
    assert rest("deleted", entityEventSequence=spelling).sequence == sequence


@pytest.mark.parametrize("spelling", ["9223372036854775808", 2**63, "1.5", "first", True])
def test_a_sequence_beyond_64_bits_is_refused(spelling: Any) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        rest("deleted", entityEventSequence=spelling)
    assert refusal.value.where == "entityEventSequence"


@pytest.mark.parametrize("field", ["id", "entityId"])
@pytest.mark.parametrize("value", ["a\0b", "a\nb", "x" * 201, ["a"]])
def test_an_id_that_no_database_could_hold_is_refused(field: str, value: Any) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        velo(**{field: value})
    assert refusal.value.where == f"metadata.{field}"


def test_an_event_without_an_id_gets_one_from_its_content() -> None:
    first, again, other = velo(id=None), velo(id=""), velo(id=None, entity=COUPON | {"numberOfUsages": 1})
    assert first.event_id.startswith("sha256:")
    assert first.event_id == again.event_id != other.event_id
    assert velo(id=None, _id="event").event_id == "event"


@pytest.mark.parametrize(
    ("handler", "entity"),
    [
        ("wixMarketing_onCouponCreated", None),
        ("wixMarketing_onCouponUpdated", {}),
        ("wixLoyalty_onCouponCreated", None),
    ],
)
def test_a_creation_or_update_without_its_entity_is_refused(handler: str, entity: Any) -> None:
    with pytest.raises(UnreadableDelivery, match="missing entity") as refusal:
        velo(handler, entity=entity)
    assert refusal.value.where == "entity"


def test_a_use_without_data_counts_for_the_entity() -> None:
    event = sdk("applied")
    assert (event.coupon_id, event.order_id, event.coupon) == ("coupon", None, None)
    assert (event.type, event.event_id) == ("coupon.applied", "event")


def test_a_deletion_that_carries_its_entity_keeps_it() -> None:
    event = rest("deleted", deletedEvent={"deletedEntity": COUPON})
    assert event.coupon is not None
    assert event.coupon.code == "A"


def test_a_restored_coupon_is_a_creation_that_says_so() -> None:
    restored = rest(createdEvent={"entity": COUPON, "restoreInfo": {"deletedDate": TIME}})
    assert (restored.type, restored.restored) == ("coupon.created", True)
    assert not rest(createdEvent={"entity": COUPON, "restoreInfo": None}).restored


def test_the_values_before_an_update_are_kept_in_one_order() -> None:
    before = {"specification.name": {"value": "old"}, "specification.active": None, "_b": 1}
    told = rest("updated", updatedEvent={"currentEntity": COUPON, "modifiedFields": before})
    assert told.changed == {"b": 1, "specification.active": None, "specification.name": "old"}
    assert list(told.changed) == sorted(told.changed)
    assert sdk("updated", entity=COUPON, modifiedFields=before).changed == told.changed
    assert rest("updated", updatedEvent={"currentEntity": COUPON, "modifiedFields": {}}).changed is None


def test_a_privacy_request_is_marked() -> None:
    assert velo(triggeredByAnonymizeRequest=True).anonymize
    assert velo(triggeredByAnonymizeRequest={"value": "true"}).anonymize
    assert not velo(triggeredByAnonymizeRequest=None).anonymize
    with pytest.raises(UnreadableDelivery) as refusal:
        velo(triggeredByAnonymizeRequest="perhaps")
    assert refusal.value.where == "metadata.triggeredByAnonymizeRequest"


def test_an_empty_text_is_absent() -> None:
    assert velo(originatedFrom="").originated_from is None
    assert velo(originatedFrom="restore").originated_from == "restore"


# --- JSON texts inside a delivery -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "holder", "field"),
    [
        ("created", "createdEvent", "entity"),
        ("updated", "updatedEvent", "currentEntity"),
        ("deleted", "deletedEvent", "deletedEntity"),
    ],
)
def test_an_entity_as_json_text_is_the_entity(slug: str, holder: str, field: str) -> None:
    as_object = read_rest(domain_event(slug) | {holder: {field: COUPON}}, site_id=SITE)
    as_text = read_rest(domain_event(slug) | {holder: {f"{field}AsJson": json.dumps(COUPON)}}, site_id=SITE)
    assert as_text == as_object
    assert as_object.coupon is not None


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"a":' + "[" * 64 + "]" * 64 + "}", "\ud800"])
def test_a_json_text_that_is_not_an_object_is_refused_with_its_path(text: str) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        rest("applied", actionEvent={"bodyAsJson": text})
    assert refusal.value.where == "actionEvent.bodyAsJson"
    assert not refusal.value.malformed


def test_a_fault_inside_a_json_text_is_told_with_the_whole_path() -> None:
    text = json.dumps({"coupon": {"specification": {"startTime": "2021-02-30"}}})
    with pytest.raises(UnreadableDelivery) as refusal:
        rest("applied", actionEvent={"bodyAsJson": text})
    assert refusal.value.where == "actionEvent.bodyAsJson.coupon.specification.startTime"


# --- loyalty ----------------------------------------------------------------------------------------------------------


def test_a_loyalty_coupon_has_both_sides() -> None:
    entity = {
        "id": "loyalty",
        "memberIdDeprecated": "member",
        "couponReference": {
            "couponId": "coupon",
            "code": "L",
            "name": "n",
            "specification": {"code": None, "percentOffRate": 10, "type": "PERCENT_OFF_RATE"},
            "deleted": True,
        },
        "status": "ARCHIVED",
        "revision": "7",
        "_updatedDate": TIME,
        "pointsSpent": {"value": 100},
    }
    event = velo("wixLoyalty_onCouponCreated", entity=entity, entityId="loyalty")
    assert event.coupon is not None
    assert event.loyalty is not None
    assert (event.entity_id, event.coupon_id) == ("loyalty", "coupon")
    assert (event.coupon.id, event.coupon.code, event.coupon.name, event.coupon.extra) == ("coupon", "L", "n", None)
    assert (event.loyalty.member_id, event.loyalty.revision) == ("member", 7)
    assert event.loyalty.coupon_deleted
    assert event.loyalty.updated_at == datetime(2025, 1, 1, tzinfo=UTC)
    assert event.loyalty.extra == {"pointsSpent": 100}
    assert event.personal == ("memberId",)


def test_the_deprecated_member_id_gives_way() -> None:
    event = velo("wixLoyalty_onCouponCreated", entity={"id": "l", "memberId": "new", "memberIdDeprecated": "old"})
    assert event.loyalty is not None
    assert (event.loyalty.member_id, event.loyalty.extra) == ("new", None)
    assert (event.coupon, event.coupon_id) == (None, None)


@pytest.mark.parametrize("field", ["createdDate", "_createdDate", "updatedDate", "_updatedDate"])
def test_a_loyalty_date_that_does_not_exist_is_refused(field: str) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        velo("wixLoyalty_onCouponCreated", entity={"id": "l", field: "2023-02-29T00:00:00Z"})
    assert refusal.value.where == f"entity.{field}"


def test_a_fault_in_the_reference_is_told_with_the_whole_path() -> None:
    reference = {"couponId": "c", "specification": {"expirationTime": "never"}}
    with pytest.raises(UnreadableDelivery) as refusal:
        velo("wixLoyalty_onCouponCreated", entity={"id": "l", "couponReference": reference})
    assert refusal.value.where == "entity.couponReference.specification.expirationTime"


# --- who, and whose ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "actor"),
    [
        ({"identityType": "MEMBER", "memberId": "m"}, Actor(type="MEMBER", id="m")),
        ('{"identityType": "MEMBER", "memberId": "m"}', Actor(type="MEMBER", id="m")),
        ({"identityType": "ANONYMOUS_VISITOR", "anonymousVisitorId": "v"}, Actor(type="ANONYMOUS_VISITOR", id="v")),
        ({"identityType": "WIX_USER", "wixUserId": "u"}, Actor(type="WIX_USER", id="u")),
        ({"identityType": "APP", "appId": "a", "memberId": "m"}, Actor(type="APP", id="a")),
        ({"identityType": "MEMBER"}, Actor(type="MEMBER")),
        ({"identityType": "UNKNOWN"}, Actor(type="UNKNOWN")),
        (None, None),
        ("", None),
        ({}, None),
    ],
)
def test_the_actor_is_who_the_identity_says(identity: Any, actor: Actor | None) -> None:
    assert sdk("deleted", metadata={"identity": identity}).actor == actor
    envelope = {"eventType": "x", "instanceId": "i", "identity": identity, "data": domain_event("deleted")}
    assert read_envelope(envelope).actor == actor


@pytest.mark.parametrize("said", [None, "UNKNOWN", "APP", "NEW_KIND", 5])
def test_a_personal_id_is_known_as_personal_whatever_type_is_said(said: Any) -> None:
    event = sdk("deleted", metadata={"identity": {"identityType": said, "memberId": "m"}})
    assert event.actor == Actor(type="MEMBER", id="m")
    assert event.personal == ("identity.memberId",)


@pytest.mark.parametrize("identity", ["{", "[]", ["m"], {"identityType": "MEMBER", "memberId": "a\n"}])
def test_an_identity_that_cannot_be_read_is_refused(identity: Any) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        sdk("deleted", metadata={"identity": identity})
    assert refusal.value.where.startswith("metadata.identity")


def test_the_account_is_whose_site_it_is() -> None:
    info = {"accountId": "a", "parentAccountId": "p", "siteId": "s"}
    account = Account(account_id="a", parent_account_id="p", site_id="s")
    assert sdk("deleted", metadata={"accountInfo": info}).account == account
    assert sdk("deleted", metadata={"accountInfo": json.dumps(info)}).account == account
    assert sdk("deleted", metadata={"accountInfo": {}}).account is None


# --- envelopes and sites ----------------------------------------------------------------------------------------------


def envelopes() -> list[Any]:
    event = domain_event("deleted")
    told = [
        {"eventType": f"{FQDN}_deleted", "instanceId": "instance", "data": json.dumps(event)},
        {"eventType": f"{FQDN}_deleted", "instanceId": "instance", "data": event},
    ]
    return [*told, *({"data": json.dumps(e), "iat": 1} for e in told), *({"data": e} for e in told)]


@pytest.mark.parametrize("body", envelopes())
def test_an_envelope_is_opened_whether_text_or_object(body: dict[str, Any]) -> None:
    bare = rest("deleted")
    for event in (read_envelope(body), read_rest(body, site_id=SITE), read_envelope(body, site_id=SITE)):
        assert event == bare.model_copy(update={"site_id": "instance"})
    assert site_of(body) == "instance"


def test_an_envelope_that_names_no_site_takes_the_callers() -> None:
    body = {"eventType": "x", "data": domain_event("deleted")}
    assert read_envelope(body, site_id=SITE).site_id == SITE
    with pytest.raises(UnreadableDelivery) as refusal:
        read_envelope(body)
    assert refusal.value.where == "instanceId"


def test_the_envelopes_event_type_stands_in_for_fqdn_and_slug() -> None:
    data = domain_event("deleted") | {"entityFqdn": None, "slug": None}
    assert read_envelope({"eventType": f"{FQDN}_deleted", "instanceId": "i", "data": data}).type == "coupon.deleted"
    with pytest.raises(UnreadableDelivery, match="what happened"):
        read_envelope({"instanceId": "i", "data": data})


@pytest.mark.parametrize(("data", "where"), [("{", "data"), ("[]", "data"), ([], "data")])
def test_an_envelope_whose_data_is_no_event_is_refused(data: Any, where: str) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        read_envelope({"eventType": "x", "instanceId": "i", "data": data})
    assert refusal.value.where == where


def test_a_fault_in_an_enveloped_event_is_told_with_the_whole_path() -> None:
    body = {"data": json.dumps({"instanceId": "i", "data": json.dumps(domain_event("deleted", eventTime="x"))})}
    with pytest.raises(UnreadableDelivery) as refusal:
        read_envelope(body)
    assert refusal.value.where == "data.data.eventTime"


def test_an_sdk_event_belongs_to_its_instance_or_else_to_the_default() -> None:
    assert sdk("deleted", metadata={"instanceId": "instance"}).site_id == "instance"
    assert sdk("deleted").site_id == SITE
    assert site_of({"metadata": {"instanceId": "instance"}}) == "instance"
    assert site_of({"instanceId": "instance"}) == "instance"
    assert site_of({"metadata": {}}) is None


def test_no_body_reaches_a_third_site() -> None:
    body = {"metadata": {"instanceId": "a"}, "instanceId": "b", "eventType": "x", "data": domain_event("deleted")}
    assert read_envelope(body).site_id == site_of(body) == "a"
    unreadable: tuple[Any, ...] = (None, "{", [], {"instanceId": "b"})
    for data in unreadable:
        told = {"metadata": {"instanceId": "a", "entityFqdn": FQDN, "slug": "created"}, "entity": COUPON, "data": data}
        assert site_of(told) == "a"


# --- telling the route ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "route"),
    [
        ({"coupons": []}, Source.SNAPSHOT),
        ({"coupon": {}}, Source.SNAPSHOT),
        ({"entityFqdn": FQDN}, Source.REST),
        ({"eventType": "x", "data": "{}"}, Source.REST),
        ({"data": "{}", "iat": 1}, Source.REST),
        ({"metadata": {"entityFqdn": FQDN}}, Source.SDK),
        ({"metadata": {"eventType": "x"}}, Source.SDK),
        ({"metadata": {"id": "x"}}, Source.VELO),
    ],
)
def test_the_route_is_told_by_the_shape(body: dict[str, Any], route: Source) -> None:
    assert detect_route(body) is route


@pytest.mark.parametrize("body", [{}, {"hello": 1}, {"metadata": []}, {"data": {"coupon": {}}}])
def test_an_unknown_shape_is_refused_with_the_known_ones(body: dict[str, Any]) -> None:
    with pytest.raises(UnreadableDelivery, match="Query Coupons"):
        read(body, route=None, handler=None, site_id=SITE, observed_at=NOW)


def test_an_unknown_route_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnreadableDelivery, match="velo, rest, sdk, snapshot"):
        read({"coupons": []}, route="carrier pigeon", handler=None, site_id=SITE, observed_at=NOW)


def test_of_velo_events_only_a_use_is_told_without_its_handler() -> None:
    metadata = {"id": "e", "entityId": "c", "eventTime": TIME}
    [event] = read(
        {"metadata": metadata, "data": {"coupon": COUPON}}, route=None, handler=None, site_id=SITE, observed_at=NOW
    )
    assert event.type == "coupon.applied"
    with pytest.raises(UnreadableDelivery, match="give the handler"):
        read({"metadata": metadata, "entity": COUPON}, route="velo", handler=None, site_id=SITE, observed_at=NOW)


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_a_single_coupon_is_a_page_of_one() -> None:
    page = read_snapshot({"coupon": COUPON}, site_id=SITE, observed_at=NOW)
    assert page == read_snapshot({"coupons": [COUPON]}, site_id=SITE, observed_at=NOW)
    assert read_snapshot({"coupons": []}, site_id=SITE, observed_at=NOW) == []


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"coupons": {}}, "coupons"),
        ({"coupons": None}, "coupons"),
        ({"coupons": [COUPON, {"code": "A"}]}, "coupons[1].id"),
        ({"coupons": [COUPON, "A"]}, "coupons[1]"),
        ({"coupons": [{"id": "c", "specification": {"startTime": "x"}}]}, "coupons[0].specification.startTime"),
        ({"coupon": None}, "coupon.id"),
        ({}, ""),
    ],
)
def test_a_page_with_an_unreadable_coupon_is_refused_with_its_place(body: dict[str, Any], where: str) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        read_snapshot(body, site_id=SITE, observed_at=NOW)
    assert refusal.value.where == where


@pytest.mark.parametrize("body", [{}, {"metadata": None}, {"metadata": []}, {"entity": COUPON}])
def test_a_body_without_metadata_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        read_velo("wixMarketing_onCouponCreated", body, site_id=SITE)
    assert refusal.value.where == "metadata"
    with pytest.raises(UnreadableDelivery) as refusal:
        read_sdk(body, default_site_id=SITE)
    assert refusal.value.where == "metadata"
