"""The REST webhook: the domain event, the envelope around it, and the JWT payload around that (DOMAIN §1)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

from eventstore.errors import UnreadableDelivery
from eventstore.event import Event, Source
from eventstore.wix import scalars
from eventstore.wix.catalogue import BY_EVENT_TYPE
from eventstore.wix.decode import decode_text
from eventstore.wix.domain import domain_event, read_json_member
from eventstore.wix.sdk import metadata_site, type_of

_BODIES: Final = (
    ("createdEvent", "entity"),
    ("updatedEvent", "currentEntity"),
    ("actionEvent", "body"),
    ("deletedEvent", "deletedEntity"),
    ("extendedFieldsUpdatedEvent", ""),
)
"""What carries the body, and under which name in it (or that name followed by `AsJson`)."""
_GENERIC: Final = scalars.field_names(
    "id _id entityFqdn slug entityId eventTime eventType triggeredByAnonymizeRequest originatedFrom",
    "entityEventSequence instanceId identity accountInfo",
    "createdEvent updatedEvent actionEvent deletedEvent extendedFieldsUpdatedEvent",
)
_GENERIC_CONTENT: Final = scalars.field_names("restoreInfo modifiedFields")
_DOMAIN_EVENT: Final = scalars.field_names("entityFqdn slug eventTime entityEventSequence") | {
    name for name, _ in _BODIES
}
"""What only an event in the standard form has. One of another kind that has none of it is of the older, flat form."""
_ENVELOPE: Final = scalars.field_names("eventType instanceId identity accountInfo data payload")
_NONE: Final[dict[str, Any]] = {}


class _Wrapped(NamedTuple):
    """Where an event was found: `envelope` is what stands around it, None if nothing does. The paths are for messages.

    `signed_at` and `received_at` (milliseconds since the epoch) date an event that does not say when it happened.
    """

    source: Source
    site_id: str
    at: str = ""
    envelope: dict[str, Any] | None = None
    envelope_at: str = ""
    signed_at: float | None = None
    received_at: float | None = None


def read_rest(body: dict[str, Any], *, site_id: str, received_at: datetime | None = None) -> Event:
    """The event of a domain event as the webhook carries it, on the site `site_id`.

    The envelope or the JWT payload around it is taken too, as `read_envelope` does. An event of another family is read
    as not recognised, under its `eventType`. Raises UnreadableDelivery.
    """
    if "data" in body and "entityFqdn" not in body:
        return read_envelope(body, site_id=site_id, received_at=received_at)
    return _read_domain_event(body, _Wrapped(Source.REST, site_id, received_at=_millis(received_at)))


def read_processed(body: dict[str, Any], *, site_id: str, received_at: datetime | None = None) -> Event:
    """The event of `{eventType, instanceId, payload, identity, accountInfo}`, which the SDK's `webhooks.process` gives.

    Raises UnreadableDelivery.
    """
    event = _object(body.get("payload"), "payload")
    site = envelope_site(body, "") or site_id
    return _read_domain_event(event, _Wrapped(Source.SDK, site, "payload", body, "", None, _millis(received_at)))


def read_envelope(body: dict[str, Any], *, site_id: str | None = None, received_at: datetime | None = None) -> Event:
    """The event of `{eventType, instanceId, identity, accountInfo, data}`, or of the JWT payload `{data}` around that.

    `data` is JSON text or already an object. The site is the envelope's `instanceId`; `site_id` stands in when it has
    none. An event in the older, flat form is dated by the payload's `iat`, else by `received_at`, and is about its site
    unless it has an id. Raises UnreadableDelivery.
    """
    envelope, at = open_payload(body)
    # Metadata has no place here; but where it names a site, `site_of` says so, and both must agree.
    site = metadata_site(body) or envelope_site(envelope, at) or site_id
    if not site:
        raise UnreadableDelivery(
            "missing; the event does not say of which site it is", where=scalars.path(at, "instanceId")
        )
    wrapped = _Wrapped(Source.REST, site, at, signed_at=_iat(body), received_at=_millis(received_at))
    if "data" not in envelope or "entityFqdn" in envelope:
        return _read_domain_event(envelope, wrapped)
    event_at = scalars.path(at, "data")
    event = _object(envelope["data"], event_at)
    return _read_domain_event(event, wrapped._replace(at=event_at, envelope=envelope, envelope_at=at))


def open_claims(claims: dict[str, Any]) -> dict[str, Any]:
    """The claims of a JWT with the envelope in them opened, if it can be, so that it is decoded once for all who ask."""
    data = claims.get("data")
    if not isinstance(data, str):
        return claims
    try:
        return claims | {"data": decode_text(data, "data")}
    except UnreadableDelivery:
        return claims


def open_payload(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The envelope, out of the JWT payload `{data}` if that is what it stands in, and the path to it."""
    if "data" in body and not body.keys() & {"eventType", "instanceId", "entityFqdn"}:
        return _object(body["data"], "data"), "data"
    return body, ""


