-- The log can only grow. ENABLE ALWAYS: the guards hold in replication sessions too.

CREATE FUNCTION eventstore_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP; END$$

-- A head that ran ahead of the log could never be set back, and no event would ever be next again.

CREATE FUNCTION eventstore_head_forward_only() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN
IF NEW.id <> 1 OR NEW.recorded_at < OLD.recorded_at
OR NOT EXISTS (SELECT FROM events WHERE position = NEW.size AND recorded_at = NEW.recorded_at)
OR EXISTS (SELECT FROM events WHERE position > NEW.size) THEN
RAISE EXCEPTION 'log_head only moves forward, to the last event'; END IF; RETURN NEW; END$$

CREATE FUNCTION eventstore_next_position() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN
IF NEW.position IS DISTINCT FROM (SELECT coalesce(max(position), 0) + 1 FROM events) THEN
RAISE EXCEPTION 'events is append-only: the position must be the next one'; END IF; RETURN NEW; END$$

CREATE TRIGGER events_next_position BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION eventstore_next_position()

CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION eventstore_refuse()

CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()

CREATE TRIGGER event_keys_no_change BEFORE UPDATE OR DELETE ON event_keys
FOR EACH ROW EXECUTE FUNCTION eventstore_refuse()

CREATE TRIGGER event_keys_no_truncate BEFORE TRUNCATE ON event_keys
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()

CREATE TRIGGER log_head_forward_only BEFORE UPDATE ON log_head
FOR EACH ROW EXECUTE FUNCTION eventstore_head_forward_only()

CREATE TRIGGER log_head_no_delete BEFORE DELETE ON log_head FOR EACH ROW EXECUTE FUNCTION eventstore_refuse()

CREATE TRIGGER log_head_no_truncate BEFORE TRUNCATE ON log_head FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()

CREATE TRIGGER quarantine_no_rewrite
BEFORE UPDATE OF id, site_id, kind, route, handler, event_id, position, reason, body, body_hash, headers, received_at ON quarantine
FOR EACH ROW EXECUTE FUNCTION eventstore_refuse()

CREATE TRIGGER quarantine_no_delete BEFORE DELETE ON quarantine FOR EACH ROW EXECUTE FUNCTION eventstore_refuse()

CREATE TRIGGER quarantine_no_truncate BEFORE TRUNCATE ON quarantine FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()

ALTER TABLE events ENABLE ALWAYS TRIGGER events_no_change, ENABLE ALWAYS TRIGGER events_no_truncate,
ENABLE ALWAYS TRIGGER events_next_position

ALTER TABLE event_keys ENABLE ALWAYS TRIGGER event_keys_no_change, ENABLE ALWAYS TRIGGER event_keys_no_truncate

ALTER TABLE log_head ENABLE ALWAYS TRIGGER log_head_forward_only, ENABLE ALWAYS TRIGGER log_head_no_delete,
ENABLE ALWAYS TRIGGER log_head_no_truncate

ALTER TABLE quarantine ENABLE ALWAYS TRIGGER quarantine_no_rewrite, ENABLE ALWAYS TRIGGER quarantine_no_delete,
ENABLE ALWAYS TRIGGER quarantine_no_truncate
