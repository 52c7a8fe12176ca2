-- Of each use of the `bare_coupons` whose event does not show the coupon: what the latest event before it told of that. The latest
-- is by sequence among those that carry one, by time otherwise, then by event id: of each kind there is one, and the later by time
-- of the two counts.
lines AS (
    SELECT
        position, coupon_key, event_time, sequence, has_coupon, start_time, expiration_time, active, usage_limit,
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
        AND coupon_key IN (SELECT coupon_key FROM bare_coupons)
),
before AS (
    SELECT
        position, coupon_key, event_time, has_coupon,
        greatest(
            CASE
                WHEN sequence IS NULL THEN
                    arg_max(by_time, CASE WHEN has_coupon AND sequence IS NOT NULL THEN by_sequence END) OVER (
                        PARTITION BY coupon_key ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                    )
                ELSE
                    arg_max(by_time, CASE WHEN has_coupon AND sequence IS NOT NULL THEN by_sequence END) OVER (
                        PARTITION BY coupon_key ORDER BY by_sequence ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                    )
            END,
            max(CASE WHEN has_coupon AND sequence IS NULL THEN by_time END) OVER (
                PARTITION BY coupon_key ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            )
        )                                               AS latest
    FROM lines
),
known AS (
    SELECT
        before.position, before.coupon_key, before.event_time,
        lines.start_time, lines.expiration_time, lines.active, lines.usage_limit
    FROM before
    JOIN lines ON lines.coupon_key = before.coupon_key AND lines.by_time = before.latest
    WHERE NOT before.has_coupon
),