def envelope_site(envelope: dict[str, Any], at: str) -> str | None:
    """The site that the envelope at `at` names."""
    return scalars.ident(envelope.get("instanceId"), scalars.path(at, "instanceId"))


def _object(value: Any, at: str) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    return decode_text(value, at) if isinstance(value, str) else scalars.member(value, at) or {}


def _iat(payload: dict[str, Any]) -> float | None:
    """When the JWT payload was signed, in milliseconds."""
    value = payload.get("iat")
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e11:
        return value * 1000.0
    return None


def _millis(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp() * 1000.0


def _read_domain_event(event: dict[str, Any], wrapped: _Wrapped) -> Event:
    at, envelope = wrapped.at, wrapped.envelope
    event_type = type_of(event, at=at, default=envelope and envelope.get("eventType"))
    if event_type not in BY_EVENT_TYPE and _DOMAIN_EVENT.isdisjoint(event):
        return _read_flat_event(event, event_type, wrapped)
    content, content_at, body, body_at = _NONE, "", None, ""
    try:
        for name, body_name in _BODIES:
            if event.get(name) is None:
                continue
            content_at = body_at = name
            content = scalars.member(event[name], "") or _NONE
            if body_name:
                body, found_at = read_json_member(content, body_name)
                body_at = f"{name}.{found_at}"
            break
        if not body and event_type not in BY_EVENT_TYPE:
            # Of an unknown kind we cannot say what matters: all that is not generic is its body.
            rest, named = (event, _GENERIC) if content is _NONE else (content, _GENERIC_CONTENT)
            body = {key: value for key, value in rest.items() if key not in named} or None
    except UnreadableDelivery as error:
        raise scalars.under(scalars.path(at, content_at), error) from None
    return domain_event(
        wrapped.source,
        wrapped.site_id,
        BY_EVENT_TYPE.get(event_type, event_type),
        event,
        body,
        metadata_at=at,
        body_at=scalars.path(at, body_at),
        changed=content.get("modifiedFields"),
        restored=isinstance(content.get("restoreInfo"), dict),
        envelope=envelope,
        envelope_at=wrapped.envelope_at,
    )


def _read_flat_event(event: dict[str, Any], event_type: str, wrapped: _Wrapped) -> Event:
    """An event of the older form (`AppInstalled`, `AppRemoved` and others): its fields and nothing about itself.

    An `id` in it is its entity's. What tells it from others is its type, content and the time that Wix signed it; a
    repetition without that time cannot be told from another such event, so that it is no part of the derived id.
    """
    body = event
    if wrapped.envelope is None:
        body = {key: value for key, value in event.items() if key not in _ENVELOPE}
    entity = next((body[name] for name in ("entityId", "id", "_id") if body.get(name)), wrapped.site_id)
    dated = wrapped.received_at if wrapped.signed_at is None else wrapped.signed_at
    return domain_event(
        wrapped.source,
        wrapped.site_id,
        event_type,
        {"entityId": entity, "eventTime": dated},
        body or None,
        metadata_at=wrapped.at,
        body_at=wrapped.at,
        envelope=event if wrapped.envelope is None else wrapped.envelope,
        envelope_at=wrapped.envelope_at,
        dated=wrapped.signed_at is not None,
    )
