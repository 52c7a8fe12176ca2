-- report: uses-out-of-window
-- title: Uses out of window
-- group: checks
-- question: Which orders used a coupon before its start, after its end, while it was switched off, or after its deletion?
-- parameter: site   text       null  Only this site; null: every site.
-- parameter: since  timestamp  null  Only uses at or after this time; null: from the beginning.
-- parameter: until  timestamp  null  Only uses before this time; null: to the end.
-- parameter: limit  count      10000 Only so many, the latest; null: all of them.
-- column: site_id          text     The site (Wix app instance) that the coupon belongs to.
-- column: coupon_id        text     Wix's id of the coupon.
-- column: code             text     The code at the time of use; where the use did not show it, the code now.
-- column: name             text     The coupon's name in the dashboard now.
-- column: order_id         text     The order; for a use reported without one, event: and the event's id.
-- column: app_id           text     The app that the order was made in; null where none was reported.
-- column: used_at          time     When the use was first reported to have happened.
-- column: reasons          text     All that hold of: before start, after expiration, while inactive, after deletion.
-- column: start_time       time     When the coupon was to begin, as known then; null: not told.
-- column: expiration_time  time     When it was to end, as known then; null: no end.
-- column: active           boolean  Whether it was switched on, as known then; null: not told.
-- column: deleted_at       time     The deletion that this use came after; null: it was not deleted then.
-- table: code, name, order_id, used_at, reasons, start_time, expiration_time, deleted_at

