-- uses_by_day: uses of coupons by UTC day and discount type.
-- Parameters: site (text or null), since and until (timestamp or null).
WITH per_coupon AS (
    -- First made few, then joined.
    SELECT
        site_id,
        coupon_id,
        CAST(redeemed_at AS DATE)       AS day,
        count(*)                        AS uses
    FROM redemptions
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redeemed_at < CAST($until AS TIMESTAMPTZ))
    GROUP BY site_id, coupon_id, CAST(redeemed_at AS DATE)
)
SELECT
    per_coupon.day                                  AS day,
    coalesce(coupons.discount_type, 'UNKNOWN')      AS discount_type,
    CAST(sum(per_coupon.uses) AS BIGINT)            AS uses
FROM per_coupon
LEFT JOIN coupons
    ON coupons.site_id = per_coupon.site_id AND coupons.coupon_id = per_coupon.coupon_id
GROUP BY per_coupon.day, coalesce(coupons.discount_type, 'UNKNOWN')
ORDER BY day, discount_type
