-- projection: coupon_signs
-- version: 1
-- from: facts
-- key: site_id, coupon_id
-- about: Of every coupon what tells whether its events have to be looked at for something odd: most have not.
-- column: site_id             text       the site (Wix app instance) that the coupon belongs to
-- column: coupon_id           text       Wix's id of the coupon
-- column: least_code          text       of the codes that events showed it with the least, as texts are ordered
-- column: greatest_code       text       the greatest; the same where it was never changed
-- column: coded_first         timestamp  the earliest event that showed a code of it
-- column: coded_last          timestamp  the latest
-- column: least_limit         bigint     the least usage limit that it ever had
-- column: latest_start        timestamp  the latest start that it ever had
-- column: earliest_expiration timestamp  the earliest end that it ever had
-- column: was_inactive        boolean    whether some event showed it switched off
-- column: bare_use_first      timestamp  the earliest use whose event does not show the coupon
-- column: bare_use_last       timestamp  the latest
-- column: deleted_first       timestamp  its earliest deletion
-- column: deleted_sequence    bigint     the least sequence of its deletions
-- column: told_last           timestamp  the latest event that neither made nor deleted it
-- column: told_sequence       bigint     the greatest sequence of such events
-- column: in_order            boolean    whether its events with a sequence arrived in the order of that and of their time
-- column: _position_from      bigint     memory of the merge: the first position of an event with a sequence
-- column: _position_until     bigint     memory of the merge: the last
-- column: _sequence_from      bigint     memory of the merge: their least sequence
-- column: _sequence_until     bigint     memory of the merge: their greatest
-- column: _time_from          timestamp  memory of the merge: their earliest time
-- column: _time_until         timestamp  memory of the merge: their latest

-- The lake alone keeps it, of all its events: none is left out. A sign may be there without anything odd, never the reverse.

-- [lift]
WITH arrived AS (
    SELECT
        *,
        type IN ('coupon.created', 'coupon.updated', 'coupon.deleted', 'coupon.applied', 'coupon.observed') AS tells,
        lag(sequence) OVER arrival      AS sequence_before,
        lag(event_time) OVER arrival    AS time_before
    FROM lake_events
    WHERE coupon_key IS NOT NULL
    WINDOW arrival AS (PARTITION BY coupon_key, sequence IS NULL ORDER BY position)
)
SELECT
    any_value(site_id)                                                                  AS site_id,
    any_value(coupon_id)                                                                AS coupon_id,
    min(code) FILTER (tells)                                                            AS least_code,
    max(code) FILTER (tells)                                                            AS greatest_code,
    min(event_time) FILTER (tells AND code IS NOT NULL)                                 AS coded_first,
    max(event_time) FILTER (tells AND code IS NOT NULL)                                 AS coded_last,
    min(usage_limit) FILTER (tells)                                                     AS least_limit,
    max(start_time) FILTER (tells)                                                      AS latest_start,
    min(expiration_time) FILTER (tells)                                                 AS earliest_expiration,
    coalesce(bool_or(NOT active) FILTER (tells), false)                                 AS was_inactive,
    min(event_time) FILTER (type = 'coupon.applied' AND NOT has_coupon)                 AS bare_use_first,
    max(event_time) FILTER (type = 'coupon.applied' AND NOT has_coupon)                 AS bare_use_last,
    min(event_time) FILTER (type = 'coupon.deleted')                                    AS deleted_first,
    min(sequence) FILTER (type = 'coupon.deleted')                                      AS deleted_sequence,
    max(event_time) FILTER (type IN ('coupon.updated', 'coupon.applied', 'coupon.observed')) AS told_last,
    max(sequence) FILTER (type IN ('coupon.updated', 'coupon.applied', 'coupon.observed'))   AS told_sequence,
    bool_and(
        sequence IS NULL OR sequence_before IS NULL OR (sequence_before <= sequence AND time_before <= event_time)
    )                                                                                   AS in_order,
    min(position) FILTER (sequence IS NOT NULL)                                         AS _position_from,
    max(position) FILTER (sequence IS NOT NULL)                                         AS _position_until,
    min(sequence)                                                                       AS _sequence_from,
    max(sequence)                                                                       AS _sequence_until,
    min(event_time) FILTER (sequence IS NOT NULL)                                       AS _time_from,
    max(event_time) FILTER (sequence IS NOT NULL)                                       AS _time_until
FROM arrived
GROUP BY coupon_key

-- [merge]
-- Each partial row is of events that stand together in the log; should one be merged twice, the sign is there for nothing.
WITH beside AS (
    SELECT
        *,
        lag(_position_until) OVER arrival   AS position_before,
        lag(_sequence_until) OVER arrival   AS sequence_before,
        lag(_time_until) OVER arrival       AS time_before
    FROM partial
    WINDOW arrival AS (PARTITION BY site_id, coupon_id ORDER BY _position_from NULLS LAST, _position_until)
)
SELECT
    site_id,
    coupon_id,
    min(least_code)                         AS least_code,
    max(greatest_code)                      AS greatest_code,
    min(coded_first)                        AS coded_first,
    max(coded_last)                         AS coded_last,
    min(least_limit)                        AS least_limit,
    max(latest_start)                       AS latest_start,
    min(earliest_expiration)                AS earliest_expiration,
    bool_or(was_inactive)                   AS was_inactive,
    min(bare_use_first)                     AS bare_use_first,
    max(bare_use_last)                      AS bare_use_last,
    min(deleted_first)                      AS deleted_first,
    min(deleted_sequence)                   AS deleted_sequence,
    max(told_last)                          AS told_last,
    max(told_sequence)                      AS told_sequence,
    bool_and(
        in_order
        AND (
            _position_from IS NULL OR position_before IS NULL
            OR (position_before < _position_from AND sequence_before <= _sequence_from AND time_before <= _time_from)
        )
    )                                       AS in_order,
    min(_position_from)                     AS _position_from,
    max(_position_until)                    AS _position_until,
    min(_sequence_from)                     AS _sequence_from,
    max(_sequence_until)                    AS _sequence_until,
    min(_time_from)                         AS _time_from,
    max(_time_until)                        AS _time_until
FROM beside
GROUP BY site_id, coupon_id
