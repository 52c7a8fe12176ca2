-- report: delivery-log
-- title: Delivery log
-- group: log
-- question: What arrived each day by each route, what became of it, and how late was it?
-- parameter: site   text       null  Only this site; null: every site, and what was refused without a proof of its site.
-- parameter: since  timestamp  null  Only UTC days that begin at or after this time; null: from the beginning.
-- parameter: until  timestamp  null  Only UTC days that begin before this time; null: to the end.
-- column: day           date        The UTC day of receipt.
-- column: route         text        velo, rest, sdk or snapshot; unknown: neither its door nor its shape told.
-- column: received      deliveries  All that arrived, the sum of the next five; a delivery of several events counts for each.
-- column: appended      deliveries  New in the log.
-- column: duplicates    deliveries  Told before: by a resend or by another route.
-- column: conflicts     deliveries  An event's id used for another event; kept in quarantine.
-- column: quarantined   deliveries  Genuine, but no event could be made of it; kept in quarantine.
-- column: refused       deliveries  Turned away, and nothing kept; its site is not proved, so 0 when a site is given.
-- column: lateness_p50  seconds     From event to record: half of those appended were no later. Negative: dated ahead of us.
-- column: lateness_p90  seconds     Nine in ten were no later.
-- column: lateness_p99  seconds     Ninety-nine in a hundred were no later.
-- column: lateness_max  seconds     The latest of all; null, as the three before, for snapshots and where none was appended.
-- table: day, route, received, appended, duplicates, conflicts, quarantined, refused, lateness_p50, lateness_p99

-- A refused delivery whose site is not proved has the empty site_id: it belongs to no site, and a site given leaves it out.
WITH recorded AS (
    SELECT
        source                                          AS route,
        recorded_at,
        -- A snapshot is of the moment that it was taken at: how long ago that was says nothing of a delivery.
        CASE WHEN source <> 'snapshot' THEN epoch_us(recorded_at) - epoch_us(event_time) END
                                                        AS late
    FROM facts
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR recorded_at >= CAST($since AS TIMESTAMPTZ))
),
appended AS (
    -- The log is the count of what was appended. Its days are told apart by number: to make dates of all times takes as long as
    -- all the rest.
    SELECT
        CAST(min(recorded_at) AS DATE)                  AS day,
        route,
        count(*)                                        AS count,
        -- Latenesses that occurred, none between two: the least that so many did not exceed.
        quantile_disc(late, 0.50)                       AS late_p50,
        quantile_disc(late, 0.90)                       AS late_p90,
        quantile_disc(late, 0.99)                       AS late_p99,
        max(late)                                       AS late_max
    FROM recorded
    GROUP BY epoch_us(recorded_at) // 86400000000, route
),
received AS (
    SELECT day, route, 'appended' AS outcome, count, late_p50, late_p90, late_p99, late_max
    FROM appended
    UNION ALL
    SELECT day, route, outcome, count, NULL, NULL, NULL, NULL
    FROM deliveries
    WHERE CAST($site AS VARCHAR) IS NULL OR site_id = $site
)
SELECT
    day,
    route,
    CAST(sum(count) AS BIGINT)                          AS received,
    CAST(coalesce(sum(count) FILTER (outcome = 'appended'), 0) AS BIGINT)
                                                        AS appended,
    CAST(coalesce(sum(count) FILTER (outcome = 'duplicate'), 0) AS BIGINT)
                                                        AS duplicates,
    CAST(coalesce(sum(count) FILTER (outcome = 'conflict'), 0) AS BIGINT)
                                                        AS conflicts,
    CAST(coalesce(sum(count) FILTER (outcome = 'quarantined'), 0) AS BIGINT)
                                                        AS quarantined,
    CAST(coalesce(sum(count) FILTER (outcome = 'refused'), 0) AS BIGINT)
                                                        AS refused,
    -- Each day and route has one. Multiplied, for a division is a float.
    CAST(max(late_p50) * 0.000001 AS DECIMAL(18, 6))    AS lateness_p50,
    CAST(max(late_p90) * 0.000001 AS DECIMAL(18, 6))    AS lateness_p90,
    CAST(max(late_p99) * 0.000001 AS DECIMAL(18, 6))    AS lateness_p99,
    CAST(max(late_max) * 0.000001 AS DECIMAL(18, 6))    AS lateness_max
FROM received
WHERE
    (CAST($since AS TIMESTAMPTZ) IS NULL OR CAST(day AS TIMESTAMPTZ) >= CAST($since AS TIMESTAMPTZ))
    AND (CAST($until AS TIMESTAMPTZ) IS NULL OR CAST(day AS TIMESTAMPTZ) < CAST($until AS TIMESTAMPTZ))
GROUP BY day, route
ORDER BY day, route