-- What the coupon was then is what the use's own event says of it, else the latest that any event said before: by sequence
-- among those that carry one, by time otherwise, then by event id. The history of a coupon (eventstore/projections/history.py)
-- finds the same; a test compares the two.
--
-- A shop that leaves what is used switched off has such uses by the million. So where the list is limited, those that show by
-- themselves that they are out of window are counted by the hour first, and of the rest of the log no more is looked at than from
-- the time on (`since_when`) from which they alone fill the list.
WITH hours AS (
    SELECT min(event_time) AS begins, count(*) AS uses
    FROM facts
    WHERE
        type = 'coupon.applied'
        AND (event_time < start_time OR event_time >= expiration_time OR NOT active)
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
    GROUP BY floor(epoch_us(event_time) / 3600000000)
),
-- Twice as many as are wanted, for some may report a use once more, and count for nothing: if too many do, all are looked at.
perhaps_when AS (
    SELECT max(begins) AS begins
    FROM (SELECT begins, sum(uses) OVER (ORDER BY begins DESC) AS uses FROM hours) AS from_then_on
    WHERE uses / 2 >= $limit
),
first_reports AS (
    SELECT count(*) AS uses
    FROM facts
    WHERE
        type = 'coupon.applied'
        AND (event_time < start_time OR event_time >= expiration_time OR NOT active)
        AND event_time >= (SELECT begins FROM perhaps_when)
        AND event_key IN (SELECT event_key FROM redemptions)
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
),
since_when AS (
    SELECT
        CASE
            WHEN (SELECT uses FROM first_reports) >= $limit THEN (SELECT begins FROM perhaps_when)
            ELSE (SELECT min(event_time) FROM facts)
        END                                             AS begins
),
deletions AS (
    SELECT coupon_key, min(event_time) AS first_at, min(sequence) AS first_sequence
    FROM facts
    WHERE type = 'coupon.deleted'
    GROUP BY coupon_key
),
suspects AS (
    SELECT
        facts.position, facts.coupon_key, facts.event_key, facts.event_id, facts.event_time, facts.sequence,
        facts.has_coupon, facts.start_time, facts.expiration_time, facts.active,
        -- No other use can come after a deletion, be it by time or by sequence.
        coalesce(facts.event_time >= deletions.first_at, false)
        OR coalesce(facts.sequence >= deletions.first_sequence, false)
                                                        AS perhaps_deleted
    FROM facts
    LEFT JOIN deletions ON deletions.coupon_key = facts.coupon_key
    WHERE
        facts.type = 'coupon.applied'
        AND facts.event_time >= (SELECT begins FROM since_when)
        AND (CAST($site AS VARCHAR) IS NULL OR facts.site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR facts.event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR facts.event_time < CAST($until AS TIMESTAMPTZ))
        AND (
            NOT facts.has_coupon
            OR facts.event_time < facts.start_time
            OR facts.event_time >= facts.expiration_time
            OR NOT facts.active
            OR facts.event_time >= deletions.first_at
            OR facts.sequence >= deletions.first_sequence
        )
),
bare AS (
    SELECT DISTINCT coupon_key
    FROM suspects
    WHERE NOT has_coupon
),
lines AS (
    SELECT
        position, coupon_key, sequence, has_coupon, start_time, expiration_time, active,
        row_number() OVER (PARTITION BY coupon_key ORDER BY sequence NULLS FIRST, event_time, event_id)
                                                        AS by_sequence,
        row_number() OVER (PARTITION BY coupon_key ORDER BY event_time, event_id)
                                                        AS by_time
    FROM facts
    WHERE
        (
            type = 'coupon.applied'
            OR has_coupon AND type IN ('coupon.created', 'coupon.updated', 'coupon.deleted', 'coupon.observed')
        )
        AND coupon_key IN (SELECT coupon_key FROM bare)
),
-- The places of the latest snapshot that carries a sequence and of the latest that does not.
before AS (
    SELECT
        *,
        CASE
            WHEN sequence IS NULL THEN
                max(CASE WHEN has_coupon AND sequence IS NOT NULL THEN by_sequence END) OVER (
                    PARTITION BY coupon_key ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                )
            ELSE
                max(CASE WHEN has_coupon AND sequence IS NOT NULL THEN by_sequence END) OVER (
                    PARTITION BY coupon_key
                    ORDER BY by_sequence ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                )
        END                                             AS sequenced,
        max(CASE WHEN has_coupon AND sequence IS NULL THEN by_time END) OVER (
            PARTITION BY coupon_key ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )                                               AS unsequenced
    FROM lines
),
-- For each of these uses the position of the snapshot that was the latest then.
known AS (
    SELECT
        before.position                                 AS position,
        CASE
            WHEN other.by_time IS NULL OR ranked.by_time > other.by_time THEN ranked.position
            ELSE other.position
        END                                             AS told_at
    FROM before
    LEFT JOIN lines AS ranked
        ON ranked.coupon_key = before.coupon_key AND ranked.by_sequence = before.sequenced
    LEFT JOIN lines AS other
        ON other.coupon_key = before.coupon_key AND other.by_time = before.unsequenced
    WHERE NOT before.has_coupon
),
life_lines AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY coupon_key ORDER BY sequence NULLS FIRST, event_time, event_id)
                                                        AS by_sequence,
        row_number() OVER (PARTITION BY coupon_key ORDER BY event_time, event_id)
                                                        AS by_time
    FROM (
        SELECT position, coupon_key, event_id, event_time, sequence, 'other' AS type
        FROM suspects
        WHERE perhaps_deleted
        UNION ALL
        SELECT position, coupon_key, event_id, event_time, sequence, type
        FROM facts
        WHERE
            (type = 'coupon.created' OR type = 'coupon.deleted')
            AND coupon_key IN (SELECT coupon_key FROM suspects WHERE perhaps_deleted)
    ) AS events_of_a_life
),
life_before AS (
    SELECT
        *,
        CASE
            WHEN sequence IS NULL THEN
                max(CASE WHEN type <> 'other' AND sequence IS NOT NULL THEN by_sequence END) OVER (
                    PARTITION BY coupon_key ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                )
            ELSE
                max(CASE WHEN type <> 'other' AND sequence IS NOT NULL THEN by_sequence END) OVER (
                    PARTITION BY coupon_key
                    ORDER BY by_sequence ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                )
        END                                             AS sequenced,
        max(CASE WHEN type <> 'other' AND sequence IS NULL THEN by_time END) OVER (
            PARTITION BY coupon_key ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )                                               AS unsequenced
    FROM life_lines
),
life_known AS (
    SELECT
        life_before.position                            AS position,
        CASE
            WHEN other.by_time IS NULL OR ranked.by_time > other.by_time THEN ranked.position
            ELSE other.position
        END                                             AS told_at
    FROM life_before
    LEFT JOIN life_lines AS ranked
        ON ranked.coupon_key = life_before.coupon_key AND ranked.by_sequence = life_before.sequenced
    LEFT JOIN life_lines AS other
        ON other.coupon_key = life_before.coupon_key AND other.by_time = life_before.unsequenced
    WHERE life_before.type = 'other'
),
after_deletion AS (
    SELECT life_known.position AS position, life_lines.event_time AS deleted_at
    FROM life_known
    JOIN life_lines ON life_lines.position = life_known.told_at
    WHERE life_lines.type = 'coupon.deleted'
),
judged AS (
    SELECT
        suspects.coupon_key, suspects.event_key, suspects.event_time, after_deletion.deleted_at,
        CASE WHEN suspects.has_coupon THEN suspects.start_time ELSE lines.start_time END
                                                        AS start_time,
        CASE WHEN suspects.has_coupon THEN suspects.expiration_time ELSE lines.expiration_time END
                                                        AS expiration_time,
        CASE WHEN suspects.has_coupon THEN suspects.active ELSE lines.active END
                                                        AS active
    FROM suspects
    LEFT JOIN known ON known.position = suspects.position
    LEFT JOIN lines ON lines.position = known.told_at
    LEFT JOIN after_deletion ON after_deletion.position = suspects.position
),
odd AS (
    SELECT *
    FROM judged
    WHERE event_time < start_time OR event_time >= expiration_time OR NOT active OR deleted_at IS NOT NULL
),
listed AS (
    SELECT
        odd.*, coupons.site_id, coupons.coupon_id, coalesce(redemptions.code, coupons.code) AS code, coupons.name,
        redemptions.order_id, redemptions.app_id,
        row_number() OVER (
            ORDER BY odd.event_time DESC, coupons.site_id, coupons.coupon_id, redemptions.order_id
        )                                               AS place
    FROM odd
    -- Only the first report of a use stands there: an order that is reported again is no other use.
    JOIN redemptions ON redemptions.event_key = odd.event_key
    JOIN coupons ON coupons.coupon_key = odd.coupon_key
)
SELECT
    listed.site_id                                      AS site_id,
    listed.coupon_id                                    AS coupon_id,
    listed.code                                         AS code,
    listed.name                                         AS name,
    listed.order_id                                     AS order_id,
    listed.app_id                                       AS app_id,
    listed.event_time                                   AS used_at,
    concat_ws(
        ', ',
        CASE WHEN listed.event_time < listed.start_time THEN 'before start' END,
        CASE WHEN listed.event_time >= listed.expiration_time THEN 'after expiration' END,
        CASE WHEN NOT listed.active THEN 'while inactive' END,
        CASE WHEN listed.deleted_at IS NOT NULL THEN 'after deletion' END
    )                                                   AS reasons,
    listed.start_time                                   AS start_time,
    listed.expiration_time                              AS expiration_time,
    listed.active                                       AS active,
    listed.deleted_at                                   AS deleted_at
FROM listed
WHERE CAST($limit AS BIGINT) IS NULL OR listed.place <= $limit
ORDER BY used_at DESC, listed.site_id, listed.coupon_id, listed.order_id
