-- A partition of events with its guards, which stand before it takes a row. Not CREATE TABLE … PARTITION OF: that would lock
-- events against everyone, ATTACH lets appends go on.

CREATE TABLE {schema}.{partition} (LIKE {schema}.events INCLUDING DEFAULTS INCLUDING STORAGE)

-- A statement's triggers fire for the table that it names: past events, its check of the positions would not be made.

CREATE TRIGGER events_no_direct_insert BEFORE INSERT ON {schema}.{partition}
FOR EACH STATEMENT EXECUTE FUNCTION {schema}.eventstore_through_the_parent()

CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON {schema}.{partition}
FOR EACH STATEMENT EXECUTE FUNCTION {schema}.eventstore_refuse()

ALTER TABLE {schema}.{partition} ENABLE ALWAYS TRIGGER events_no_direct_insert, ENABLE ALWAYS TRIGGER events_no_truncate

ALTER TABLE {schema}.events ATTACH PARTITION {schema}.{partition} FOR VALUES FROM ({start}) TO ({end})

-- ATTACH makes the partition's own copy of each guard of the rows.

ALTER TABLE {schema}.{partition} ENABLE ALWAYS TRIGGER events_no_change
