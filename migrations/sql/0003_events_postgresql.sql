-- events becomes partitioned by ranges of positions. The table that is there becomes the first partition as it stands: no row is
-- copied, though ATTACH reads them all once to see that their positions lie within its bounds.

DROP TRIGGER IF EXISTS events_next_position ON {schema}.events

DROP TRIGGER IF EXISTS events_no_change ON {schema}.events

DROP TRIGGER IF EXISTS events_no_truncate ON {schema}.events

DROP FUNCTION IF EXISTS {schema}.eventstore_next_position()

ALTER TABLE {schema}.events RENAME TO events_from_1

ALTER TABLE {schema}.events_from_1 RENAME CONSTRAINT pk_events TO events_from_1_pkey

ALTER INDEX {schema}.ix_events_site_id_coupon_id_position RENAME TO events_from_1_site_id_coupon_id_position_idx

ALTER INDEX {schema}.ix_events_event_time RENAME TO events_from_1_event_time_idx

CREATE TABLE {schema}.events (
    LIKE {schema}.events_from_1 INCLUDING DEFAULTS INCLUDING STORAGE,
    CONSTRAINT pk_events PRIMARY KEY (position)
) PARTITION BY RANGE (position)

CREATE INDEX ix_events_site_id_coupon_id_position ON {schema}.events (site_id, coupon_id, position)

CREATE INDEX ix_events_event_time ON {schema}.events (event_time)
