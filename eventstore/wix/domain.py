"""The domain event: what REST, SDK and Velo deliveries have in common once their envelopes are open.

Every route carries the same facts about the event itself (id, entity, time, sequence, who) and a body. Here, and only
here, they become an `Event`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from eventstore.errors import UnreadableDelivery
from eventstore.event import Event, Source
from eventstore.wix import scalars
from eventstore.wix.catalogue import Family, Subject
from eventstore.wix.coupon import coupon_id, read_coupon
from eventstore.wix.decode import decode_text
from eventstore.wix.loyalty import read_loyalty_coupon

NO_ID: Final = "-"
"""Stands in for the id of an event that carries none, until the derived one is known."""

_KNOWN_USE: Final = frozenset(("coupon", "wixAppId", "wixAppOrderId"))
_IDENTITY_IDS: Final[Mapping[str, str]] = MappingProxyType(
    {"MEMBER": "memberId", "ANONYMOUS_VISITOR": "anonymousVisitorId", "WIX_USER": "wixUserId", "APP": "appId"}
)


def domain_event(
    source: Source,
    site_id: str,
    kind: Family | str,
    metadata: dict[str, Any],
    body: Any,
    *,
    metadata_at: str = "",
    body_at: str,
    changed: Any = None,
    restored: bool = False,
    envelope: dict[str, Any] | None = None,
    envelope_at: str = "",
    dated: bool = True,
) -> Event:
    """The canonical event of one domain event.

    `kind` is its family, or the `eventType` of one that we do not recognise. `metadata` holds `id`, `entityId`,
    `eventTime` and the like; `body` the entity or the action's data, None if absent. `identity` and `accountInfo` stand
    in `envelope`, or else in the metadata. `*_at` say where each stands in the delivery, for messages. `dated` False: the
    time is that of receipt.

    Raises UnreadableDelivery.
    """
    try:
        facts = _metadata(metadata)
        facts["type"] = kind.type if isinstance(kind, Family) else scalars.ident(kind, "eventType")
    except UnreadableDelivery as error:
        raise scalars.under(metadata_at, error) from None
    try:
        if isinstance(kind, Family):
            facts |= _body(kind, body)
        else:
            facts["recognised"] = False
            facts["body"] = scalars.plain(body, "", unwrap=False)
        if facts["entity_id"] is None:
            facts["entity_id"] = _id_in_body(body)
    except UnreadableDelivery as error:
        raise scalars.under(body_at, error) from None
    if facts["entity_id"] is None:
        raise UnreadableDelivery(
            "missing; the event does not say what it is about", where=scalars.path(metadata_at, "entityId")
        )
    if isinstance(kind, Family) and kind.subject is not Subject.LOYALTY_COUPON and facts["coupon_id"] is None:
        facts["coupon_id"] = facts["entity_id"]
    try:
        told = metadata if envelope is None else envelope
        facts["actor"] = _actor(_object(told.get("identity") or metadata.get("identity"), "identity"))
        facts["account"] = _account(_object(told.get("accountInfo") or metadata.get("accountInfo"), "accountInfo"))
    except UnreadableDelivery as error:
        raise scalars.under(metadata_at if envelope is None else envelope_at, error) from None
    facts["source"] = source
    facts["site_id"] = scalars.ident(site_id, "site_id")
    facts["restored"] = restored
    if isinstance(changed, dict) and changed:
        facts["changed"] = scalars.plain(changed, "modifiedFields")
    if not dated:
        facts["dated"] = False
    return build(facts)


def build(facts: dict[str, Any]) -> Event:
    """The event of these fields, under a derived id if they have none.

    The readers check what they read, with its path; should the model still find fault, its own path is told.
    """
    try:
        event = Event.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise UnreadableDelivery(first["msg"], where=".".join(map(str, first["loc"]))) from None
    return event.with_derived_id() if event.event_id == NO_ID else event


def read_json_member(parent: dict[str, Any], name: str) -> tuple[Any, str]:
    """What stands under `name`, or as a JSON text under `<name>AsJson`, and which of the two. None if neither."""
    value = parent.get(name)
    if value:
        return value, name
    as_json = f"{name}AsJson"
    text = parent.get(as_json)
    if text is None or text == "":
        return value, name
    if isinstance(text, str):
        return decode_text(text, as_json), as_json
    return scalars.member(text, as_json), as_json


def _metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    get = metadata.get
    event_time = scalars.time(get("eventTime"), "eventTime")
    if event_time is None:
        raise UnreadableDelivery("missing; an event without its time cannot be ordered", where="eventTime")
    return {
        "event_id": scalars.ident(get("id"), "id") or scalars.ident(get("_id"), "_id") or NO_ID,
        "entity_id": scalars.ident(get("entityId"), "entityId"),
        "event_time": event_time,
        "sequence": scalars.count(get("entityEventSequence"), "entityEventSequence"),
        "anonymize": scalars.flag(get("triggeredByAnonymizeRequest"), "triggeredByAnonymizeRequest") or False,
        "originated_from": scalars.label(get("originatedFrom"), "originatedFrom"),
    }


def _body(family: Family, body: Any) -> dict[str, Any]:
    entity = scalars.member(body, "") or {}
    if not entity:
        if family.needs_body:
            raise UnreadableDelivery(f"missing entity; {family.type} says nothing without it")
        return {"coupon_id": None}
    if family.subject is Subject.COUPON:
        coupon = read_coupon(entity)
        return {"coupon_id": coupon["id"], "coupon": coupon}
    if family.subject is Subject.LOYALTY_COUPON:
        loyalty, coupon_of = read_loyalty_coupon(entity)
        return {"loyalty": loyalty, "coupon": coupon_of, "coupon_id": coupon_of and coupon_of["id"]}
    return _use(entity)


def _use(data: dict[str, Any]) -> dict[str, Any]:
    """A use names the coupon, the app and the order. Whatever Wix adds to that is kept in the event's `body`."""
    facts: dict[str, Any] = {
        "order_id": scalars.ident(data.get("wixAppOrderId"), "wixAppOrderId"),
        "app_id": scalars.ident(data.get("wixAppId"), "wixAppId"),
        "coupon_id": None,
        "body": scalars.unnamed(data, _KNOWN_USE) or None,
    }
    entity = scalars.member(data.get("coupon"), "coupon")
    if entity:
        try:
            facts["coupon"] = read_coupon(entity)
        except UnreadableDelivery as error:
            raise scalars.under("coupon", error) from None
        facts["coupon_id"] = facts["coupon"]["id"]
    return facts


