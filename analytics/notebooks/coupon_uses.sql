-- coupon_uses: the running total of a coupon's uses: each of them, or, of a thousand and more, each UTC day's last.
-- Parameters: site, coupon (text).
WITH uses AS (
    SELECT
        redeemed_at,
        row_number() OVER (ORDER BY redeemed_at, order_id)      AS uses,
        count(*) OVER ()                                        AS in_all
    FROM redemptions
    WHERE site_id = $site AND coupon_id = $coupon
)
SELECT redeemed_at, uses
FROM uses
QUALIFY
    in_all < 1000
    OR row_number() OVER (PARTITION BY CAST(redeemed_at AS DATE) ORDER BY uses DESC) = 1
ORDER BY redeemed_at, uses
