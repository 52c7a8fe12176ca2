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
WITH deletions AS (
    SELECT site_id, coupon_id, min(event_time) AS first_at, min(sequence) AS first_sequence
    FROM facts
    WHERE type = 'coupon.deleted'
    GROUP BY site_id, coupon_id
),
-- Events that report a use once more: they count for nothing, and nothing else is odd about them as a use.
again AS (
    SELECT facts.position, facts.event_time, redemptions.redeemed_at
    FROM redemptions
    JOIN facts
        ON facts.site_id = redemptions.site_id AND facts.coupon_id = redemptions.coupon_id
        AND coalesce(facts.order_id, 'event:' || facts.event_id) = redemptions.order_id
    WHERE
        redemptions.reports > 1
        AND facts.type = 'coupon.applied'
        AND facts.event_id <> redemptions.event_id
        AND (CAST($site AS VARCHAR) IS NULL OR facts.site_id = $site)
),
limits AS (
    SELECT site_id, coupon_id, min(usage_limit) AS least
    FROM facts
    WHERE
        usage_limit IS NOT NULL
        AND type IN ('coupon.created', 'coupon.updated', 'coupon.deleted', 'coupon.applied', 'coupon.observed')
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
    GROUP BY site_id, coupon_id
),
-- The uses that were above the least limit that the coupon ever had: only they can have been above the one it had then.
numbered AS (
    SELECT
        uses.site_id, uses.coupon_id, uses.order_id, uses.event_id, uses.redeemed_at, uses.least,
        row_number() OVER (PARTITION BY uses.site_id, uses.coupon_id ORDER BY uses.redeemed_at, uses.event_id)
                                                        AS number
    FROM (
        SELECT
            redemptions.site_id, redemptions.coupon_id, redemptions.order_id, redemptions.event_id,
            redemptions.redeemed_at, limits.least
        FROM limits
        JOIN coupon_usage
            ON coupon_usage.site_id = limits.site_id AND coupon_usage.coupon_id = limits.coupon_id
            AND coupon_usage.times_used > limits.least
        JOIN redemptions
            ON redemptions.site_id = limits.site_id AND redemptions.coupon_id = limits.coupon_id
    ) AS uses
),
perhaps_above AS (
    SELECT
        facts.position, facts.site_id, facts.coupon_id, facts.has_coupon, facts.usage_limit,
        numbered.order_id, numbered.redeemed_at, numbered.number
    FROM numbered
    JOIN facts
        ON facts.event_id = numbered.event_id AND facts.site_id = numbered.site_id
    WHERE numbered.number > numbered.least
),
suspects AS (
    SELECT
        facts.position, facts.site_id, facts.coupon_id, facts.event_id, facts.event_time, facts.sequence, facts.type,
        facts.has_coupon, facts.start_time, facts.expiration_time, facts.active, facts.usage_limit,
        coalesce(facts.event_time >= deletions.first_at, false)
        OR coalesce(facts.sequence >= deletions.first_sequence, false)
                                                        AS perhaps_deleted
    FROM facts
    LEFT JOIN deletions
        ON deletions.site_id = facts.site_id AND deletions.coupon_id = facts.coupon_id
    WHERE
        facts.type IN ('coupon.updated', 'coupon.applied', 'coupon.observed')
        AND (CAST($site AS VARCHAR) IS NULL OR facts.site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR facts.event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR facts.event_time < CAST($until AS TIMESTAMPTZ))
        AND (
            facts.event_time >= deletions.first_at
            OR facts.sequence >= deletions.first_sequence
            OR facts.type = 'coupon.applied' AND (
                NOT facts.has_coupon
                OR facts.event_time < facts.start_time
                OR facts.event_time >= facts.expiration_time
                OR NOT facts.active
            )
        )
),
-- What the coupon was at a use that does not say so itself.
bare AS (
    SELECT site_id, coupon_id, position
    FROM suspects
    WHERE NOT has_coupon AND type = 'coupon.applied'
),
lines AS (
    SELECT
        position, site_id, coupon_id, sequence, has_coupon, start_time, expiration_time, active, usage_limit,
        row_number() OVER (PARTITION BY site_id, coupon_id ORDER BY sequence NULLS FIRST, event_time, event_id)
                                                        AS by_sequence,
        row_number() OVER (PARTITION BY site_id, coupon_id ORDER BY event_time, event_id)
                                                        AS by_time
    FROM facts
    WHERE
        (
            type = 'coupon.applied'
            OR has_coupon AND type IN ('coupon.created', 'coupon.updated', 'coupon.deleted', 'coupon.observed')
        )
        AND EXISTS (SELECT 1 FROM bare WHERE bare.site_id = facts.site_id AND bare.coupon_id = facts.coupon_id)
),
-- The places of the latest snapshot that carries a sequence and of the latest that does not.
before AS (
    SELECT
        *,
        CASE
            WHEN sequence IS NULL THEN
                max(CASE WHEN has_coupon AND sequence IS NOT NULL THEN by_sequence END) OVER (
                    PARTITION BY site_id, coupon_id ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                )
            ELSE
                max(CASE WHEN has_coupon AND sequence IS NOT NULL THEN by_sequence END) OVER (
                    PARTITION BY site_id, coupon_id
                    ORDER BY by_sequence ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                )
        END                                             AS sequenced,
        max(CASE WHEN has_coupon AND sequence IS NULL THEN by_time END) OVER (
            PARTITION BY site_id, coupon_id ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
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
        ON ranked.site_id = before.site_id AND ranked.coupon_id = before.coupon_id
        AND ranked.by_sequence = before.sequenced
    LEFT JOIN lines AS other
        ON other.site_id = before.site_id AND other.coupon_id = before.coupon_id
        AND other.by_time = before.unsequenced
    WHERE NOT before.has_coupon
),
-- Whether the latest creation or deletion before an event is a deletion.
life_lines AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY site_id, coupon_id ORDER BY sequence NULLS FIRST, event_time, event_id)
                                                        AS by_sequence,
        row_number() OVER (PARTITION BY site_id, coupon_id ORDER BY event_time, event_id)
                                                        AS by_time
    FROM (
        SELECT position, site_id, coupon_id, event_id, event_time, sequence, 'other' AS type
        FROM suspects
        WHERE perhaps_deleted
        UNION ALL
        SELECT position, site_id, coupon_id, event_id, event_time, sequence, type
        FROM facts
        WHERE
            (type = 'coupon.created' OR type = 'coupon.deleted')
            AND EXISTS (
                SELECT 1
                FROM suspects
                WHERE perhaps_deleted AND suspects.site_id = facts.site_id AND suspects.coupon_id = facts.coupon_id
            )
    ) AS events_of_a_life
),
life_before AS (
    SELECT
        *,
        CASE
            WHEN sequence IS NULL THEN
                max(CASE WHEN type <> 'other' AND sequence IS NOT NULL THEN by_sequence END) OVER (
                    PARTITION BY site_id, coupon_id ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                )
            ELSE
                max(CASE WHEN type <> 'other' AND sequence IS NOT NULL THEN by_sequence END) OVER (
                    PARTITION BY site_id, coupon_id
                    ORDER BY by_sequence ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                )
        END                                             AS sequenced,
        max(CASE WHEN type <> 'other' AND sequence IS NULL THEN by_time END) OVER (
            PARTITION BY site_id, coupon_id ORDER BY by_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
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
        ON ranked.site_id = life_before.site_id AND ranked.coupon_id = life_before.coupon_id
        AND ranked.by_sequence = life_before.sequenced
    LEFT JOIN life_lines AS other
        ON other.site_id = life_before.site_id AND other.coupon_id = life_before.coupon_id
        AND other.by_time = life_before.unsequenced
    WHERE life_before.type = 'other'
),
after_deletion AS (
    SELECT life_known.position AS position, life_lines.event_time AS deleted_at
    FROM life_known
    JOIN life_lines ON life_lines.position = life_known.told_at
    WHERE life_lines.type = 'coupon.deleted'
),
uses AS (
    SELECT
        suspects.position, suspects.event_time,
        CASE WHEN suspects.has_coupon THEN suspects.start_time ELSE lines.start_time END
                                                        AS start_time,
        CASE WHEN suspects.has_coupon THEN suspects.expiration_time ELSE lines.expiration_time END
                                                        AS expiration_time,
        CASE WHEN suspects.has_coupon THEN suspects.active ELSE lines.active END
                                                        AS active
    FROM suspects
    LEFT JOIN known ON known.position = suspects.position
    LEFT JOIN lines ON lines.position = known.told_at
    WHERE suspects.type = 'coupon.applied' AND suspects.position NOT IN (SELECT position FROM again)
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
-- Events whose sequence and time say opposite things of which came first, beside any other of the same entity.
sequenced AS (
    SELECT
        position, event_time,
        -- Those of the same sequence stand in the order of time, so that none of them can seem to disagree.
        max(event_time) OVER (
            PARTITION BY site_id, coupon_id, entity_id
            ORDER BY sequence, event_time ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )                                               AS latest_below,
        min(event_time) OVER (
            PARTITION BY site_id, coupon_id, entity_id
            ORDER BY sequence, event_time ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
        )                                               AS earliest_above
    FROM facts
    WHERE
        sequence IS NOT NULL AND coupon_id IS NOT NULL
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
),
-- What an event shows by itself; a scope of which nothing is told is taken for none.
alone AS (
    SELECT
        position, event_time, coupon_id,
        source <> 'snapshot' AND epoch_us(recorded_at) - epoch_us(event_time) > 3600000000
                                                        AS late,
        type LIKE 'coupon.%' AND coupon_id <> entity_id AS about_another,
        coalesce(scope_namespace, scope_group, scope_entity_id) IS NOT NULL AND minimum_subtotal IS NOT NULL
                                                        AS scope_and_minimum,
        coalesce(scope_namespace, scope_group, scope_entity_id) IS NOT NULL AND discount_type = 'FREE_SHIPPING'
                                                        AS scope_of_shipping,
        scope_namespace = 'bookings' AND NOT limited_to_one_item
                                                        AS several_bookings,
        length(code) > 20                               AS long_code,
        length(name) > 80                               AS long_name,
        discount_type = 'UNKNOWN'                       AS unknown_discount
    FROM facts
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
),
oddities AS (
    SELECT *
    FROM alone
    WHERE
        late OR about_another OR scope_and_minimum OR scope_of_shipping OR several_bookings OR long_code OR long_name
        OR unknown_discount
),
found (code, position, event_time, number, allowed, moment) AS (
    SELECT 'late', position, event_time, NULL, NULL, CAST(NULL AS TIMESTAMPTZ) FROM oddities WHERE late
    UNION ALL
    SELECT 'coupon_id_differs_from_entity_id', position, event_time, NULL, NULL, NULL FROM oddities WHERE about_another
    UNION ALL
    SELECT 'scope_and_minimum_subtotal', position, event_time, NULL, NULL, NULL
    FROM oddities
    WHERE scope_and_minimum AND coupon_id IS NOT NULL
    UNION ALL
    SELECT 'free_shipping_with_scope', position, event_time, NULL, NULL, NULL
    FROM oddities
    WHERE scope_of_shipping AND coupon_id IS NOT NULL
    UNION ALL
    SELECT 'bookings_not_limited_to_one_item', position, event_time, NULL, NULL, NULL
    FROM oddities
    WHERE several_bookings AND coupon_id IS NOT NULL
    UNION ALL
    SELECT 'code_too_long', position, event_time, NULL, NULL, NULL FROM oddities WHERE long_code AND coupon_id IS NOT NULL
    UNION ALL
    SELECT 'name_too_long', position, event_time, NULL, NULL, NULL FROM oddities WHERE long_name AND coupon_id IS NOT NULL
    UNION ALL
    SELECT 'unknown_discount', position, event_time, NULL, NULL, NULL
    FROM oddities
    WHERE unknown_discount AND coupon_id IS NOT NULL
    UNION ALL
    SELECT 'sequence_disagrees_with_time', position, event_time, NULL, NULL, NULL
    FROM sequenced
    WHERE latest_below > event_time OR earliest_above < event_time
    UNION ALL
    SELECT 'reported_again', position, event_time, NULL, NULL, redeemed_at FROM again
    UNION ALL
    SELECT 'after_deletion', suspects.position, suspects.event_time, NULL, NULL, after_deletion.deleted_at
    FROM after_deletion
    JOIN suspects ON suspects.position = after_deletion.position
    WHERE suspects.position NOT IN (SELECT position FROM again)
    UNION ALL
    SELECT 'over_limit', position, redeemed_at, number, allowed, NULL FROM limited WHERE number > allowed
    UNION ALL
    SELECT 'used_before_start', position, event_time, NULL, NULL, start_time FROM uses WHERE event_time < start_time
    UNION ALL
    SELECT 'used_after_expiration', position, event_time, NULL, NULL, expiration_time
    FROM uses
    WHERE event_time >= expiration_time
    UNION ALL
    SELECT 'used_while_inactive', position, event_time, NULL, NULL, NULL FROM uses WHERE NOT active
),
asked AS (
    SELECT *
    FROM found
    WHERE
        (CAST($code AS VARCHAR) IS NULL OR code = $code)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
),
counted AS (
    SELECT
        *,
        count(*) OVER (PARTITION BY code)               AS found,
        row_number() OVER (PARTITION BY code ORDER BY position DESC)
                                                        AS place
    FROM asked
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
    counted.found                                       AS found
FROM counted
JOIN facts ON facts.position = counted.position
LEFT JOIN coupons
    ON coupons.site_id = facts.site_id AND coupons.coupon_id = facts.coupon_id
WHERE CAST($limit AS BIGINT) IS NULL OR counted.place <= $limit
ORDER BY counted.position DESC, counted.code
