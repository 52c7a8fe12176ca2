-- Which of the events `perhaps_deleted` came after a deletion: the latest creation or deletion before them, as the latest snapshot
-- is told, is one.
life_lines AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY coupon_key ORDER BY sequence NULLS FIRST, event_time, event_id)
                                                        AS by_sequence,
        row_number() OVER (PARTITION BY coupon_key ORDER BY event_time, event_id)
                                                        AS by_time
    FROM (
        SELECT position, coupon_key, event_id, event_time, sequence, 'other' AS type
        FROM perhaps_deleted
        UNION ALL
        SELECT position, coupon_key, event_id, event_time, sequence, type
        FROM facts
        WHERE
            (type = 'coupon.created' OR type = 'coupon.deleted')
            AND coupon_key IN (SELECT coupon_key FROM perhaps_deleted)
    ) AS events_of_a_life
),
life_before AS (
    SELECT
        position, coupon_key, type, event_time,
        greatest(
            CASE
                WHEN sequence IS NULL THEN
                    arg_max(by_time, CASE WHEN type <> 'other' AND sequence IS NOT NULL THEN by_sequence END) OVER (
                        PARTITION BY coupon_key ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                    )
                ELSE
                    arg_max(by_time, CASE WHEN type <> 'other' AND sequence IS NOT NULL THEN by_sequence END) OVER (
                        PARTITION BY coupon_key ORDER BY by_sequence ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                    )
            END,
            max(CASE WHEN type <> 'other' AND sequence IS NULL THEN by_time END) OVER (
                PARTITION BY coupon_key ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            )
        )                                               AS latest
    FROM life_lines
),
after_deletion AS (
    SELECT life_before.position, life_before.event_time, life_lines.event_time AS deleted_at
    FROM life_before
    JOIN life_lines ON life_lines.coupon_key = life_before.coupon_key AND life_lines.by_time = life_before.latest
    WHERE life_before.type = 'other' AND life_lines.type = 'coupon.deleted'
),
