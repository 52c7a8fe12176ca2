-- report: limit-breaches
-- title: Limit breaches
-- group: checks
-- question: Which coupons were used more often than their usage limit allowed, from which use on, and how often?
-- parameter: site   text       null  Only this site; null: every site.
-- parameter: since  timestamp  null  Only uses above the limit at or after this time; null: from the beginning.
-- parameter: until  timestamp  null  Only uses above the limit before this time; null: to the end.
-- column: site_id           text     The site (Wix app instance) that the coupon belongs to.
-- column: coupon_id         text     Wix's id of the coupon.
-- column: code              text     What the customer types, now.
-- column: name              text     The coupon's name in the dashboard now.
-- column: uses_above        uses     Uses that were above the limit which the coupon had at that time.
-- column: first_above_at    time     When the first of them happened.
-- column: first_above_use   uses     Which use of the coupon that was, counted from 1 in order of time.
-- column: limit_then        uses     The limit that it was above.
-- column: first_above_order text     Its order; for a use reported without one, event: and the event's id.
-- column: last_above_at     time     When the last of them happened.
-- column: times_used        uses     All uses of the coupon, whenever they happened: an order counts once.
-- column: usage_limit       uses     The limit now: it may have been raised since; null: no limit now.
-- column: reported_usages   uses     Wix's own counter in the latest snapshot.
-- column: deleted           boolean  Whether the coupon is deleted now.
-- table: code, name, limit_then, times_used, uses_above, first_above_at, first_above_order, last_above_at, usage_limit

-- The limit of a use is what its own event says, else the latest that any event said before: by sequence among those that carry
-- one, by time otherwise, then by event id. The history of a coupon (eventstore/projections/history.py) finds the same; a test
-- compares the two.
WITH
-- include: exceeded
-- The uses that were above the least limit that the coupon ever had: only they can have been above the one it had then.
numbered AS (
    SELECT
        redemptions.coupon_key, redemptions.event_key, redemptions.order_id, redemptions.redeemed_at, exceeded.least,
        row_number() OVER (PARTITION BY redemptions.coupon_key ORDER BY redemptions.redeemed_at, redemptions.event_id)
                                                        AS number
    FROM exceeded
    JOIN redemptions ON redemptions.coupon_key = exceeded.coupon_key
),
perhaps_above AS (
    SELECT
        facts.position, numbered.coupon_key, facts.has_coupon, facts.usage_limit,
        numbered.order_id, numbered.redeemed_at, numbered.number
    FROM numbered
    JOIN facts ON facts.event_key = numbered.event_key
    WHERE numbered.number > numbered.least
),
bare_coupons AS (
    SELECT DISTINCT coupon_key
    FROM perhaps_above
    WHERE NOT has_coupon
),
-- include: told-before-uses
limited AS (
    SELECT
        perhaps_above.coupon_key, perhaps_above.order_id, perhaps_above.redeemed_at, perhaps_above.number,
        CASE WHEN perhaps_above.has_coupon THEN perhaps_above.usage_limit ELSE known.usage_limit END
                                                        AS limit_then
    FROM perhaps_above
    LEFT JOIN known ON known.position = perhaps_above.position
),
breaches AS (
    SELECT
        coupon_key,
        count(*)                                        AS uses_above,
        min(redeemed_at)                                AS first_above_at,
        min(number)                                     AS first_above_use,
        arg_min(limit_then, number)                     AS limit_then,
        arg_min(order_id, number)                       AS first_above_order,
        max(redeemed_at)                                AS last_above_at
    FROM limited
    WHERE
        number > limit_then
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redeemed_at < CAST($until AS TIMESTAMPTZ))
    GROUP BY coupon_key
)
SELECT
    coupons.site_id                                     AS site_id,
    coupons.coupon_id                                   AS coupon_id,
    coupons.code                                        AS code,
    coupons.name                                        AS name,
    uses_above,
    first_above_at,
    first_above_use,
    limit_then,
    first_above_order,
    last_above_at,
    coupon_usage.times_used                             AS times_used,
    coupons.usage_limit                                 AS usage_limit,
    coupons.reported_usages                             AS reported_usages,
    coupons.deleted                                     AS deleted
FROM breaches
JOIN coupons ON coupons.coupon_key = breaches.coupon_key
JOIN coupon_usage ON coupon_usage.coupon_key = breaches.coupon_key
ORDER BY uses_above DESC, code NULLS LAST, coupons.site_id, coupons.coupon_id
