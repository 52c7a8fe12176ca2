-- Coupons that were used more often than the least limit that they ever had: no others can have a use above the limit then.
exceeded AS (
    SELECT coupon_signs.coupon_key, coupon_signs.least_limit AS least
    FROM coupon_signs
    JOIN coupon_usage ON coupon_usage.coupon_key = coupon_signs.coupon_key
    WHERE
        coupon_usage.times_used > coupon_signs.least_limit
        AND (CAST($site AS VARCHAR) IS NULL OR coupon_signs.site_id = $site)
),
