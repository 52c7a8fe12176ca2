"""The log under any sequence of appends, repeats, contradictions, refusals and restarts, checked against the database itself."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventstore.event import Event
from eventstore.log.records import Outcome, OutcomeKind, Prepared, Rejected, prepare
from eventstore.store import EventStore
from tests.histories import contradicted, events, retold
from tests.rows import Stranger
from tests.stores import NewUrl, tried

Key = tuple[str, str]
Record = dict[str, Any]

HOW_IT_WAS_TOLD = {"source", "site_id", "sequence", "restored", "originated_from", "actor", "account", "changed"}


def key(event: Event) -> Key:
    return event.site_id, event.event_id


def same(one: Event, other: Event) -> bool:
    """Whether two tellings under one id tell the same: equal in what happened, and not of two different sequences."""
    if what_happened(one) != what_happened(other):
        return False
    return one.sequence is None or other.sequence is None or one.sequence == other.sequence


def what_happened(event: Event) -> object:
    """All of an event but how it was told, its times to the millisecond: no route tells them finer."""

    def rounded(value: object) -> object:
        if isinstance(value, dict):
            return {name: rounded(each) for name, each in value.items()}
        if isinstance(value, datetime):
            return value.replace(microsecond=value.microsecond // 1000 * 1000)
        return value

    return rounded(event.model_dump(exclude=HOW_IT_WAS_TOLD))


def recomputed_leaf(row: Record) -> bytes:
    """DESIGN §5 once more, from the row alone."""

    def text(value: str | None) -> bytes:
        if value is None:
            return bytes.fromhex("ffff")
        return len(value.encode("utf-8")).to_bytes(2, "big") + value.encode("utf-8")

    def number(value: int) -> bytes:
        return value.to_bytes(8, "big", signed=True)

    leaf = b"\x01"
    for name in ("site_id", "event_id", "type", "source", "entity_id", "coupon_id"):
        leaf += text(row[name])
    leaf += number(row["event_time"]) + number(row["recorded_at"])
    leaf += b"\x00" + number(0) if row["sequence"] is None else b"\x01" + number(row["sequence"])
    leaf += b"\x01" if row["anonymize"] else b"\x00"
    leaf += hashlib.sha256(row["payload"].encode("utf-8")).digest()
    leaf += hashlib.sha256(row["original"] if row["original"] is not None else b"").digest()
    return hashlib.sha256(b"\x00" + leaf).digest()


@st.composite
def tellings(draw: st.DrawFn) -> list[Event]:
    """A few events, some of them told twice or contradicted within the same batch."""
    batch = draw(st.lists(events, min_size=1, max_size=5))
    for event in list(batch):
        again = draw(st.sampled_from(["no", "no", "same", "retold", "contradicted"]))
        if again == "same":
            batch.append(event)
        elif again == "retold":
            batch.append(draw(retold(event)))
        elif again == "contradicted":
            batch.append(draw(contradicted(event)))
    return draw(st.permutations(batch))


class LogMachine(RuleBasedStateMachine):
    """`first` holds, by key, the first telling of each event and the position it was given."""

    new_url: NewUrl

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.first: dict[Key, tuple[int, Event]] = {}
        self.originals: dict[int, bytes] = {}
        self.quarantined: set[int] = set()

    @initialize()
    def open(self) -> None:
        self.url = self.stack.enter_context(self.new_url())
        self.store = EventStore.open(self.url)
        self.stranger = self.stack.enter_context(Stranger(self.url))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        self.stack.close()

    # What may happen

    @rule(event=events, original=st.none() | st.binary(max_size=20))
    def append_one(self, event: Event, original: bytes | None) -> None:
        new = key(event) not in self.first
        self.expect([event], [self.store.append(event, original=original)])
        if new and original is not None:
            self.originals[self.first[key(event)][0]] = original

    @rule(batch=tellings())
    def append_a_batch(self, batch: list[Event]) -> None:
        self.expect(batch, self.store.submit([prepare(event) for event in batch]).result())

    @rule(batch=tellings())
    def append_a_stream(self, batch: list[Event]) -> None:
        self.expect(batch, list(self.store.append_many(batch)))

    @precondition(lambda self: self.first)
    @rule(data=st.data())
    def tell_again(self, data: st.DataObject) -> None:
        position, event = data.draw(st.sampled_from(list(self.first.values())))
        again = data.draw(retold(event))
        outcome = self.store.append(again)
        assert outcome == Outcome(OutcomeKind.DUPLICATE, event.event_id, position)

    @precondition(lambda self: self.first)
    @rule(data=st.data())
    def contradict(self, data: st.DataObject) -> None:
        position, event = data.draw(st.sampled_from(list(self.first.values())))
        outcome = self.store.append(data.draw(contradicted(event)))
        assert (outcome.kind, outcome.position) == (OutcomeKind.CONFLICT, position)
        self.expect_kept(outcome)

    @rule(batch=tellings(), bodies=st.lists(st.binary(max_size=3), min_size=1, max_size=3))
    def append_beside_what_no_reader_took(self, batch: list[Event], bodies: list[bytes]) -> None:
        rejected = [Rejected("site-a", "rest", None, None, "not readable", body) for body in bodies]
        entries: list[Prepared | Rejected] = [*rejected, *(prepare(event) for event in batch)]
        outcomes = self.store.submit(entries).result()
        for outcome in outcomes[: len(rejected)]:
            assert (outcome.kind, outcome.position) == (OutcomeKind.QUARANTINED, None)
            self.expect_kept(outcome)
        ids = [outcome.quarantine_id for outcome in outcomes[: len(rejected)]]
        assert len(set(ids)) == len(set(bodies)), "the same body is kept once"
        self.expect(batch, outcomes[len(rejected) :])

    @rule(batches=st.lists(tellings(), min_size=2, max_size=4))
    def append_at_once_from_many_threads(self, batches: list[list[Event]]) -> None:
        answers: list[list[Outcome]] = [[] for _ in batches]
        barrier = threading.Barrier(len(batches))

        def run(number: int) -> None:
            barrier.wait()
            answers[number] = self.store.submit([prepare(event) for event in batches[number]]).result()

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(batches))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Which thread came first is theirs to say: a batch is written as one piece, so the positions tell.
        order = sorted(range(len(batches)), key=lambda number: self.first_position(answers[number]))
        appended = [number for number in order if self.first_position(answers[number]) < NEVER]
        for number in [*appended, *(number for number in order if number not in appended)]:
            self.expect(batches[number], answers[number])

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = EventStore.open(self.url, create=False)

    # What was told must be true

    def first_position(self, outcomes: Sequence[Outcome]) -> int:
        return min((o.position for o in outcomes if o.kind is OutcomeKind.APPENDED and o.position), default=NEVER)

    def expect(self, batch: Sequence[Event], outcomes: Sequence[Outcome]) -> None:
        assert len(batch) == len(outcomes)
        for event, outcome in zip(batch, outcomes, strict=True):
            assert outcome.event_id == event.event_id
            if key(event) not in self.first:
                assert outcome == Outcome(OutcomeKind.APPENDED, event.event_id, len(self.first) + 1)
                self.first[key(event)] = (len(self.first) + 1, event)
            elif same(self.first[key(event)][1], event):
                assert outcome == Outcome(OutcomeKind.DUPLICATE, event.event_id, self.first[key(event)][0])
            else:
                assert (outcome.kind, outcome.position) == (OutcomeKind.CONFLICT, self.first[key(event)][0])
                self.expect_kept(outcome)

    def expect_kept(self, outcome: Outcome) -> None:
        assert outcome.quarantine_id is not None
        assert outcome.reason
        self.quarantined.add(outcome.quarantine_id)

    # What must always hold in the database

    def rows(self, sql: str) -> list[Record]:
        return self.stranger.records(sql)

    @invariant()
    def positions_count_up_without_a_gap(self) -> None:
        found = [row["position"] for row in self.rows("SELECT position FROM events ORDER BY position")]
        assert found == list(range(1, len(self.first) + 1))

    @invariant()
    def time_of_recording_never_runs_backwards(self) -> None:
        found = [row["recorded_at"] for row in self.rows("SELECT recorded_at FROM events ORDER BY position")]
        assert found == sorted(found)

    @invariant()
    def the_head_says_what_the_log_holds(self) -> None:
        [head] = self.rows("SELECT * FROM log_head")
        last = self.rows("SELECT recorded_at FROM events ORDER BY position DESC LIMIT 1")
        assert head["size"] == len(self.first) == self.store.head()
        assert head["recorded_at"] == (last[0]["recorded_at"] if last else 0)

    @invariant()
    def the_ledger_matches_the_log_one_to_one(self) -> None:
        ledger = [
            tuple(row.values())
            for row in self.rows("SELECT position, site_id, event_id FROM event_keys ORDER BY position")
        ]
        log = [
            tuple(row.values()) for row in self.rows("SELECT position, site_id, event_id FROM events ORDER BY position")
        ]
        assert ledger == log == sorted((position, *found) for found, (position, _) in self.first.items())

    @invariant()
    def every_leaf_can_be_recomputed_from_its_row(self) -> None:
        for row in self.rows("SELECT * FROM events"):
            assert row["leaf_hash"] == recomputed_leaf(row)

    @invariant()
    def every_payload_is_the_event_that_was_first_told(self) -> None:
        rows = {row["position"]: row for row in self.rows("SELECT * FROM events")}
        for position, event in self.first.values():
            row = rows[position]
            assert Event.from_payload(row["payload"]) == event
            assert orjson.loads(row["payload"]).keys() >= {"event_id", "type", "site_id", "source", "event_time"}
            assert (row["type"], row["source"], row["coupon_id"]) == (event.type, event.source.value, event.coupon_id)
            assert (row["sequence"], bool(row["anonymize"])) == (event.sequence, event.anonymize)

    @invariant()
    def the_exact_bytes_of_a_delivery_are_kept(self) -> None:
        kept = {row["position"]: row["original"] for row in self.rows("SELECT position, original FROM events")}
        for position, original in self.originals.items():
            assert zlib.decompress(kept[position]) == original

    @invariant()
    def quarantine_holds_exactly_what_was_told_to_be_there(self) -> None:
        assert {row["id"] for row in self.rows("SELECT id FROM quarantine")} == self.quarantined


NEVER = 2**63


def test_the_log_keeps_its_promises_under_any_sequence_of_operations(new_url: NewUrl, dialect: str) -> None:
    machine: Any = type("LogMachineOfEngine", (LogMachine,), {"new_url": staticmethod(new_url)})
    run_state_machine_as_test(machine, settings=settings(tried(20, dialect), stateful_step_count=10))
