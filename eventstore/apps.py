"""The Wix apps whose signed webhooks the store accepts: their keys, and the instances (sites) that each may speak for.

Nothing here is ever deleted: an app or instance is removed and a key retired by a date, so that a signature taken in years
ago can still be checked with the key that was valid then. Removing takes effect in running servers within seconds.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, func, insert, select, text, update

from eventstore.config import AppSettings
from eventstore.errors import InputError, NotFound
from eventstore.log.engine import write_transaction
from eventstore.log.records import now
from eventstore.log.tables import wix_app_instances, wix_app_keys, wix_apps
from eventstore.wix.jwt import PublicKey, read_public_key

GRACE = timedelta(hours=48)
"""How long a key that was rotated out is still accepted: Wix repeats a delivery for 47 hours and 11 minutes."""
SLACK = timedelta(minutes=1)
"""What the clocks of two machines may differ by, with the time from a webhook's arrival to its commit, when it is asked later
which key was valid then."""


@dataclass(frozen=True, slots=True)
class AppKey:
    """A key and the time that it is, or was, valid for. `retired_at` may lie ahead."""

    key_id: str
    public_key: str
    added_at: datetime
    retired_at: datetime | None = None

    def live(self, moment: datetime) -> bool:
        """Whether it is in use, now that it is this moment. When it was added is no matter: clocks of machines differ."""
        return self.retired_at is None or moment < self.retired_at

    def valid_at(self, moment: datetime) -> bool:
        """Whether webhooks that were received about this moment were verified with it."""
        return self.added_at <= moment + SLACK and (self.retired_at is None or moment < self.retired_at + SLACK)


@dataclass(frozen=True, slots=True)
class AppInstance:
    """An app instance: the app on one site. `test`: made by the dashboard's Test button."""

    instance_id: str
    test: bool
    added_at: datetime
    removed_at: datetime | None = None

    def valid_at(self, moment: datetime) -> bool:
        """Whether webhooks that were received about this moment could speak for it."""
        return self.added_at <= moment + SLACK and (self.removed_at is None or moment < self.removed_at + SLACK)


@dataclass(frozen=True, slots=True)
class WixApp:
    """A registered app. Its keys authenticate the webhooks of its own instances alone."""

    app_id: str
    name: str
    accept_new_instances: bool
    added_at: datetime
    removed_at: datetime | None
    keys: tuple[AppKey, ...]
    instances: tuple[AppInstance, ...]


def list_apps(engine: Engine, *, removed: bool = False) -> list[WixApp]:
    """The registered apps by name, each with every key and instance that it ever had; `removed`: former ones too."""
    with engine.connect() as connection:
        return _apps(connection, removed=removed)


def add_app(
    engine: Engine,
    *,
    name: str,
    key: str | None = None,
    instances: Iterable[str] = (),
    test_instances: Iterable[str] = (),
    accept_new_instances: bool | None = None,
) -> WixApp:
    """Register an app with its public key, or add instances to one that is there.

    `key` is the text of the public key; it may be left out for an app that is there, and must not be another than its own
    (`rotate_key` changes it). Raises InputError, naming what is wrong.
    """
    _require_name(name)
    public = None if key is None else read_public_key(key)
    given = {_instance(each): False for each in instances} | {_instance(each): True for each in test_instances}
    with write_transaction(engine) as connection:
        _take_turn(connection)
        moment = now()
        apps = _apps(connection)
        app = next((each for each in apps if each.name == name), None)
        if app is None:
            if public is None:
                raise InputError(f"there is no app {name!r} yet: give its public key (--key-file)")
            app_id = _insert_app(connection, name, moment)
            _insert_key(connection, apps, app_id, public, moment)
        else:
            app_id = app.app_id
            if public is not None and all(public.key_id != each.key_id for each in app.keys if each.live(moment)):
                raise InputError(f"the app {name} has another key: `eventstore app rotate --name {name}` changes it")
        if accept_new_instances is not None:
            connection.execute(
                update(wix_apps).where(wix_apps.c.app_id == app_id).values(accept_new_instances=accept_new_instances)
            )
        for instance_id, test in given.items():
            _insert_instance(connection, app_id, instance_id, test, moment)
        return _one(_apps(connection), name)


