-- report: register
-- title: Register as of a time
-- group: coupons
-- question: Which coupons were there at a time, what did they say, what were they good for and how often had they been used?
-- parameter: site      text    null  Only this site; null: every site.
-- parameter: as_of     moment  null  What was true then: of all that had happened by then, whenever it was recorded; null: now.
-- parameter: known_at  moment  null  What was known then: of all that had been recorded by then; null: all that is known today.
-- parameter: at        timestamp  null  The moment that the status is of where neither as_of nor known_at is given; null: now.
-- parameter: status    scheduled|active|expired|inactive|used_up|deleted|unknown  null  Only coupons of this status then; null: all.
-- column: site_id           text     The site (Wix app instance) that the coupon belongs to.
-- column: coupon_id         text     Wix's id of the coupon.
-- column: code              text     What the customer types.
-- column: name              text     The coupon's name in the dashboard.
-- column: status            text     scheduled, active, expired, inactive, used_up, deleted or unknown: what it was good for then.
-- column: discount_type     text     MONEY_OFF, PERCENT_OFF, FREE_SHIPPING, FIXED_PRICE, BUY_X_GET_Y or UNKNOWN.
-- column: discount_value    amount   Money, or a percentage for PERCENT_OFF; null for types without a value.
-- column: scope_namespace   text     stores, bookings, events, pricingPlans …; null: the whole site.
-- column: start_time        time     When it begins.
-- column: expiration_time   time     When it ends; null: no end.
-- column: usage_limit       uses     Uses allowed in all; null: no limit.
-- column: times_used        uses     Orders that had used it by then: an order counts once, however often it was reported.
-- column: reported_usages   uses     Wix's own counter in the latest snapshot then.
-- column: active            boolean  The switch in the dashboard.
-- column: deleted           boolean  Whether it was deleted.
-- column: first_event_time  time     The earliest event of it.
-- column: last_event_time   time     The latest event of it by then.
-- table: code, name, status, discount_type, discount_value, start_time, expiration_time, usage_limit, times_used

WITH uses_then AS (
    -- A use is told by the earliest report of its order. By what was known then that may be a later one: only the log says.
    SELECT site_id, coupon_id, order_id
    FROM redemptions
    WHERE CAST($known_at AS TIMESTAMPTZ) IS NULL AND redeemed_at <= CAST($as_of AS TIMESTAMPTZ)
    UNION ALL
    SELECT DISTINCT site_id, coupon_id, coalesce(order_id, 'event:' || event_id)
    FROM facts
    WHERE
        type = 'coupon.applied'
        AND recorded_at <= CAST($known_at AS TIMESTAMPTZ)
        AND (CAST($as_of AS TIMESTAMPTZ) IS NULL OR event_time <= CAST($as_of AS TIMESTAMPTZ))
),
counted_then AS (
    SELECT site_id, coupon_id, count(*) AS times_used
    FROM uses_then
    GROUP BY site_id, coupon_id
),
told AS (
    -- The register of now is kept, that of another time is computed from the log: of these two one is empty.
    SELECT
        coupons.site_id, coupons.coupon_id, code, name, discount_type, discount_value, scope_namespace, start_time,
        expiration_time, usage_limit, reported_usages, active, expired, deleted, snapshot_event_id, first_event_time,
        last_event_time, coalesce(coupon_usage.times_used, 0) AS times_used
    FROM coupons
    LEFT JOIN coupon_usage ON coupon_usage.coupon_key = coupons.coupon_key
    WHERE CAST($as_of AS TIMESTAMPTZ) IS NULL AND CAST($known_at AS TIMESTAMPTZ) IS NULL
    UNION ALL
    SELECT
        past.site_id, past.coupon_id, code, name, discount_type, discount_value, scope_namespace, start_time,
        expiration_time, usage_limit, reported_usages, active, expired, deleted, snapshot_event_id, first_event_time,
        last_event_time, coalesce(counted_then.times_used, 0)
    FROM register(CAST($as_of AS TIMESTAMPTZ), CAST($known_at AS TIMESTAMPTZ)) AS past
    LEFT JOIN counted_then
        ON counted_then.site_id = past.site_id AND counted_then.coupon_id = past.coupon_id
    WHERE CAST($as_of AS TIMESTAMPTZ) IS NOT NULL OR CAST($known_at AS TIMESTAMPTZ) IS NOT NULL
),
judged AS (
    SELECT
        *,
        coupon_status(
            deleted, snapshot_event_id, active, expired, expiration_time, usage_limit, times_used, reported_usages,
            start_time, coalesce(CAST($as_of AS TIMESTAMPTZ), CAST($known_at AS TIMESTAMPTZ), coalesce(CAST($at AS TIMESTAMPTZ), now()))
        )                                               AS status
    FROM told
    WHERE CAST($site AS VARCHAR) IS NULL OR site_id = $site
)
SELECT
    site_id,
    coupon_id,
    code,
    name,
    status,
    coalesce(discount_type, 'UNKNOWN')                  AS discount_type,
    discount_value,
    scope_namespace,
    start_time,
    expiration_time,
    usage_limit,
    times_used,
    reported_usages,
    active,
    deleted,
    first_event_time,
    last_event_time
FROM judged
WHERE CAST($status AS VARCHAR) IS NULL OR status = $status
ORDER BY code NULLS LAST, site_id, coupon_id
