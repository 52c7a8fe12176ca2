"""One Delta table of the lake: opened, asked how far it is, committed to once for every position."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from analytics.lake.copies import brought_here
from analytics.lake.damage import LakeUnreadable
from analytics.lake.place import is_remote
from eventstore.errors import StoreUnavailable

ROW_GROUP_ROWS = 122_880
"""Rows of a row group: DuckDB reads one with one thread, and skips it by its statistics."""
UNLIKE = ("event_id", "order_id", "event_key", "_key", "payload")
"""Columns with another value in every row: a dictionary of them is larger than they are, and twice as slow to read."""
NEAR = ("position", "event_time", "redeemed_at")
"""Columns with numbers that are near to the one before: as differences they are read three to five times as fast."""
WRITER = WriterProperties(
    compression="ZSTD",
    compression_level=1,
    max_row_group_size=ROW_GROUP_ROWS,
    column_properties={
        **dict.fromkeys(UNLIKE, ColumnProperties(dictionary_enabled=False)),
        **dict.fromkeys(NEAR, ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED")),
    },
)
"""By ZSTD payloads take a third of what Snappy makes of them, and typed columns are read as fast."""
FILE_BYTES = 256 * 1024 * 1024
"""About the size of a file: some two million events."""
CONFIGURATION = {"delta.checkpointInterval": "10"}
"""Delta sums up its log after so many commits. What was committed since is read whenever a table is opened, 0.2 ms each, and the
sum is made in less."""

_EXISTS = "already exists"
"""How Delta says that a table which was to be made is there."""


class Outrun(Exception):
    """Somebody else has committed what this commit was for."""


@dataclass
class LakeTable:
    """A Delta table at an address, and the name under which it keeps how far it is.

    `application`: the id of Delta's application transactions; it names the layout, so that one of another layout is no longer
    known and is made anew.
    """

    uri: str
    application: str
    options: Mapping[str, str] = field(default_factory=dict)
    delta: DeltaTable | None = None
    _numbers: dict[str, int] = field(default_factory=dict, repr=False)
    """What `number` has found for the version looked at: Delta looks through its whole log for it."""

    def open(self) -> LakeTable:
        """Look at the table's latest version. Raises StoreUnavailable where it cannot be read."""
        self._numbers.clear()
        try:
            self.delta = DeltaTable(self.uri, storage_options=dict(self.options) or None)
        except TableNotFoundError:
            self.delta = None
        except (DeltaError, OSError) as error:
            if is_remote(self.uri):
                raise StoreUnavailable(
                    f"the lake's table {self.uri} cannot be read: {_said(error)}; look at the address, and at what "
                    "the environment says of the object store (its credentials, region and endpoint)"
                ) from error
            location, _, name = self.uri.rpartition("/")
            raise LakeUnreadable(location, error, table=name) from error
        return self

    @property
    def position(self) -> int:
        """The position of the log that the version looked at has taken in; 0: none, or another layout's."""
        return self.number(self.application)

    def number(self, application: str) -> int:
        """What was last committed under an application's id; 0 for nothing."""
        if self.delta is None:
            return 0
        if application not in self._numbers:
            self._numbers[application] = int(self.delta.transaction_version(application) or 0)
        return self._numbers[application]

    def step_back_to(self, position: int) -> bool:
        """Look at the latest version that has taken in just so much; False if there is none among the last few."""
        while self.position > position:
            assert self.delta is not None
            version = self.delta.version()
            if version == 0:
                return False
            self._numbers.clear()
            try:
                self.delta.load_as_version(version - 1)
            except DeltaError:
                return False
        return self.position == position

    def files(self, *, only: Collection[str] | None = None, bring: bool = True, **where: str) -> tuple[str, ...]:
        """The Parquet files of the version looked at, brought to this machine from an object store; without `bring`, where
        they lie.

        `only`: those of these names; `where`: those of the partition with these values, whose folders are named after them.
        Raises StoreUnavailable.
        """
        if self.delta is None:
            return ()
        # As the table's own folder has them, for what stands before is told as a URL has it.
        depth = len(self.delta.metadata().partition_columns) + 1
        inside = ["/".join(uri.split("/")[-depth:]) for uri in self.delta.file_uris()]
        folders = [f"{name}={value}" for name, value in where.items()]
        wanted = sorted(
            file
            for file in inside
            if (only is None or file.rpartition("/")[2] in only) and set(folders) <= set(file.split("/"))
        )
        if bring and is_remote(self.uri):
            return tuple(brought_here(self.uri, wanted, self.options))
        return tuple(f"{self.uri}/{file}" for file in wanted)

    def contents(self, *columns: str) -> list[dict[str, Any]]:
        """Of each file of the version looked at what Delta's log says: `path`, `num_records`, `size_bytes`, `min.COLUMN` …"""
        if self.delta is None:
            return []
        return pa.table(self.delta.get_add_actions(flatten=True)).select(columns).to_pylist()  # type: ignore[no-any-return]

    def append(self, rows: Rows, position: int) -> None:
        """Add rows, and say that everything up to `position` is in. Raises Outrun."""
        self._commit(rows, position, {}, mode="append")

    def replace(
        self,
        rows: Rows,
        position: int,
        *,
        predicate: str | None = None,
        partition_by: str | None = None,
        numbers: Mapping[str, int] | None = None,
        new_schema: bool = False,
    ) -> None:
        """Put rows in the place of those that the predicate names (none: of all), in one commit. Raises Outrun.

        `numbers`: what else is remembered, by application id.
        """
        self._commit(
            rows,
            position,
            numbers or {},
            mode="overwrite",
            predicate=predicate if self.delta is not None else None,
            partition_by=[partition_by] if partition_by else None,
            schema_mode="overwrite" if new_schema and self.delta is not None and predicate is None else None,
        )

    def mark(self, position: int, numbers: Mapping[str, int] | None = None) -> None:
        """Say that everything up to `position` is in, without a change. Raises Outrun."""
        assert self.delta is not None
        with self._committing():
            self.delta.create_write_transaction(
                [],
                mode="append",
                schema=self.delta.schema(),
                partition_by=self.delta.metadata().partition_columns,
                commit_properties=self._properties(position, numbers or {}),
            )
            self.delta.update_incremental()

    def join_files(self, target_bytes: int) -> None:
        """Make files of about that size of those that are smaller. Raises Outrun."""
        assert self.delta is not None
        with self._committing():
            self.delta.optimize.compact(
                target_size=target_bytes,
                writer_properties=WRITER,
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        self.open()

    def delete_unused(self, keep_hours: int) -> int:
        """Delete the files that for so long no version has used, or never: how many. Raises Outrun."""
        assert self.delta is not None
        with self._committing():
            # In full, for else what a killed writer has left behind would stay for ever.
            gone = self.delta.vacuum(
                retention_hours=keep_hours, dry_run=False, enforce_retention_duration=False, full=True
            )
            self.delta.create_checkpoint()
            self.delta.cleanup_metadata()
        return len(gone)

    def _commit(self, rows: Rows, position: int, numbers: Mapping[str, int], **how: Any) -> None:
        if self.delta is None:
            # Not into a table that somebody else has made meanwhile.
            how |= {"mode": "error", "configuration": CONFIGURATION}
        with self._committing():
            try:
                write_deltalake(
                    self.delta if self.delta is not None else self.uri,
                    rows.reader(),
                    storage_options=dict(self.options) or None if self.delta is None else None,
                    writer_properties=WRITER,
                    target_file_size=FILE_BYTES,
                    commit_properties=self._properties(position, numbers),
                    **how,
                )
            except Exception:
                # Delta tells of what failed in making the rows as of an error of its own.
                if rows.failed is not None:
                    raise rows.failed from None
                raise
        if self.delta is None:
            self.open()

    @contextmanager
    def _committing(self) -> Iterator[None]:
        try:
            yield
        except CommitFailedError as error:
            raise Outrun(_said(error)) from error
        except DeltaError as error:
            if self.delta is None and _EXISTS in str(error):
                raise Outrun(_said(error)) from error
            raise StoreUnavailable(f"the lake's table {self.uri} cannot be written: {_said(error)}") from error
        except OSError as error:
            raise StoreUnavailable(f"the lake's table {self.uri} cannot be written: {_said(error)}") from error
        finally:
            self._numbers.clear()

    def _properties(self, position: int, numbers: Mapping[str, int]) -> CommitProperties:
        marks = [Transaction(self.application, position)]
        marks += [Transaction(name, number) for name, number in numbers.items()]
        return CommitProperties(app_transactions=marks, max_commit_retries=0)


def _said(error: BaseException) -> str:
    """The error in one line: the reason often stands in the last of several."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass
class Rows:
    """Rows to write, made as they are asked for. `failed`: what the making of them failed with, if it did."""

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]
    failed: BaseException | None = None

    def reader(self) -> pa.RecordBatchReader:
        """The rows, for one pass."""
        return pa.RecordBatchReader.from_batches(self.schema, self._cast())

    def _cast(self) -> Generator[pa.RecordBatch, None, None]:
        try:
            for batch in self.batches:
                yield batch.cast(self.schema)
        except GeneratorExit:
            raise
        except BaseException as error:
            self.failed = error
            raise


def stream(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Rows:
    """Batches as rows of that schema."""
    return Rows(schema, batches)
