-- report: usage-per-discount-type
-- title: Usage per discount type
-- group: usage
-- question: Which kinds of discount do customers use, and how much?
-- parameter: site   text       null  Only this site; null: every site.
-- parameter: since  timestamp  null  Only uses at or after this time; null: from the beginning.
-- parameter: until  timestamp  null  Only uses before this time; null: to the end.
-- column: discount_type         text     MONEY_OFF, PERCENT_OFF, FREE_SHIPPING, FIXED_PRICE, BUY_X_GET_Y or UNKNOWN.
-- column: coupons               coupons  Coupons of this type, used or not.
-- column: coupons_used          coupons  Those used at least once.
-- column: times_used            uses     Orders that used one: an order counts once, however often it was reported.
-- column: share_of_uses         percent  Of all uses, those of this type; null when there are no uses at all.
-- column: uses_per_used_coupon  average  times_used by coupons_used, on average; null when none was used.
-- column: first_used_at         time     The earliest of these uses.
-- column: last_used_at          time     The latest of these uses.
-- column: uses_after_deletion   uses     Those after a coupon's last deletion and before its restoration.
-- table: discount_type, coupons, coupons_used, times_used, share_of_uses, last_used_at, uses_after_deletion

WITH types (place, discount_type) AS (
    VALUES
        (1, 'MONEY_OFF'),
        (2, 'PERCENT_OFF'),
        (3, 'FREE_SHIPPING'),
        (4, 'FIXED_PRICE'),
        (5, 'BUY_X_GET_Y'),
        (6, 'UNKNOWN')
),
uses AS (
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
        -- A coupon known by a deletion alone has no snapshot, and so no type.
        coalesce(coupons.discount_type, 'UNKNOWN')      AS discount_type,
        coupons.deleted_at,
        coupons.restored_at,
        coalesce(uses.times_used, 0)                    AS times_used,
        uses.first_used_at,
        uses.last_used_at
    FROM coupons
    -- From the coupons' side, so that those never used count too.
    LEFT JOIN uses ON uses.coupon_key = coupons.coupon_key
    WHERE CAST($site AS VARCHAR) IS NULL OR coupons.site_id = $site
),
after_deletion AS (
    -- Few coupons have any: a deleted one takes no more orders, but for those under way.
    SELECT counted.discount_type, count(*) AS uses_after_deletion
    FROM redemptions
    JOIN counted ON counted.coupon_key = redemptions.coupon_key
    WHERE
        counted.last_used_at > counted.deleted_at
        AND redemptions.redeemed_at > counted.deleted_at
        AND (counted.restored_at IS NULL OR redemptions.redeemed_at < counted.restored_at)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR redemptions.redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redemptions.redeemed_at < CAST($until AS TIMESTAMPTZ))
    GROUP BY counted.discount_type
),
per_type AS (
    SELECT
        discount_type,
        count(*)                                        AS coupons,
        count(*) FILTER (times_used > 0)                AS coupons_used,
        CAST(sum(times_used) AS BIGINT)                 AS times_used,
        min(first_used_at)                              AS first_used_at,
        max(last_used_at)                               AS last_used_at
    FROM counted
    GROUP BY discount_type
)
SELECT
    per_type.discount_type                              AS discount_type,
    coupons,
    coupons_used,
    times_used,
    CAST(round(100.0 * times_used / nullif(sum(times_used) OVER (), 0), 1) AS DECIMAL(4, 1))
                                                        AS share_of_uses,
    CAST(round(times_used / nullif(coupons_used, 0), 2) AS DECIMAL(18, 2))
                                                        AS uses_per_used_coupon,
    first_used_at,
    last_used_at,
    coalesce(uses_after_deletion, 0)                    AS uses_after_deletion
FROM per_type
LEFT JOIN types ON types.discount_type = per_type.discount_type
LEFT JOIN after_deletion ON after_deletion.discount_type = per_type.discount_type
ORDER BY types.place NULLS LAST, per_type.discount_type
