-- totals: the numbers at the head of the dashboard, one row.
-- Parameters: site (text or null), since and until (timestamp), before (timestamp): where the span of equal length before begins.
WITH uses AS (
    SELECT
        count(*) FILTER (WHERE redeemed_at >= CAST($since AS TIMESTAMPTZ))     AS now,
        count(*) FILTER (WHERE redeemed_at < CAST($since AS TIMESTAMPTZ))      AS earlier
    FROM redemptions
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND redeemed_at >= CAST($before AS TIMESTAMPTZ)
        AND redeemed_at < CAST($until AS TIMESTAMPTZ)
),
known AS (
    SELECT
        count(*)                                                                AS coupons,
        -- As its dashboard at Wix shows it today.
        count(*) FILTER (
            WHERE NOT deleted AND coalesce(active, true)
            AND (start_time IS NULL OR start_time <= now())
            AND (expiration_time IS NULL OR expiration_time > now())
        )                                                                       AS live
    FROM coupons
    WHERE CAST($site AS VARCHAR) IS NULL OR site_id = $site
)
SELECT uses.now AS uses, uses.earlier AS uses_before, known.coupons AS coupons, known.live AS live
FROM uses
CROSS JOIN known
