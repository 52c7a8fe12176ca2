-- The log can only grow. The third guard on events stands because INSERT OR REPLACE deletes the old row without firing
-- any DELETE trigger: a position that is not the next one is refused before REPLACE can act on it.

CREATE TRIGGER events_no_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events is append-only: UPDATE refused'); END

CREATE TRIGGER events_no_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events is append-only: DELETE refused'); END

CREATE TRIGGER events_next_position BEFORE INSERT ON events
WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM events)
BEGIN SELECT RAISE(ABORT, 'events is append-only: the position must be the next one'); END

CREATE TRIGGER event_keys_no_update BEFORE UPDATE ON event_keys
BEGIN SELECT RAISE(ABORT, 'event_keys is append-only: UPDATE refused'); END

CREATE TRIGGER event_keys_no_delete BEFORE DELETE ON event_keys
BEGIN SELECT RAISE(ABORT, 'event_keys is append-only: DELETE refused'); END

CREATE TRIGGER event_keys_no_replace BEFORE INSERT ON event_keys
WHEN EXISTS (SELECT 1 FROM event_keys k WHERE k.site_id = NEW.site_id AND k.event_id = NEW.event_id)
BEGIN SELECT RAISE(ABORT, 'event_keys is append-only: the event is known'); END

CREATE TRIGGER log_head_forward_only BEFORE UPDATE ON log_head
WHEN NEW.id IS NOT 1 OR NEW.size < OLD.size OR NEW.recorded_at < OLD.recorded_at
BEGIN SELECT RAISE(ABORT, 'log_head only moves forward'); END

CREATE TRIGGER log_head_no_delete BEFORE DELETE ON log_head
BEGIN SELECT RAISE(ABORT, 'log_head is one row: DELETE refused'); END

CREATE TRIGGER log_head_no_replace BEFORE INSERT ON log_head
WHEN EXISTS (SELECT 1 FROM log_head)
BEGIN SELECT RAISE(ABORT, 'log_head is one row: INSERT refused'); END

-- Quarantine keeps its evidence; only the note of how an entry was resolved may be written later.

CREATE TRIGGER quarantine_no_rewrite
BEFORE UPDATE OF id, site_id, kind, route, handler, event_id, position, reason, body, body_hash, headers, received_at ON quarantine
BEGIN SELECT RAISE(ABORT, 'quarantine keeps its evidence: UPDATE refused'); END

CREATE TRIGGER quarantine_no_delete BEFORE DELETE ON quarantine
BEGIN SELECT RAISE(ABORT, 'quarantine keeps its evidence: DELETE refused'); END

CREATE TRIGGER quarantine_no_replace BEFORE INSERT ON quarantine
WHEN EXISTS (
    SELECT 1 FROM quarantine q
    WHERE q.id = NEW.id OR (q.site_id = NEW.site_id AND q.body_hash = NEW.body_hash AND q.kind = NEW.kind)
)
BEGIN SELECT RAISE(ABORT, 'quarantine keeps its evidence: the entry is known'); END
