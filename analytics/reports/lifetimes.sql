-- report: lifetimes
-- title: Lifetimes
-- group: coupons
-- question: How long did each coupon live, and how long did it take until it was first used?
-- parameter: site   text       null  Only this site; null: every site.
-- parameter: since  timestamp  null  Only coupons made at or after this time; null: from the beginning, and where it is not known.
-- parameter: until  timestamp  null  Only coupons made before this time; null: to the end.
-- parameter: at     timestamp  null  The moment that living coupons have lived to, by what is known today; null: now.
-- column: site_id              text     The site (Wix app instance) that the coupon belongs to.
-- column: coupon_id            text     Wix's id of the coupon.
-- column: code                 text     What the customer types.
-- column: name                 text     The coupon's name in the dashboard.
-- column: discount_type        text     MONEY_OFF, PERCENT_OFF, FREE_SHIPPING, FIXED_PRICE, BUY_X_GET_Y or UNKNOWN.
-- column: created_at           time     When Wix says it was made, else when its first creation happened; null: not known.
-- column: first_used_at        time     Its earliest use; null: never used.
-- column: last_used_at         time     Its latest use; null: never used.
-- column: times_used           uses     Orders that used it: an order counts once, however often it was reported.
-- column: days_to_first_use    days     From creation to first use; null: never used, or not known. Negative: used before it.
-- column: seconds_to_first_use seconds  The same to the microsecond.
-- column: ended_at             time     Its deletion or its end, whichever came first; null: it lives, or not known.
-- column: ended_by             text     deletion or expiration; null: it lives.
-- column: lifetime_days        days     From creation to that end, or to now; null: not known.
-- table: code, name, created_at, first_used_at, days_to_first_use, times_used, ended_at, ended_by, lifetime_days

WITH undated AS (
    SELECT coupon_key
    FROM coupons
    WHERE created_at IS NULL
),
creations AS (
    -- Wix says of nearly every coupon when it was made: the log is asked about the rest alone.
    SELECT facts.coupon_key, min(facts.event_time) AS created_at
    FROM facts
    JOIN undated ON undated.coupon_key = facts.coupon_key
    WHERE facts.type = 'coupon.created'
    GROUP BY facts.coupon_key
),
moment AS (
    SELECT coalesce(CAST($at AS TIMESTAMPTZ), now()) AS instant
),
lives AS (
    SELECT
        coupons.site_id,
        coupons.coupon_id,
        coupons.code,
        coupons.name,
        -- A coupon known by a deletion alone has no snapshot, and so no type.
        coalesce(coupons.discount_type, 'UNKNOWN')      AS discount_type,
        coalesce(coupons.created_at, creations.created_at)
                                                        AS created_at,
        coupon_usage.first_used_at,
        coupon_usage.last_used_at,
        coalesce(coupon_usage.times_used, 0)            AS times_used,
        moment.instant,
        -- What Wix calls expired is, whatever our clock says: when, may then be unknown.
        coalesce(coupons.expired, false) OR coalesce(coupons.expiration_time <= moment.instant, false)
                                                        AS is_expired,
        coupons.expiration_time,
        coupons.deleted,
        coupons.deleted_at
    FROM coupons
    CROSS JOIN moment
    LEFT JOIN creations ON creations.coupon_key = coupons.coupon_key
    LEFT JOIN coupon_usage ON coupon_usage.coupon_key = coupons.coupon_key
    WHERE CAST($site AS VARCHAR) IS NULL OR coupons.site_id = $site
),
ended AS (
    SELECT
        *,
        CASE
            WHEN deleted AND NOT coalesce(is_expired AND expiration_time < deleted_at, false) THEN 'deletion'
            WHEN is_expired THEN 'expiration'
        END                                             AS ended_by
    FROM lives
),
timed AS (
    SELECT
        *,
        CASE
            WHEN ended_by = 'deletion' THEN deleted_at
            WHEN ended_by = 'expiration' THEN expiration_time
        END                                             AS ended_at
    FROM ended
)
SELECT
    site_id,
    coupon_id,
    code,
    name,
    discount_type,
    created_at,
    first_used_at,
    last_used_at,
    times_used,
    CAST(round((epoch_us(first_used_at) - epoch_us(created_at)) / 86400000000.0, 2) AS DECIMAL(18, 2))
                                                        AS days_to_first_use,
    CAST((epoch_us(first_used_at) - epoch_us(created_at)) * 0.000001 AS DECIMAL(18, 6))
                                                        AS seconds_to_first_use,
    ended_at,
    ended_by,
    CASE
        WHEN ended_by IS NULL OR ended_at IS NOT NULL
        THEN CAST(round((epoch_us(coalesce(ended_at, instant)) - epoch_us(created_at)) / 86400000000.0, 2) AS DECIMAL(18, 2))
    END                                                 AS lifetime_days
FROM timed
WHERE
    (CAST($since AS TIMESTAMPTZ) IS NULL OR created_at >= CAST($since AS TIMESTAMPTZ))
    AND (CAST($until AS TIMESTAMPTZ) IS NULL OR created_at < CAST($until AS TIMESTAMPTZ))
ORDER BY created_at NULLS LAST, code NULLS LAST, site_id, coupon_id