def rotate_key(engine: Engine, *, name: str, key: str, grace: timedelta = GRACE) -> WixApp:
    """Give an app a new key. The keys before it stay valid for `grace` and are kept for ever. Raises InputError, NotFound."""
    public = read_public_key(key)
    with write_transaction(engine) as connection:
        _take_turn(connection)
        moment = now()
        apps = _apps(connection)
        app = _one(apps, name)
        if any(each.key_id == public.key_id and each.retired_at is None for each in app.keys):
            raise InputError(f"this is the key that the app {name} has already")
        _insert_key(connection, apps, app.app_id, public, moment)
        _retire(connection, app, moment + grace)
        return _one(_apps(connection), name)


def remove_app(engine: Engine, *, name: str) -> WixApp:
    """Accept nothing more of an app, from now on. Its keys are kept. Raises NotFound."""
    with write_transaction(engine) as connection:
        _take_turn(connection)
        moment = now()
        app = _one(_apps(connection), name)
        _retire(connection, app, moment)
        connection.execute(
            update(wix_app_instances)
            .where(wix_app_instances.c.app_id == app.app_id, wix_app_instances.c.removed_at.is_(None))
            .values(removed_at=moment)
        )
        connection.execute(update(wix_apps).where(wix_apps.c.app_id == app.app_id).values(removed_at=moment))
        return next(each for each in _apps(connection, removed=True) if each.app_id == app.app_id)


def admit_instance(engine: Engine, app_id: str, instance_id: str) -> None:
    """Bind a new instance to an app that accepts new ones; nothing if it is bound already. Raises InputError if to another."""
    with write_transaction(engine) as connection:
        _take_turn(connection)
        accepting = select(wix_apps.c.name).where(
            wix_apps.c.app_id == app_id, wix_apps.c.removed_at.is_(None), wix_apps.c.accept_new_instances
        )
        if connection.execute(accepting).scalar() is None:
            raise InputError("the app accepts no new instances any more")
        _insert_instance(connection, app_id, instance_id, False, now())


def _take_turn(connection: Connection) -> None:
    """One change at a time: two replicas that start together must not both register an app. SQLite has locked at BEGIN."""
    if connection.dialect.name != "sqlite":
        connection.execute(text("LOCK TABLE wix_apps IN SHARE ROW EXCLUSIVE MODE"))


def sync_apps(engine: Engine, configured: Iterable[AppSettings]) -> None:
    """Register the apps that the configuration names, rotating to its key where an app has another. Raises InputError.

    What is registered and not configured stays as it is.
    """
    for each in configured:
        try:
            _sync(engine, each)
        except InputError as error:
            raise InputError(f"the app {each.name} in the configuration: {error}") from error


def _sync(engine: Engine, each: AppSettings) -> None:
    key = each.public_key()
    public = read_public_key(key)
    known = next((app for app in list_apps(engine) if app.name == each.name), None)
    if known is not None and all(found.key_id != public.key_id or found.retired_at for found in known.keys):
        if any(found.key_id == public.key_id for found in known.keys):
            raise InputError(
                "its key was retired; configure the app's present one, or `eventstore app rotate` back to this one"
            )
        try:
            rotate_key(engine, name=each.name, key=key)
        except InputError:  # unless another replica was faster
            if all(found.key_id != public.key_id for found in _one(list_apps(engine), each.name).keys):
                raise
    add_app(
        engine,
        name=each.name,
        key=key,
        instances=each.instances,
        test_instances=each.test_instances,
        accept_new_instances=each.accept_new_instances,
    )


def version(engine: Engine) -> tuple[object, ...]:
    """A value that changes whenever anything about an app does: cheaper to ask for than to read them all again."""
    apps, keys, instances = wix_apps.c, wix_app_keys.c, wix_app_instances.c
    with engine.connect() as connection:
        found = (
            connection.execute(statement).one()
            for statement in (
                select(func.count(), func.count(apps.removed_at)),
                select(func.count(keys.id), func.count(keys.retired_at), func.max(keys.retired_at)),
                select(func.max(instances.id), func.count(instances.removed_at)),
            )
        )
        accepting = connection.execute(select(apps.app_id).where(apps.accept_new_instances).order_by(apps.app_id))
        return (*(value for row in found for value in row), *accepting.scalars())


