-- report: usage-per-coupon
-- title: Usage per coupon
-- group: usage
-- question: How often was each coupon used, and does that agree with what Wix counted?
-- parameter: site   text       null  Only this site; null: every site.
-- parameter: since  timestamp  null  Only uses at or after this time; null: from the beginning.
-- parameter: until  timestamp  null  Only uses before this time; null: to the end.
-- column: site_id              text     The site (Wix app instance) that the coupon belongs to.
-- column: coupon_id            text     Wix's id of the coupon.
-- column: code                 text     What the customer types.
-- column: name                 text     The coupon's name in the dashboard.
-- column: discount_type        text     MONEY_OFF, PERCENT_OFF, FREE_SHIPPING, FIXED_PRICE, BUY_X_GET_Y or UNKNOWN.
-- column: discount_value       amount   Money, or a percentage for PERCENT_OFF; null for types without a value.
-- column: times_used           uses     Orders that used it: an order counts once, however often it was reported.
-- column: reported_usages      uses     Wix's own counter in the latest snapshot; null within since or until.
-- column: difference           uses     times_used less reported_usages: negative where Wix knows of more uses.
-- column: first_used_at        time     The earliest of these uses.
-- column: last_used_at         time     The latest of these uses.
-- column: uses_after_deletion  uses     Those after the coupon's last deletion and before a restoration.
-- column: usage_limit          uses     Uses allowed in all; null: no limit.
-- column: deleted              boolean  Whether the coupon is deleted now.
-- table: code, discount_type, discount_value, times_used, reported_usages, difference, last_used_at, uses_after_deletion

WITH uses AS (
    SELECT site_id, coupon_id, redeemed_at
    FROM redemptions
    WHERE
        (CAST($since AS TIMESTAMPTZ) IS NULL OR redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redeemed_at < CAST($until AS TIMESTAMPTZ))
)
SELECT
    coupons.site_id                                     AS site_id,
    coupons.coupon_id                                   AS coupon_id,
    coupons.code                                        AS code,
    coupons.name                                        AS name,
    -- A coupon known by a deletion alone has no snapshot, and so no type.
    coalesce(coupons.discount_type, 'UNKNOWN')          AS discount_type,
    coupons.discount_value                              AS discount_value,
    count(uses.redeemed_at)                             AS times_used,
    -- Wix counts from the coupon's first day on: against a span of time its counter says nothing.
    CASE WHEN $since IS NULL AND $until IS NULL THEN coupons.reported_usages END
                                                        AS reported_usages,
    CASE WHEN $since IS NULL AND $until IS NULL THEN count(uses.redeemed_at) - coupons.reported_usages END
                                                        AS difference,
    min(uses.redeemed_at)                               AS first_used_at,
    max(uses.redeemed_at)                               AS last_used_at,
    count(*) FILTER (
        uses.redeemed_at > coupons.deleted_at
        AND (coupons.restored_at IS NULL OR uses.redeemed_at < coupons.restored_at)
    )                                                   AS uses_after_deletion,
    coupons.usage_limit                                 AS usage_limit,
    coupons.deleted                                     AS deleted
FROM coupons
-- From the coupons' side, so that those never used are listed, with 0.
LEFT JOIN uses
    ON uses.site_id = coupons.site_id AND uses.coupon_id = coupons.coupon_id
WHERE CAST($site AS VARCHAR) IS NULL OR coupons.site_id = $site
GROUP BY
    coupons.site_id, coupons.coupon_id, coupons.code, coupons.name, coupons.discount_type, coupons.discount_value,
    coupons.reported_usages, coupons.usage_limit, coupons.deleted, coupons.deleted_at, coupons.restored_at
ORDER BY times_used DESC, code NULLS LAST, site_id, coupon_id
