"""The REST webhook: the domain event, the envelope around it, and the JWT payload around that (DOMAIN §1)."""

from __future__ import annotations

from typing import Any, Final

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
_NONE: Final[dict[str, Any]] = {}


def read_rest(body: dict[str, Any], *, site_id: str) -> Event:
    """The event of a domain event as the webhook carries it, on the site `site_id`.

    The envelope or the JWT payload around it is taken too, as `read_envelope` does. An event of another family is read
    as not recognised, under its `eventType`. Raises UnreadableDelivery.
    """
    if "data" in body and "entityFqdn" not in body:
        return read_envelope(body, site_id=site_id)
    return _read_domain_event(body, "", site_id, None, "")


def read_envelope(body: dict[str, Any], *, site_id: str | None = None) -> Event:
    """The event of `{eventType, instanceId, identity, accountInfo, data}`, or of the JWT payload `{data}` around that.

    `data` is JSON text or already an object. The site is the envelope's `instanceId`; `site_id` stands in when it has
    none. Raises UnreadableDelivery.
    """
    envelope, at = open_payload(body)
    # Metadata has no place here; but where it names a site, `site_of` says so, and both must agree.
    site = metadata_site(body) or envelope_site(envelope, at) or site_id
    if not site:
        raise UnreadableDelivery(
            "missing; the event does not say of which site it is", where=scalars.path(at, "instanceId")
        )
    if "data" not in envelope or "entityFqdn" in envelope:
        return _read_domain_event(envelope, at, site, None, "")
    event_at = scalars.path(at, "data")
    event = _object(envelope["data"], event_at)
    return _read_domain_event(event, event_at, site, envelope, at)


def open_payload(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The envelope, out of the JWT payload `{data}` if that is what it stands in, and the path to it."""
    if "data" in body and not body.keys() & {"eventType", "instanceId", "entityFqdn"}:
        return _object(body["data"], "data"), "data"
    return body, ""


def envelope_site(envelope: dict[str, Any], at: str) -> str | None:
    """The site that the envelope at `at` names."""
    return scalars.ident(envelope.get("instanceId"), scalars.path(at, "instanceId"))


def _object(value: Any, at: str) -> dict[str, Any]:
    found = decode_text(value, at) if isinstance(value, str) else scalars.member(value, at)
    if found is None:
        raise UnreadableDelivery("missing; the event itself stands here", where=at)
    return found


def _read_domain_event(
    event: dict[str, Any], at: str, site_id: str, envelope: dict[str, Any] | None, envelope_at: str
) -> Event:
    event_type = type_of(event, at=at, default=envelope and envelope.get("eventType"))
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
        Source.REST,
        site_id,
        BY_EVENT_TYPE.get(event_type, event_type),
        event,
        body,
        metadata_at=at,
        body_at=scalars.path(at, body_at),
        changed=content.get("modifiedFields"),
        restored=isinstance(content.get("restoreInfo"), dict),
        envelope=envelope,
        envelope_at=envelope_at,
    )