def _id_in_body(body: Any) -> str | None:
    if not isinstance(body, dict):
        return None
    found = coupon_id({name: body[name] for name in ("id", "_id") if name in body})
    coupon = body.get("coupon")
    return coupon_id(coupon) if found is None and isinstance(coupon, dict) else found


def _object(value: Any, name: str) -> dict[str, Any]:
    """An object, also as the JSON text that the webhook's envelope has for `identity`."""
    if value is None or value == "":
        return {}
    return decode_text(value, name) if isinstance(value, str) else scalars.member(value, name) or {}


def _actor(identity: dict[str, Any]) -> dict[str, Any] | None:
    """Who it was. The type always fits the id, since it says whether the id is personal."""
    if not identity:
        return None
    kind = (scalars.label(identity.get("identityType"), "identity.identityType") or "UNKNOWN").upper()
    said = _IDENTITY_IDS.get(kind)
    if said and (found := scalars.ident(identity.get(said), f"identity.{said}")):
        return {"type": kind, "id": found}
    for other, name in _IDENTITY_IDS.items():
        if found := scalars.ident(identity.get(name), f"identity.{name}"):
            return {"type": other, "id": found}
    return {"type": kind}


def _account(info: dict[str, Any]) -> dict[str, Any] | None:
    facts = {
        "account_id": scalars.ident(info.get("accountId"), "accountInfo.accountId"),
        "parent_account_id": scalars.ident(info.get("parentAccountId"), "accountInfo.parentAccountId"),
        "site_id": scalars.ident(info.get("siteId"), "accountInfo.siteId"),
    }
    return facts if any(facts.values()) else None
