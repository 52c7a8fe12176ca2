"""Signed webhooks: from the bytes that Wix posted to log entries, once their signature proves whose they are.

In order: the token is taken apart and its signature checked with the active keys of the registered apps; its times; that the
instance it speaks for is one of that app's; and only then is its content read. What is genuine and cannot be read is kept in
quarantine; what is not genuine raises, and nothing of it is kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

from eventstore import apps, wix
from eventstore.apps import AppInstance, AppKey, WixApp
from eventstore.errors import InputError, NotGenuine, UnknownInstance, UnreadableDelivery
from eventstore.event import Source
from eventstore.ingest import UNKNOWN_SITE
from eventstore.log.records import Prepared, Rejected, now, prepare
from eventstore.wix import jwt
from eventstore.wix.jwt import PublicKey, read_public_key

FRESH_SECONDS = 5.0
"""How old what a server knows of the apps, and of tokens, may be: also how long one that was removed may still work."""
RELOAD_SECONDS = 1.0
"""How old it must be for an unknown key or instance to have it read again, so that forgeries do not keep the database busy."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A token with a good signature: its claims, the app and the key that signed it.

    `instance_id` is the app instance that it speaks for: the site. None if it names none that can be read.
    """

    token: bytes
    claims: dict[str, Any]
    instance_id: str | None
    app: WixApp
    key: AppKey


class Registry:
    """The registered apps at one moment, ready to verify with. `at`: as of then, or as of now and from now on."""

    def __init__(self, found: Iterable[WixApp], *, at: datetime | None = None) -> None:
        self._at = at
        self._keys: list[tuple[PublicKey, AppKey, WixApp]] = []
        self._active: list[tuple[PublicKey, AppKey, WixApp]] = []
        self._active_until: datetime | None = datetime.min.replace(tzinfo=UTC)
        self._owners: dict[str, list[WixApp]] = {}
        """By instance. Now it is one; of a moment in the past it may be one that was leaving and one that had just come."""
        for app in found:
            self._keys += [(read_public_key(each.public_key), each, app) for each in app.keys]
            for each in app.instances:
                if self._speaks(each):
                    self._owners.setdefault(each.instance_id, []).append(app)

    def verify(self, token: bytes) -> Signed:
        """The signed token. Raises UnreadableDelivery (malformed) and NotGenuine."""
        moment = self._at or now()
        active = self._active_at(moment)
        if not active:
            raise NotGenuine("no app is registered: `eventstore app add --name … --key-file …`", "no_app")
        claims, signer = jwt.verify(token, [public for public, _, _ in active])
        if self._at is None:
            # Of one that was taken in long ago the times were looked at then.
            jwt.check_times(claims, moment)
        claims = wix.open_claims(claims)
        key, app = next((key, app) for public, key, app in active if public is signer)
        return Signed(token, claims, wix.site_of(claims), app, key)

    def _active_at(self, moment: datetime) -> list[tuple[PublicKey, AppKey, WixApp]]:
        """The keys that are valid then: the same until the next of them is retired."""
        if self._active_until is not None and moment >= self._active_until:
            self._active = [each for each in self._keys if self._verifies(each[1], moment)]
            self._active_until = min((key.retired_at for _, key, _ in self._active if key.retired_at), default=None)
        return self._active

    def _verifies(self, key: AppKey, moment: datetime) -> bool:
        return key.live(moment) if self._at is None else key.valid_at(self._at)

    def _speaks(self, instance: AppInstance) -> bool:
        return instance.removed_at is None if self._at is None else instance.valid_at(self._at)

    def admits(self, signed: Signed) -> bool:
        """Whether the webhook may speak for its instance; False: the instance is new, and its app accepts new ones.

        Raises UnknownInstance for one of another app, or a new one of an app that does not accept them.
        """
        instance_id = signed.instance_id
        if instance_id is None:
            return True
        owners = self._owners.get(instance_id, [])
        if any(owner.app_id == signed.app.app_id for owner in owners):
            return True
        if not owners and signed.app.accept_new_instances:
            return False
        if not owners:
            raise UnknownInstance(
                f"the app {signed.app.name} is not registered for the instance {instance_id}: "
                f"`eventstore app add --name {signed.app.name} --instance {instance_id}`, or --accept-new-instances"
            )
        raise UnknownInstance(
            f"the instance {instance_id} is of the app {owners[0].name}; the app {signed.app.name} signed for it"
        )


class Webhooks:
    """Reads webhooks against the registered apps, which it keeps in memory. Safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._version: tuple[object, ...] | None = None
        self._registry = Registry(())
        self._loaded = float("-inf")
        self._reading = threading.Lock()

    def needs_refresh(self, *, doubted: bool = False) -> bool:
        """Whether the apps must be read from the database again; `doubted`: because a webhook was refused."""
        return time.monotonic() - self._loaded > (RELOAD_SECONDS if doubted else FRESH_SECONDS)

    def refresh(self) -> None:
        """Read the registered apps, if anything about them has changed."""
        # One at a time: else an older reading could take the place of a newer one, and stay.
        with self._reading:
            loaded = time.monotonic()
            version = apps.version(self._engine)
            if version != self._version:
                self._registry = Registry(apps.list_apps(self._engine))
                self._version = version
            self._loaded = loaded

    def verify(self, token: bytes) -> tuple[Signed, bool]:
        """The signed token, and whether its instance is known. Raises as `Registry.verify` and `Registry.admits` do."""
        registry = self._registry
        signed = registry.verify(token)
        return signed, registry.admits(signed)

    def admit(self, signed: Signed) -> None:
        """Bind the new instance that a webhook speaks for to its app. Raises UnknownInstance if another was faster."""
        assert signed.instance_id is not None
        try:
            apps.admit_instance(self._engine, signed.app.app_id, signed.instance_id)
        except InputError as error:
            raise UnknownInstance(str(error)) from error
        self.refresh()

    def receive(self, token: bytes, *, headers: dict[str, str] | None = None) -> list[Prepared | Rejected]:
        """The log entries of a webhook. Raises UnreadableDelivery (malformed), NotGenuine and UnknownInstance."""
        if self.needs_refresh():
            self.refresh()
        try:
            signed, known = self.verify(token)
        except (NotGenuine, UnknownInstance):
            if not self.needs_refresh(doubted=True):
                raise
            self.refresh()
            signed, known = self.verify(token)
        if not known:
            self.admit(signed)
        return entries(signed, headers=headers)