def _insert_app(connection: Connection, name: str, moment: datetime) -> str:
    app_id = "app_" + secrets.token_hex(6)
    connection.execute(insert(wix_apps).values(app_id=app_id, name=name, accept_new_instances=False, added_at=moment))
    return app_id


def _insert_key(
    connection: Connection, apps: Sequence[WixApp], app_id: str, public: PublicKey, moment: datetime
) -> None:
    for app in apps:
        if app.app_id != app_id and any(each.key_id == public.key_id and each.live(moment) for each in app.keys):
            raise InputError(f"this key belongs to the app {app.name}; each app has a key of its own")
    connection.execute(
        insert(wix_app_keys).values(
            app_id=app_id, key_id=public.key_id, public_key=public.pem, added_at=moment, retired_at=None
        )
    )


def _insert_instance(connection: Connection, app_id: str, instance_id: str, test: bool, moment: datetime) -> None:
    owners = connection.execute(
        select(wix_apps.c.app_id, wix_apps.c.name)
        .join(wix_app_instances, wix_app_instances.c.app_id == wix_apps.c.app_id)
        .where(
            wix_app_instances.c.instance_id == instance_id,
            wix_app_instances.c.removed_at.is_(None),
            wix_apps.c.removed_at.is_(None),
        )
    )
    for owner, name in owners:
        if owner == app_id:
            return
        raise InputError(f"the instance {instance_id} belongs to the app {name}")
    connection.execute(
        insert(wix_app_instances).values(app_id=app_id, instance_id=instance_id, test=test, added_at=moment)
    )


def _retire(connection: Connection, app: WixApp, moment: datetime) -> None:
    """Retire the keys that the app was read with at the moment, but for those that end before."""
    for each in app.keys:
        if each.retired_at is None or each.retired_at > moment:
            connection.execute(
                update(wix_app_keys)
                .where(
                    wix_app_keys.c.app_id == app.app_id,
                    wix_app_keys.c.key_id == each.key_id,
                    wix_app_keys.c.added_at == each.added_at,
                )
                .values(retired_at=moment)
            )


def _apps(connection: Connection, *, removed: bool = False) -> list[WixApp]:
    keys: dict[str, list[AppKey]] = {}
    for row in connection.execute(select(wix_app_keys).order_by(wix_app_keys.c.id)):
        keys.setdefault(row.app_id, []).append(AppKey(row.key_id, row.public_key, row.added_at, row.retired_at))
    instances: dict[str, list[AppInstance]] = {}
    for row in connection.execute(select(wix_app_instances).order_by(wix_app_instances.c.id)):
        found = AppInstance(row.instance_id, row.test, row.added_at, row.removed_at)
        instances.setdefault(row.app_id, []).append(found)
    statement = select(wix_apps).order_by(wix_apps.c.name, wix_apps.c.added_at)
    if not removed:
        statement = statement.where(wix_apps.c.removed_at.is_(None))
    return [
        WixApp(
            row.app_id,
            row.name,
            row.accept_new_instances,
            row.added_at,
            row.removed_at,
            tuple(keys.get(row.app_id, ())),
            tuple(instances.get(row.app_id, ())),
        )
        for row in connection.execute(statement)
    ]


def _one(apps: Iterable[WixApp], name: str) -> WixApp:
    for app in apps:
        if app.name == name:
            return app
    raise NotFound(f"there is no app {name!r}; `eventstore app list` shows them")


def _require_name(name: str) -> None:
    _require(name, "an app's name", 80)


def _instance(text: str) -> str:
    return _require(text.strip(), "an instance id", 200)


def _require(text: str, what: str, most: int) -> str:
    if not 1 <= len(text) <= most or not text.isprintable():
        raise InputError(f"{what} has 1 to {most} printable characters")
    return text
