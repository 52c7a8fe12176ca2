-- The guards of a partitioned log. Functions that read tables carry a search_path of their own: a session that puts another
-- schema first, or makes a temporary table named events (the temporary schema is searched before all others), must not have
-- them look there.

-- Looked at once a statement, for to look for the last position at each row cost more than the rows themselves. A statement's
-- positions must be contiguous and begin at 1 or right after one that is there; as no position can be there twice and none can
-- go, the positions are 1 … N without a gap after each statement, if they were before it.

CREATE FUNCTION {schema}.eventstore_next_positions() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp AS
$$DECLARE lowest bigint; highest bigint; number bigint;
BEGIN
SELECT min(position), max(position), count(*) INTO lowest, highest, number FROM added;
IF number > 0 AND (number <> highest - lowest + 1
OR (lowest <> 1 AND NOT EXISTS (SELECT FROM {schema}.events WHERE position = lowest - 1))) THEN
RAISE EXCEPTION 'events is append-only: the position must be the next one'; END IF; RETURN NULL; END$$

CREATE FUNCTION {schema}.eventstore_through_the_parent() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'events is append-only: INSERT into its partition % refused', TG_TABLE_NAME
USING HINT = 'insert into events itself'; END$$

CREATE OR REPLACE FUNCTION {schema}.eventstore_head_forward_only() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp AS
$$BEGIN
IF NEW.id <> 1 OR NEW.recorded_at < OLD.recorded_at
OR NOT EXISTS (SELECT FROM {schema}.events WHERE position = NEW.size AND recorded_at = NEW.recorded_at)
OR EXISTS (SELECT FROM {schema}.events WHERE position > NEW.size) THEN
RAISE EXCEPTION 'log_head only moves forward, to the last event'; END IF; RETURN NEW; END$$

CREATE TRIGGER events_next_position AFTER INSERT ON {schema}.events REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION {schema}.eventstore_next_positions()

CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE ON {schema}.events
FOR EACH ROW EXECUTE FUNCTION {schema}.eventstore_refuse()

CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON {schema}.events
FOR EACH STATEMENT EXECUTE FUNCTION {schema}.eventstore_refuse()

ALTER TABLE {schema}.events ENABLE ALWAYS TRIGGER events_next_position, ENABLE ALWAYS TRIGGER events_no_change,
ENABLE ALWAYS TRIGGER events_no_truncate

-- The same guard as before, with its condition in a function: PostgreSQL keeps a function's text as it was written, so that an
-- altered one shows, but a trigger's WHEN only as it understood it.

DROP TRIGGER IF EXISTS wix_app_keys_no_revival ON {schema}.wix_app_keys

CREATE FUNCTION {schema}.eventstore_stays_retired() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS
$$BEGIN
IF OLD.retired_at IS NOT NULL AND (NEW.retired_at IS NULL OR NEW.retired_at > OLD.retired_at) THEN
RAISE EXCEPTION 'wix_app_keys is append-only: a retired key stays retired'; END IF; RETURN NEW; END$$

CREATE TRIGGER wix_app_keys_no_revival BEFORE UPDATE ON {schema}.wix_app_keys
FOR EACH ROW EXECUTE FUNCTION {schema}.eventstore_stays_retired()

ALTER TABLE {schema}.wix_app_keys ENABLE ALWAYS TRIGGER wix_app_keys_no_revival