def entries(
    signed: Signed, *, headers: dict[str, str] | None = None, received_at: datetime | None = None
) -> list[Prepared | Rejected]:
    """The log entry of a verified webhook, its signed bytes kept with it; for quarantine if it cannot be read.

    `received_at` (default: now) dates an event for which neither its body nor its signature tells a time.
    """
    try:
        event = wix.read_envelope(signed.claims, received_at=received_at or now())
    except UnreadableDelivery as error:
        site_id = signed.instance_id or UNKNOWN_SITE
        return [
            Rejected.of(error, site_id=site_id, route=Source.REST, handler=None, body=signed.token, headers=headers)
        ]
    return [prepare(event, signed.token, headers=headers, unfinished=True)]


def reread(engine: Engine, token: bytes, at: datetime) -> list[Prepared | Rejected]:
    """The log entry of a webhook received at `at`, checked with the keys that were valid then, read by today's readers.

    Raises UnreadableDelivery (malformed), NotGenuine and UnknownInstance.
    """
    return entries(check(engine, token, at), received_at=at)


def check(engine: Engine, token: bytes, at: datetime) -> Signed:
    """Check Wix's own signature again, with the keys that were valid at `at`, and whose instance it spoke for.

    Raises UnreadableDelivery (malformed), NotGenuine and UnknownInstance.
    """
    registry = Registry(apps.list_apps(engine, removed=True), at=at)
    signed = registry.verify(token)
    registry.admits(signed)
    return signed
