-- report: findings
-- title: Findings
-- group: checks
-- question: What is odd about the events of the log, and at which events does it show?
-- parameter: site   text       null  Only this site; null: every site.
-- parameter: since  timestamp  null  Only events that happened at or after this time; null: from the beginning.
-- parameter: until  timestamp  null  Only events that happened before this time; null: to the end.
-- parameter: code   text       null  Only findings of this code; null: of every code.
-- parameter: limit  count      1000  Only so many of each code, the latest recorded; null: all of them.
-- column: code         text    What kind of oddity: late, after_deletion, over_limit …, the codes of a coupon's history.
-- column: position     events  The event's place in the log.
-- column: event_time   time    When the event happened.
-- column: site_id      text    The site that it happened on.
-- column: coupon_id    text    The coupon that it is about; null where it is about none.
-- column: coupon_code  text    The coupon's code as the event shows it, else as it is now.
-- column: order_id     text    The order that the event tells a use by; null: none.
-- column: what         text    What is odd, in words.
-- column: found        events  How many findings of this code there are in all, those beyond the limit included.
-- table: position, event_time, coupon_code, order_id, what, found

-- The codes are those of eventstore/projections/history.py, which finds the same for one coupon; a test compares the two. Events
-- that are about no coupon stand in no history: of those only being late is found.
--
-- Two kinds of findings may be as many as there are events: that one was recorded late (a log that was brought in has nothing
-- else), and that a use shows by itself that it was out of its window (a shop that leaves what is used switched off). Of these the
-- log is counted in pieces first, and only as much of its end is looked at then as is listed.
WITH again AS (
    -- Events that report a use once more: they count for nothing, and nothing else is odd about them as a use.
    SELECT
        facts.position, facts.event_time, later.redeemed_at, facts.start_time, facts.expiration_time, facts.active
    FROM (
        SELECT coupon_key, redeemed_at, unnest(later_event_ids) AS event_id
        FROM redemptions
        WHERE reports > 1
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
    ) AS later
    JOIN facts ON facts.event_id = later.event_id AND facts.coupon_key = later.coupon_key
),
pieces AS (
    SELECT
        piece,
        min(position)                                   AS begins,
        sum(late)                                       AS late,
        sum(before_start)                               AS before_start,
        sum(expired)                                    AS expired,
        sum(inactive)                                   AS inactive
    FROM (
        SELECT
            position,
            floor(position / 16384)                     AS piece,
            CASE WHEN source <> 'snapshot' AND epoch_us(recorded_at) - epoch_us(event_time) > 3600000000 THEN 1 ELSE 0 END
                                                        AS late,
            CASE WHEN type = 'coupon.applied' AND event_time < start_time THEN 1 ELSE 0 END
                                                        AS before_start,
            CASE WHEN type = 'coupon.applied' AND event_time >= expiration_time THEN 1 ELSE 0 END
                                                        AS expired,
            CASE WHEN type = 'coupon.applied' AND NOT active THEN 1 ELSE 0 END
                                                        AS inactive
        FROM facts
        WHERE
            true
            AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
            AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
            AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
        UNION ALL
        SELECT
            position,
            floor(position / 16384)                     AS piece,
            0                                           AS late,
            CASE WHEN event_time < start_time THEN -1 ELSE 0 END
                                                        AS before_start,
            CASE WHEN event_time >= expiration_time THEN -1 ELSE 0 END
                                                        AS expired,
            CASE WHEN NOT active THEN -1 ELSE 0 END     AS inactive
        FROM again
        WHERE
            (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
            AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
    ) AS counts
    GROUP BY piece
),
-- From which position on there are as many of a code as are listed, or all that there are; far behind the end: there are none.
beginnings AS (
    SELECT
        coalesce(
            max(CASE WHEN late_from_then_on >= $limit THEN begins END),
            min(CASE WHEN late > 0 THEN begins END),
            9223372036854775807
        )                                               AS late,
        coalesce(
            max(CASE WHEN before_start_from_then_on >= $limit THEN begins END),
            min(CASE WHEN before_start > 0 THEN begins END),
            9223372036854775807
        )                                               AS before_start,
        coalesce(
            max(CASE WHEN expired_from_then_on >= $limit THEN begins END),
            min(CASE WHEN expired > 0 THEN begins END),
            9223372036854775807
        )                                               AS expired,
        coalesce(
            max(CASE WHEN inactive_from_then_on >= $limit THEN begins END),
            min(CASE WHEN inactive > 0 THEN begins END),
            9223372036854775807
        )                                               AS inactive,
        sum(late)                                       AS late_found,
        sum(before_start)                               AS before_start_found,
        sum(expired)                                    AS expired_found,
        sum(inactive)                                   AS inactive_found
    FROM (
        SELECT
            begins, late, before_start, expired, inactive,
            sum(late) OVER (ORDER BY begins DESC)       AS late_from_then_on,
            sum(before_start) OVER (ORDER BY begins DESC) AS before_start_from_then_on,
            sum(expired) OVER (ORDER BY begins DESC)    AS expired_from_then_on,
            sum(inactive) OVER (ORDER BY begins DESC)   AS inactive_from_then_on
        FROM pieces
    ) AS from_then_on
),
-- The uses that were above the least limit that the coupon ever had: only they can have been above the one it had then.
limits AS (
    SELECT coupon_key, min(usage_limit) AS least
    FROM facts
    WHERE
        usage_limit IS NOT NULL
        AND type IN ('coupon.created', 'coupon.updated', 'coupon.deleted', 'coupon.applied', 'coupon.observed')
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
    GROUP BY coupon_key
),
exceeded AS (
    SELECT limits.coupon_key, limits.least
    FROM limits
    JOIN coupon_usage ON coupon_usage.coupon_key = limits.coupon_key
    WHERE coupon_usage.times_used > limits.least
),
numbered AS (
    SELECT
        redemptions.event_key, redemptions.redeemed_at, exceeded.least,
        row_number() OVER (PARTITION BY redemptions.coupon_key ORDER BY redemptions.redeemed_at, redemptions.event_id)
                                                        AS number
    FROM exceeded
    JOIN redemptions ON redemptions.coupon_key = exceeded.coupon_key
),
perhaps_above AS (
    SELECT facts.position, facts.has_coupon, facts.usage_limit, numbered.redeemed_at, numbered.number
    FROM numbered
    JOIN facts ON facts.event_key = numbered.event_key
    WHERE numbered.number > numbered.least
),
-- What the coupon was at a use that does not say so itself.
bare AS (
    SELECT coupon_key, position, event_time
    FROM facts
    WHERE
        type = 'coupon.applied'
        AND NOT has_coupon
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
),
bare_coupons AS (
    SELECT coupon_key
    FROM bare
    GROUP BY coupon_key
    -- It always has: but DuckDB's planner then takes them for few, and looks them up instead of the whole log.
    HAVING count(*) > 0
),
lines AS (
    SELECT
        position, coupon_key, sequence, has_coupon, start_time, expiration_time, active, usage_limit,
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
bare_uses AS (
    SELECT bare.position, bare.event_time, lines.start_time, lines.expiration_time, lines.active
    FROM bare
    JOIN known ON known.position = bare.position
    JOIN lines ON lines.position = known.told_at
    WHERE bare.position NOT IN (SELECT position FROM again)
),
limited AS (
    SELECT
        perhaps_above.position, perhaps_above.redeemed_at, perhaps_above.number,
        CASE WHEN perhaps_above.has_coupon THEN perhaps_above.usage_limit ELSE lines.usage_limit END
                                                        AS allowed
    FROM perhaps_above
    LEFT JOIN known ON known.position = perhaps_above.position
    LEFT JOIN lines ON lines.position = known.told_at
),
deletions AS (
    SELECT coupon_key, min(event_time) AS first_at, min(sequence) AS first_sequence
    FROM facts
    WHERE type = 'coupon.deleted'
    GROUP BY coupon_key
),
-- No other event can come after a deletion, be it by time or by sequence.
perhaps_deleted AS (
    SELECT facts.position, facts.coupon_key, facts.event_time
    FROM facts
    JOIN deletions ON deletions.coupon_key = facts.coupon_key
    WHERE
        facts.type IN ('coupon.updated', 'coupon.applied', 'coupon.observed')
        AND (facts.event_time >= deletions.first_at OR facts.sequence >= deletions.first_sequence)
        AND (CAST($site AS VARCHAR) IS NULL OR facts.site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR facts.event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR facts.event_time < CAST($until AS TIMESTAMPTZ))
),
-- Whether the latest creation or deletion before an event is a deletion.
life_lines AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY coupon_key ORDER BY sequence NULLS FIRST, event_time, event_id)
                                                        AS by_sequence,
        row_number() OVER (PARTITION BY coupon_key ORDER BY event_time, event_id)
                                                        AS by_time
    FROM (
        SELECT position, coupon_key, event_id, event_time, sequence, 'other' AS type
        FROM facts
        WHERE position IN (SELECT position FROM perhaps_deleted)
        UNION ALL
        SELECT position, coupon_key, event_id, event_time, sequence, type
        FROM facts
        WHERE
            (type = 'coupon.created' OR type = 'coupon.deleted')
            AND coupon_key IN (SELECT DISTINCT coupon_key FROM perhaps_deleted)
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
    SELECT perhaps_deleted.position, perhaps_deleted.event_time, life_lines.event_time AS deleted_at
    FROM perhaps_deleted
    JOIN life_known ON life_known.position = perhaps_deleted.position
    JOIN life_lines ON life_lines.position = life_known.told_at
    WHERE life_lines.type = 'coupon.deleted' AND perhaps_deleted.position NOT IN (SELECT position FROM again)
),
-- Events whose sequence and time say opposite things of which came first, beside any other of the same entity. Where that is
-- so, it is so of two that stand next to each other by sequence: few coupons have such.
disordered AS (
    SELECT coupon_key
    FROM (
        SELECT
            coupon_key, event_time,
            -- Those of the same sequence stand in the order of time, so that none of them can seem to disagree.
            lag(event_time) OVER (PARTITION BY coupon_key ORDER BY sequence, event_time)
                                                        AS below
        FROM facts
        WHERE
            sequence IS NOT NULL AND coupon_key IS NOT NULL
            AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
    ) AS beside
    WHERE below > event_time
),
sequenced AS (
    SELECT
        position, event_time,
        max(event_time) OVER (
            PARTITION BY coupon_key, entity_id
            ORDER BY sequence, event_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )                                               AS latest_below,
        min(event_time) OVER (
            PARTITION BY coupon_key, entity_id
            ORDER BY sequence, event_time ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
        )                                               AS earliest_above
    FROM facts
    WHERE sequence IS NOT NULL AND coupon_key IN (SELECT coupon_key FROM disordered)
),
-- What an event shows by itself.
broken (code, position, site_id, event_time) AS (
    SELECT 'coupon_id_differs_from_entity_id', position, site_id, event_time
    FROM facts
    WHERE type LIKE 'coupon.%' AND coupon_id <> entity_id
    UNION ALL
    SELECT 'scope_and_minimum_subtotal', position, site_id, event_time
    FROM facts
    WHERE has_scope AND minimum_subtotal IS NOT NULL AND coupon_id IS NOT NULL
    UNION ALL
    SELECT 'free_shipping_with_scope', position, site_id, event_time
    FROM facts
    WHERE has_scope AND discount_type = 'FREE_SHIPPING' AND coupon_id IS NOT NULL
    UNION ALL
    SELECT 'bookings_not_limited_to_one_item', position, site_id, event_time
    FROM facts
    WHERE scope_namespace = 'bookings' AND NOT limited_to_one_item AND coupon_id IS NOT NULL
    UNION ALL
    SELECT 'code_too_long', position, site_id, event_time
    FROM facts
    WHERE length(code) > 20 AND coupon_id IS NOT NULL
    UNION ALL
    SELECT 'name_too_long', position, site_id, event_time
    FROM facts
    WHERE length(name) > 80 AND coupon_id IS NOT NULL
    UNION ALL
    SELECT 'unknown_discount', position, site_id, event_time
    FROM facts
    WHERE discount_type = 'UNKNOWN' AND coupon_id IS NOT NULL
),
seldom (code, position, event_time, number, allowed, moment) AS (
    SELECT code, position, event_time, NULL, NULL, CAST(NULL AS TIMESTAMPTZ)
    FROM broken
    WHERE CAST($site AS VARCHAR) IS NULL OR site_id = $site
    UNION ALL
    SELECT 'sequence_disagrees_with_time', position, event_time, NULL, NULL, NULL
    FROM sequenced
    WHERE latest_below > event_time OR earliest_above < event_time
    UNION ALL
    SELECT 'reported_again', position, event_time, NULL, NULL, redeemed_at FROM again
    UNION ALL
    SELECT 'after_deletion', position, event_time, NULL, NULL, deleted_at FROM after_deletion
    UNION ALL
    SELECT 'over_limit', position, redeemed_at, number, allowed, NULL FROM limited WHERE number > allowed
    UNION ALL
    SELECT 'used_before_start', position, event_time, NULL, NULL, start_time
    FROM bare_uses
    WHERE event_time < start_time
    UNION ALL
    SELECT 'used_after_expiration', position, event_time, NULL, NULL, expiration_time
    FROM bare_uses
    WHERE event_time >= expiration_time
    UNION ALL
    SELECT 'used_while_inactive', position, event_time, NULL, NULL, NULL FROM bare_uses WHERE NOT active
),
often (code, position, site_id, event_time, moment) AS (
    SELECT 'late', position, site_id, event_time, CAST(NULL AS TIMESTAMPTZ)
    FROM facts
    WHERE
        source <> 'snapshot' AND epoch_us(recorded_at) - epoch_us(event_time) > 3600000000
        AND position >= (SELECT late FROM beginnings)
    UNION ALL
    SELECT 'used_before_start', position, site_id, event_time, start_time
    FROM facts
    WHERE
        type = 'coupon.applied' AND event_time < start_time
        AND position >= (SELECT before_start FROM beginnings)
        AND position NOT IN (SELECT position FROM again)
    UNION ALL
    SELECT 'used_after_expiration', position, site_id, event_time, expiration_time
    FROM facts
    WHERE
        type = 'coupon.applied' AND event_time >= expiration_time
        AND position >= (SELECT expired FROM beginnings)
        AND position NOT IN (SELECT position FROM again)
    UNION ALL
    SELECT 'used_while_inactive', position, site_id, event_time, NULL
    FROM facts
    WHERE
        type = 'coupon.applied' AND NOT active
        AND position >= (SELECT inactive FROM beginnings)
        AND position NOT IN (SELECT position FROM again)
),
ranked AS (
    SELECT
        code, position, number, allowed, moment,
        row_number() OVER (PARTITION BY code ORDER BY position DESC)
                                                        AS place,
        sum(seldom) OVER (PARTITION BY code)            AS seldom_found
    FROM (
        SELECT code, position, event_time, number, allowed, moment, 1 AS seldom
        FROM seldom
        UNION ALL
        SELECT code, position, event_time, NULL, NULL, moment, 0
        FROM often
        WHERE CAST($site AS VARCHAR) IS NULL OR site_id = $site
    ) AS listed
    WHERE
        (CAST($code AS VARCHAR) IS NULL OR code = $code)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
),
counted AS (
    SELECT
        ranked.code, ranked.position, ranked.number, ranked.allowed, ranked.moment,
        ranked.seldom_found + CASE ranked.code
            WHEN 'late' THEN beginnings.late_found
            WHEN 'used_before_start' THEN beginnings.before_start_found
            WHEN 'used_after_expiration' THEN beginnings.expired_found
            WHEN 'used_while_inactive' THEN beginnings.inactive_found
            ELSE 0
        END                                             AS found
    FROM ranked
    CROSS JOIN beginnings
    WHERE CAST($limit AS BIGINT) IS NULL OR ranked.place <= $limit
)
SELECT
    counted.code                                        AS code,
    counted.position                                    AS position,
    facts.event_time                                    AS event_time,
    facts.site_id                                       AS site_id,
    facts.coupon_id                                     AS coupon_id,
    coalesce(facts.code, coupons.code)                  AS coupon_code,
    facts.order_id                                      AS order_id,
    CASE counted.code
        WHEN 'late' THEN concat(
            'recorded ',
            CASE
                WHEN epoch_us(facts.recorded_at) - epoch_us(facts.event_time) < 172800000000 THEN concat(
                    CAST(floor((epoch_us(facts.recorded_at) - epoch_us(facts.event_time)) / 3600000000.0) AS BIGINT),
                    ' h'
                )
                ELSE concat(
                    CAST(floor((epoch_us(facts.recorded_at) - epoch_us(facts.event_time)) / 86400000000.0) AS BIGINT),
                    ' days'
                )
            END,
            ' after it happened'
        )
        WHEN 'coupon_id_differs_from_entity_id'
            THEN concat('it names the coupon ', facts.coupon_id, ', but is about ', facts.entity_id)
        WHEN 'scope_and_minimum_subtotal' THEN 'it has a scope and a minimum subtotal, which exclude each other'
        WHEN 'free_shipping_with_scope' THEN 'free shipping with a scope, which it cannot have'
        WHEN 'bookings_not_limited_to_one_item' THEN 'a bookings coupon that is not limited to one item'
        WHEN 'code_too_long' THEN 'its code is longer than Wix allows'
        WHEN 'name_too_long' THEN 'its name is longer than Wix allows'
        WHEN 'unknown_discount' THEN 'what its discount is cannot be told'
        WHEN 'sequence_disagrees_with_time'
            THEN concat('its sequence ', facts.sequence, ' and its time say opposite things of what came first')
        WHEN 'reported_again' THEN concat(
            'the use was reported already as of ', strftime(counted.moment, '%Y-%m-%d %H:%M:%S'), ' UTC and counts once'
        )
        WHEN 'after_deletion' THEN concat(
            CASE WHEN facts.type = 'coupon.applied' THEN 'used' ELSE 'reported by Wix' END,
            ' after its deletion of ', strftime(counted.moment, '%Y-%m-%d %H:%M:%S'), ' UTC'
        )
        WHEN 'over_limit' THEN concat('use ', counted.number, ' of ', counted.allowed, ' allowed')
        WHEN 'used_before_start' THEN concat(
            'used before ', strftime(counted.moment, '%Y-%m-%d %H:%M:%S'), ' UTC, when it begins'
        )
        WHEN 'used_after_expiration' THEN concat(
            'used after it expired at ', strftime(counted.moment, '%Y-%m-%d %H:%M:%S'), ' UTC'
        )
        WHEN 'used_while_inactive' THEN 'used while it was switched off'
    END                                                 AS what,
    CAST(counted.found AS BIGINT)                       AS found
FROM counted
JOIN facts ON facts.position = counted.position
LEFT JOIN coupons ON coupons.coupon_key = facts.coupon_key
ORDER BY counted.position DESC, counted.code
