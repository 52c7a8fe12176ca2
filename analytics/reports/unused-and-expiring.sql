-- report: unused-and-expiring
-- title: Never used and expiring
-- group: coupons
-- question: Which coupons that could be used today have never been used and end within some days?
-- parameter: site  text       null  Only this site; null: every site.
-- parameter: days  count      14    Only coupons that end within so many days of 24 hours from that moment.
-- parameter: at    timestamp  null  The moment that is looked from, by what is known today; null: now.
-- column: site_id          text     The site (Wix app instance) that the coupon belongs to.
-- column: coupon_id        text     Wix's id of the coupon.
-- column: code             text     What the customer types.
-- column: name             text     The coupon's name in the dashboard.
-- column: status           text     active, or scheduled: it has not begun yet.
-- column: discount_type    text     MONEY_OFF, PERCENT_OFF, FREE_SHIPPING, FIXED_PRICE, BUY_X_GET_Y or UNKNOWN.
-- column: discount_value   amount   Money, or a percentage for PERCENT_OFF; null for types without a value.
-- column: usage_limit      uses     Uses allowed in all; null: no limit.
-- column: created_at       time     When Wix says it was made; null: not told.
-- column: start_time       time     When it begins; null: not told.
-- column: expiration_time  time     When it ends.
-- column: days_left        days     From that moment to its end.
-- table: code, name, status, discount_type, discount_value, usage_limit, expiration_time, days_left

WITH moment AS (
    SELECT coalesce(CAST($at AS TIMESTAMPTZ), now()) AS instant
),
judged AS (
    SELECT
        coupons.*,
        moment.instant                                       AS instant,
        -- As eventstore/projections/status.sql says; that of a coupon without uses.
        CASE
            WHEN deleted THEN 'deleted'
            WHEN snapshot_event_id IS NULL THEN 'unknown'
            WHEN NOT active THEN 'inactive'
            WHEN expired OR expiration_time <= moment.instant THEN 'expired'
            WHEN start_time > moment.instant THEN 'scheduled'
            WHEN active THEN 'active'
            ELSE 'unknown'
        END                                             AS status
    FROM coupons
    CROSS JOIN moment
    LEFT JOIN coupon_usage
        ON coupon_usage.site_id = coupons.site_id AND coupon_usage.coupon_id = coupons.coupon_id
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR coupons.site_id = $site)
        AND coupons.expiration_time > moment.instant
        AND epoch_us(coupons.expiration_time) - epoch_us(moment.instant) <= CAST($days AS DECIMAL(19, 0)) * 86400000000
        -- Neither by our count nor by Wix's own, which knows of uses before the store's first day.
        AND coupon_usage.times_used IS NULL
        AND coalesce(coupons.reported_usages, 0) <= 0
)
SELECT
    site_id,
    coupon_id,
    code,
    name,
    status,
    discount_type,
    discount_value,
    usage_limit,
    created_at,
    start_time,
    expiration_time,
    CAST(round((epoch_us(expiration_time) - epoch_us(instant)) / 86400000000.0, 2) AS DECIMAL(18, 2))
                                                        AS days_left
FROM judged
WHERE status IN ('active', 'scheduled')
ORDER BY expiration_time, code NULLS LAST, site_id, coupon_id
