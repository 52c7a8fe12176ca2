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
-- What an event shows by itself, the lake has written beside it (`oddities`): there may be as many as events, so they are counted in
-- pieces of the log, and only the last pieces that fill the list are looked at. All else concerns few coupons, which their signs
-- (`coupon_signs`) tell from the rest.
WITH codes AS (
    SELECT 'late' AS code, 1 AS bit
    UNION ALL SELECT 'used_before_start', 2
    UNION ALL SELECT 'used_after_expiration', 4
    UNION ALL SELECT 'used_while_inactive', 8
    UNION ALL SELECT 'coupon_id_differs_from_entity_id', 16
    UNION ALL SELECT 'scope_and_minimum_subtotal', 32
    UNION ALL SELECT 'free_shipping_with_scope', 64
    UNION ALL SELECT 'bookings_not_limited_to_one_item', 128
    UNION ALL SELECT 'code_too_long', 256
    UNION ALL SELECT 'name_too_long', 512
    UNION ALL SELECT 'unknown_discount', 1024
),
again AS (
    -- Events that report a use once more: they count for nothing, and nothing else is odd about them as a use.
    SELECT facts.position, facts.event_time, facts.oddities, later.redeemed_at
    FROM (
        SELECT redeemed_at, unnest(later_event_keys) AS event_key
        FROM redemptions
        WHERE
            reports > 1
            AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
    ) AS later
    JOIN facts ON facts.event_key = later.event_key
),
shown AS (
    SELECT position - position % 16384 AS piece, oddities, oddities AS bits, count(*) AS events
    FROM facts
    WHERE
        oddities <> 0
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
    GROUP BY position - position % 16384, oddities
    UNION ALL
    SELECT position - position % 16384, oddities, oddities & 14, -count(*)
    FROM again
    WHERE
        (oddities & 14) <> 0
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
    GROUP BY position - position % 16384, oddities
),
pieces AS (
    SELECT
        codes.code, codes.bit, shown.piece, shown.oddities, shown.events,
        sum(shown.events) OVER (PARTITION BY codes.code ORDER BY shown.piece DESC)
                                                        AS from_then_on,
        sum(shown.events) OVER (PARTITION BY codes.code, shown.piece)
                                                        AS in_it,
        sum(shown.events) OVER (PARTITION BY codes.code)
                                                        AS found
    FROM shown
    JOIN codes ON (shown.bits & codes.bit) <> 0
),
wanted AS (
    SELECT code, bit, piece, oddities, found
    FROM pieces
    WHERE
        events > 0
        AND (CAST($limit AS BIGINT) IS NULL OR from_then_on - in_it < $limit)
        AND (CAST($code AS VARCHAR) IS NULL OR code = $code)
),
-- include: exceeded
numbered AS (
    SELECT
        redemptions.event_key, redemptions.redeemed_at, exceeded.least,
        row_number() OVER (PARTITION BY redemptions.coupon_key ORDER BY redemptions.redeemed_at, redemptions.event_id)
                                                        AS number
    FROM exceeded
    JOIN redemptions ON redemptions.coupon_key = exceeded.coupon_key
),
perhaps_above AS (
    SELECT
        facts.position, facts.coupon_key, facts.has_coupon, facts.usage_limit, numbered.redeemed_at, numbered.number
    FROM numbered
    JOIN facts ON facts.event_key = numbered.event_key
    WHERE numbered.number > numbered.least
),
-- Those with a use that does not show them, where it can have been odd.
bare_coupons AS (
    SELECT coupon_key
    FROM coupon_signs
    WHERE
        bare_use_first IS NOT NULL
        AND (was_inactive OR bare_use_first < latest_start OR bare_use_last >= earliest_expiration)
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
    UNION
    SELECT coupon_key FROM perhaps_above WHERE NOT has_coupon
),
-- include: told-before-uses
bare_uses AS (
    SELECT
        position, event_time, start_time, expiration_time,
        CASE WHEN event_time < start_time THEN 2 ELSE 0 END
        + CASE WHEN event_time >= expiration_time THEN 4 ELSE 0 END
        + CASE WHEN NOT active THEN 8 ELSE 0 END        AS bits
    FROM known
    WHERE position NOT IN (SELECT position FROM again)
),
limited AS (
    SELECT
        perhaps_above.position, perhaps_above.redeemed_at, perhaps_above.number,
        CASE WHEN perhaps_above.has_coupon THEN perhaps_above.usage_limit ELSE known.usage_limit END
                                                        AS allowed
    FROM perhaps_above
    LEFT JOIN known ON known.position = perhaps_above.position
),
-- No other event can come after a deletion, be it by time or by sequence.
perhaps_deleted AS (
    SELECT facts.position, facts.coupon_key, facts.event_id, facts.event_time, facts.sequence
    FROM facts
    JOIN coupon_signs ON coupon_signs.coupon_key = facts.coupon_key
    WHERE
        (
            coupon_signs.told_last >= coupon_signs.deleted_first
            OR coupon_signs.told_sequence >= coupon_signs.deleted_sequence
        )
        AND facts.type IN ('coupon.updated', 'coupon.applied', 'coupon.observed')
        AND (facts.event_time >= coupon_signs.deleted_first OR facts.sequence >= coupon_signs.deleted_sequence)
        AND (CAST($site AS VARCHAR) IS NULL OR facts.site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR facts.event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR facts.event_time < CAST($until AS TIMESTAMPTZ))
),
-- include: after-deletion
-- Events whose sequence and time say opposite things of which came first, beside any other of the same entity. Where that is
-- so, it is so of two that stand next to each other by sequence: few coupons have such, and none where they arrived in order.
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
            sequence IS NOT NULL
            AND coupon_key IN (SELECT coupon_key FROM coupon_signs WHERE NOT in_order)
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
listed (code, position, event_time, number, allowed, moment, one, all_others) AS (
    SELECT wanted.code, facts.position, facts.event_time, NULL, NULL, CAST(NULL AS TIMESTAMPTZ), 0, wanted.found
    FROM facts
    JOIN wanted ON wanted.piece = facts.position - facts.position % 16384 AND wanted.oddities = facts.oddities
    LEFT JOIN again ON again.position = facts.position
    WHERE
        facts.position >= (SELECT min(piece) FROM wanted)
        AND ((wanted.bit & 14) = 0 OR again.position IS NULL)
        AND (CAST($site AS VARCHAR) IS NULL OR facts.site_id = $site)
    UNION ALL
    SELECT 'sequence_disagrees_with_time', position, event_time, NULL, NULL, NULL, 1, 0
    FROM sequenced
    WHERE latest_below > event_time OR earliest_above < event_time
    UNION ALL
    SELECT 'reported_again', position, event_time, NULL, NULL, redeemed_at, 1, 0 FROM again
    UNION ALL
    SELECT 'after_deletion', position, event_time, NULL, NULL, deleted_at, 1, 0
    FROM after_deletion
    WHERE position NOT IN (SELECT position FROM again)
    UNION ALL
    SELECT 'over_limit', position, redeemed_at, number, allowed, NULL, 1, 0 FROM limited WHERE number > allowed
    UNION ALL
    SELECT
        codes.code, bare_uses.position, bare_uses.event_time, NULL, NULL,
        CASE codes.bit WHEN 2 THEN bare_uses.start_time WHEN 4 THEN bare_uses.expiration_time END, 1, 0
    FROM bare_uses
    JOIN codes ON (bare_uses.bits & codes.bit) <> 0
),
counted AS (
    SELECT
        code, position, number, allowed, moment,
        row_number() OVER (PARTITION BY code ORDER BY position DESC)
                                                        AS place,
        sum(one) OVER (PARTITION BY code) + max(all_others) OVER (PARTITION BY code)
                                                        AS found
    FROM listed
    WHERE
        (CAST($code AS VARCHAR) IS NULL OR code = $code)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
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
            'used before ',
            strftime(coalesce(counted.moment, facts.start_time), '%Y-%m-%d %H:%M:%S'),
            ' UTC, when it begins'
        )
        WHEN 'used_after_expiration' THEN concat(
            'used after it expired at ',
            strftime(coalesce(counted.moment, facts.expiration_time), '%Y-%m-%d %H:%M:%S'), ' UTC'
        )
        WHEN 'used_while_inactive' THEN 'used while it was switched off'
    END                                                 AS what,
    CAST(counted.found AS BIGINT)                       AS found
FROM counted
JOIN facts ON facts.position = counted.position
LEFT JOIN coupons ON coupons.coupon_key = facts.coupon_key
WHERE CAST($limit AS BIGINT) IS NULL OR counted.place <= $limit
ORDER BY counted.position DESC, counted.code
