"""What Wix sends, read: bytes or a decoded body in, canonical `Event` out. Pure functions, no I/O (DOMAIN §1–§4)."""

from __future__ import annotations

from eventstore.wix.catalogue import FAMILIES, HANDLERS, OBSERVED, Family, Subject
from eventstore.wix.decode import decode
from eventstore.wix.read import detect_route, read, site_of
from eventstore.wix.rest import open_claims, read_envelope, read_rest
from eventstore.wix.scalars import MAX_DEPTH
from eventstore.wix.sdk import read_sdk
from eventstore.wix.snapshot import read_snapshot
from eventstore.wix.velo import read_velo

__all__ = [
    "FAMILIES",
    "HANDLERS",
    "MAX_DEPTH",
    "OBSERVED",
    "Family",
    "Subject",
    "decode",
    "detect_route",
    "open_claims",
    "read",
    "read_envelope",
    "read_rest",
    "read_sdk",
    "read_snapshot",
    "read_velo",
    "site_of",
]
