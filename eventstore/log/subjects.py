"""What an event is about: its coupon, or its entity where it names no coupon."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, func, or_

from eventstore.log.tables import events

SUBJECT = func.coalesce(events.c.coupon_id, events.c.entity_id)
"""SQL for the subject of an event. To find a subject's events use `is_about`, which the indexes serve."""


def is_about(site_id: str, subject_id: str) -> ColumnElement[bool]:
    """The events of one subject."""
    row = events.c
    of_subject = or_(row.coupon_id == subject_id, and_(row.coupon_id.is_(None), row.entity_id == subject_id))
    return and_(row.site_id == site_id, of_subject)
