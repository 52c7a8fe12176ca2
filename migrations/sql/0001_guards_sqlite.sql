-- The log can only grow. The third guard on events stands because INSERT OR REPLACE deletes the old row without firing
-- any DELETE trigger: a position that is not the next one is refused before REPLACE can act on it.
-- The guards on INSERT roll the transaction back rather than undo the statement alone: were they able to, SQLite would keep a
-- copy of every page that a long INSERT touches, at a third of its speed.

CREATE TRIGGER events_no_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events is append-only: UPDATE refused'); END

CREATE TRIGGER events_no_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events is append-only: DELETE refused'); END

CREATE TRIGGER events_next_position BEFORE INSERT ON events
WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM events)
BEGIN SELECT RAISE(ROLLBACK, 'events is append-only: the position must be the next one'); END

CREATE TRIGGER event_keys_no_update BEFORE UPDATE ON event_keys
BEGIN SELECT RAISE(ABORT, 'event_keys is append-only: UPDATE refused'); END

CREATE TRIGGER event_keys_no_delete BEFORE DELETE ON event_keys
BEGIN SELECT RAISE(ABORT, 'event_keys is append-only: DELETE refused'); END

CREATE TRIGGER event_keys_no_replace BEFORE INSERT ON event_keys
WHEN EXISTS (SELECT 1 FROM event_keys k WHERE k.site_id = NEW.site_id AND k.event_id = NEW.event_id)
BEGIN SELECT RAISE(ROLLBACK, 'event_keys is append-only: the event is known'); END

-- A head that ran ahead of the log could never be set back, and no event would ever be next again.

CREATE TRIGGER log_head_forward_only BEFORE UPDATE ON log_head
WHEN NEW.id IS NOT 1 OR NEW.recorded_at < OLD.recorded_at
OR (NEW.size, NEW.recorded_at) IS NOT (SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1)
BEGIN SELECT RAISE(ABORT, 'log_head only moves forward, to the last event'); END

CREATE TRIGGER log_head_no_delete BEFORE DELETE ON log_head
BEGIN SELECT RAISE(ABORT, 'log_head is one row: DELETE refused'); END

CREATE TRIGGER log_head_no_replace BEFORE INSERT ON log_head
WHEN EXISTS (SELECT 1 FROM log_head)
BEGIN SELECT RAISE(ABORT, 'log_head is one row: INSERT refused'); END

-- Quarantine keeps its evidence; only the note of how an entry was resolved may be written later. Not UPDATE OF id …, which
-- goes by the name written: SET rowid changes the id too, and UPDATE OR REPLACE … SET rowid would delete another entry.

CREATE TRIGGER quarantine_no_rewrite BEFORE UPDATE ON quarantine
WHEN (NEW.id, NEW.site_id, NEW.kind, NEW.route, NEW.handler, NEW.event_id, NEW.position, NEW.reason, NEW.body, NEW.body_hash,
    NEW.headers, NEW.received_at)
IS NOT (OLD.id, OLD.site_id, OLD.kind, OLD.route, OLD.handler, OLD.event_id, OLD.position, OLD.reason, OLD.body, OLD.body_hash,
    OLD.headers, OLD.received_at)
BEGIN SELECT RAISE(ABORT, 'quarantine keeps its evidence: UPDATE refused'); END

CREATE TRIGGER quarantine_no_delete BEFORE DELETE ON quarantine
BEGIN SELECT RAISE(ABORT, 'quarantine keeps its evidence: DELETE refused'); END

CREATE TRIGGER quarantine_no_replace BEFORE INSERT ON quarantine
WHEN EXISTS (
    SELECT 1 FROM quarantine q
    WHERE q.id = NEW.id OR (q.site_id = NEW.site_id AND q.body_hash = NEW.body_hash AND q.kind = NEW.kind)
)
BEGIN SELECT RAISE(ABORT, 'quarantine keeps its evidence: the entry is known'); END
