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
    -- Of all times the projection has counted already: the uses themselves are read for a span of time alone.
    SELECT coupon_key, times_used, first_used_at, last_used_at
    FROM coupon_usage
    WHERE CAST($since AS TIMESTAMPTZ) IS NULL AND CAST($until AS TIMESTAMPTZ) IS NULL
    UNION ALL
    SELECT coupon_key, count(*), min(redeemed_at), max(redeemed_at)
    FROM redemptions
    WHERE
        (CAST($since AS TIMESTAMPTZ) IS NOT NULL OR CAST($until AS TIMESTAMPTZ) IS NOT NULL)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redeemed_at < CAST($until AS TIMESTAMPTZ))
    GROUP BY coupon_key
),
counted AS (
    SELECT
        coupons.coupon_key,
        coupons.site_id,
        coupons.coupon_id,
        coupons.code,
        coupons.name,
        coupons.discount_type,
        coupons.discount_value,
        coupons.reported_usages,
        coupons.usage_limit,
        coupons.deleted,
        coupons.deleted_at,
        coupons.restored_at,
        coalesce(uses.times_used, 0)                    AS times_used,
        uses.first_used_at,
        uses.last_used_at
    FROM coupons
    -- From the coupons' side, so that those never used are listed, with 0.
    LEFT JOIN uses ON uses.coupon_key = coupons.coupon_key
    WHERE CAST($site AS VARCHAR) IS NULL OR coupons.site_id = $site
),
after_deletion AS (
    -- Few coupons have any: a deleted one takes no more orders, but for those under way.
    SELECT counted.coupon_key, count(*) AS uses
    FROM redemptions
    JOIN counted ON counted.coupon_key = redemptions.coupon_key
    WHERE
        counted.last_used_at > counted.deleted_at
        AND redemptions.redeemed_at > counted.deleted_at
        AND (counted.restored_at IS NULL OR redemptions.redeemed_at < counted.restored_at)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR redemptions.redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redemptions.redeemed_at < CAST($until AS TIMESTAMPTZ))
    GROUP BY counted.coupon_key
)
SELECT
    counted.site_id                                     AS site_id,
    counted.coupon_id                                   AS coupon_id,
    counted.code                                        AS code,
    counted.name                                        AS name,
    -- A coupon known by a deletion alone has no snapshot, and so no type.
    coalesce(counted.discount_type, 'UNKNOWN')          AS discount_type,
    counted.discount_value                              AS discount_value,
    counted.times_used                                  AS times_used,
    -- Wix counts from the coupon's first day on: against a span of time its counter says nothing.
    CASE WHEN CAST($since AS TIMESTAMPTZ) IS NULL AND CAST($until AS TIMESTAMPTZ) IS NULL THEN counted.reported_usages END
                                                        AS reported_usages,
    CASE
        WHEN CAST($since AS TIMESTAMPTZ) IS NULL AND CAST($until AS TIMESTAMPTZ) IS NULL
        THEN counted.times_used - counted.reported_usages
    END                                                 AS difference,
    counted.first_used_at                               AS first_used_at,
    counted.last_used_at                                AS last_used_at,
    coalesce(after_deletion.uses, 0)                    AS uses_after_deletion,
    counted.usage_limit                                 AS usage_limit,
    counted.deleted                                     AS deleted
FROM counted
LEFT JOIN after_deletion ON after_deletion.coupon_key = counted.coupon_key
ORDER BY times_used DESC, code NULLS LAST, site_id, coupon_id
