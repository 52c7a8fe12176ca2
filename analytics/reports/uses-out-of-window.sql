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
        (oddities & 14) <> 0
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
        (oddities & 14) <> 0
        AND event_time >= (SELECT begins FROM perhaps_when)
        AND event_key IN (SELECT event_key FROM redemptions WHERE redeemed_at >= (SELECT begins FROM perhaps_when))
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
),
since_when AS (
    SELECT
        CASE
            WHEN (SELECT uses FROM first_reports) >= $limit THEN (SELECT begins FROM perhaps_when)
            ELSE (SELECT min(first_used_at) FROM coupon_usage)
        END                                             AS begins
),
-- The coupons that can have uses out of window which do not show it by themselves: by their signs they are few.
suspected AS (
    SELECT coupon_key, deleted_first, deleted_sequence, bare_use_first IS NOT NULL AS bare
    FROM coupon_signs
    WHERE
        told_last >= deleted_first
        OR told_sequence >= deleted_sequence
        OR bare_use_first IS NOT NULL
        AND (was_inactive OR bare_use_first < latest_start OR bare_use_last >= earliest_expiration)
),
bare_coupons AS (
    SELECT coupon_key FROM suspected WHERE bare
),
uses AS (
    SELECT
        facts.position, facts.site_id, facts.coupon_id, facts.coupon_key, facts.event_key, facts.event_id,
        facts.event_time, facts.sequence, facts.has_coupon, facts.order_id, facts.app_id, facts.code,
        facts.start_time, facts.expiration_time, facts.active, facts.oddities,
        -- No other use can come after a deletion, be it by time or by sequence.
        coalesce(facts.event_time >= suspected.deleted_first, false)
        OR coalesce(facts.sequence >= suspected.deleted_sequence, false)
                                                        AS perhaps_deleted
    FROM facts
    LEFT JOIN suspected ON suspected.coupon_key = facts.coupon_key
    WHERE
        facts.type = 'coupon.applied'
        AND facts.event_time >= (SELECT begins FROM since_when)
        AND (CAST($site AS VARCHAR) IS NULL OR facts.site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR facts.event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR facts.event_time < CAST($until AS TIMESTAMPTZ))
        AND (
            (facts.oddities & 14) <> 0
            OR suspected.bare AND NOT facts.has_coupon
            OR facts.event_time >= suspected.deleted_first
            OR facts.sequence >= suspected.deleted_sequence
        )
),
perhaps_deleted AS (
    SELECT position, coupon_key, event_id, event_time, sequence
    FROM uses
    WHERE perhaps_deleted
),
-- include: told-before-uses
-- include: after-deletion
judged AS (
    SELECT
        uses.site_id, uses.coupon_id, uses.coupon_key, uses.event_key, uses.code, uses.app_id, uses.event_time,
        coalesce(uses.order_id, concat('event:', uses.event_id))
                                                        AS order_id,
        after_deletion.deleted_at,
        CASE WHEN uses.has_coupon THEN uses.start_time ELSE known.start_time END
                                                        AS start_time,
        CASE WHEN uses.has_coupon THEN uses.expiration_time ELSE known.expiration_time END
                                                        AS expiration_time,
        CASE WHEN uses.has_coupon THEN uses.active ELSE known.active END
                                                        AS active
    FROM uses
    LEFT JOIN known ON known.position = uses.position
    LEFT JOIN after_deletion ON after_deletion.position = uses.position
)
SELECT
    judged.site_id                                      AS site_id,
    judged.coupon_id                                    AS coupon_id,
    coalesce(judged.code, coupons.code)                 AS code,
    coupons.name                                        AS name,
    judged.order_id                                     AS order_id,
    judged.app_id                                       AS app_id,
    judged.event_time                                   AS used_at,
    concat_ws(
        ', ',
        CASE WHEN judged.event_time < judged.start_time THEN 'before start' END,
        CASE WHEN judged.event_time >= judged.expiration_time THEN 'after expiration' END,
        CASE WHEN NOT judged.active THEN 'while inactive' END,
        CASE WHEN judged.deleted_at IS NOT NULL THEN 'after deletion' END
    )                                                   AS reasons,
    judged.start_time                                   AS start_time,
    judged.expiration_time                              AS expiration_time,
    judged.active                                       AS active,
    judged.deleted_at                                   AS deleted_at
FROM judged
JOIN coupons ON coupons.coupon_key = judged.coupon_key
WHERE
    (
        judged.event_time < judged.start_time
        OR judged.event_time >= judged.expiration_time
        OR NOT judged.active
        OR judged.deleted_at IS NOT NULL
    )
    -- Only the first report of a use stands there: an order that is reported again is no other use.
    AND judged.event_key IN (SELECT event_key FROM redemptions WHERE redeemed_at >= (SELECT begins FROM since_when))
ORDER BY used_at DESC, judged.site_id, judged.coupon_id, judged.order_id
-- Without a limit it is more than anyone can read, and the most that every engine takes.
LIMIT CAST(least(CAST($limit AS BIGINT), 2147483647) AS INTEGER)
