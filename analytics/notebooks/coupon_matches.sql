-- coupon_matches: the coupons that have a code, in any case, or an id; several may have had one code. The latest first.
-- Parameters: asked (text), site (text or null).
SELECT
    coupons.*,
    coalesce(coupon_usage.times_used, 0)        AS times_used,
    coupon_usage.first_used_at                  AS first_used_at,
    coupon_usage.last_used_at                   AS last_used_at
FROM coupons
LEFT JOIN coupon_usage
    ON coupon_usage.site_id = coupons.site_id AND coupon_usage.coupon_id = coupons.coupon_id
WHERE
    (lower(coupons.code) = lower($asked) OR coupons.coupon_id = $asked)
    AND (CAST($site AS VARCHAR) IS NULL OR coupons.site_id = $site)
ORDER BY coupons.last_event_time DESC, coupons.site_id, coupons.coupon_id
