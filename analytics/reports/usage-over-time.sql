-- report: usage-over-time
-- title: Usage over time
-- group: usage
-- question: How often were coupons used each day, week or month?
-- parameter: per            day|week|month  day   How long a period is; weeks begin on Monday (ISO 8601).
-- parameter: tz             zone            UTC   The time zone whose days they are, with its summer time.
-- parameter: discount_type  MONEY_OFF|PERCENT_OFF|FREE_SHIPPING|FIXED_PRICE|BUY_X_GET_Y|UNKNOWN  null  Only coupons that are of this type now; null: every type.
-- parameter: site           text            null  Only this site; null: every site.
-- parameter: since          timestamp       null  Only uses at or after this time; null: from the beginning.
-- parameter: until          timestamp       null  Only uses before this time; null: to the end.
-- column: begins         date     The first day of the period; all from the first with a use to the last, but for gaps over 1,000.
-- column: times_used     uses     Orders that used a coupon: an order counts once, when it was first reported.
-- column: coupons_used   coupons  Different coupons that were used.
-- column: first_used     coupons  Those of them that had never been used before.
-- column: running_total  uses     times_used of this period and all before it in this answer.

WITH quarters AS (
    -- What lies in the same quarter of an hour lies in the same day of every zone: since the end of 2011 days begin, and clocks
    -- are put forward or back over midnight, at quarters alone. So the zone is asked about thousands of times, not millions.
    -- Counted from year 1, for // cuts toward zero.
    SELECT
        (epoch_us(redeemed_at) + 62135596800000000) // 900000000 AS quarter,
        min(redeemed_at)                                AS told_at
    FROM redemptions
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redeemed_at < CAST($until AS TIMESTAMPTZ))
    GROUP BY (epoch_us(redeemed_at) + 62135596800000000) // 900000000
),
days AS (
    SELECT
        quarter,
        -- At both ends of the calendar a zone may be in a year that is none.
        least(
            greatest(CAST(told_at AT TIME ZONE CAST($tz AS VARCHAR) AS DATE), DATE '0001-01-01'), DATE '9999-12-31'
        )                                               AS day
    FROM quarters
),
periods AS (
    SELECT
        quarter,
        CASE $per
            WHEN 'week' THEN CAST(date_trunc('week', day) AS DATE)
            WHEN 'month' THEN CAST(date_trunc('month', day) AS DATE)
            ELSE day
        END                                             AS begins
    FROM days
),
typed AS (
    -- Empty where every type is asked for: to look each use's coupon up takes as long as all the rest.
    SELECT coupon_key
    FROM coupons
    WHERE
        CAST($discount_type AS VARCHAR) IS NOT NULL
        -- A coupon known by a deletion alone has no snapshot, and so no type.
        AND coalesce(discount_type, 'UNKNOWN') = $discount_type
),
per_coupon AS (
    SELECT periods.begins, redemptions.coupon_key, count(*) AS times_used
    FROM redemptions
    JOIN periods
        ON periods.quarter = (epoch_us(redemptions.redeemed_at) + 62135596800000000) // 900000000
    WHERE
        CAST($discount_type AS VARCHAR) IS NULL
        AND (CAST($site AS VARCHAR) IS NULL OR redemptions.site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR redemptions.redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redemptions.redeemed_at < CAST($until AS TIMESTAMPTZ))
    GROUP BY periods.begins, redemptions.coupon_key
    UNION ALL
    SELECT periods.begins, redemptions.coupon_key, count(*)
    FROM redemptions
    JOIN typed ON typed.coupon_key = redemptions.coupon_key
    JOIN periods
        ON periods.quarter = (epoch_us(redemptions.redeemed_at) + 62135596800000000) // 900000000
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR redemptions.site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR redemptions.redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redemptions.redeemed_at < CAST($until AS TIMESTAMPTZ))
    GROUP BY periods.begins, redemptions.coupon_key
),
first_uses AS (
    SELECT (epoch_us(coupon_usage.first_used_at) + 62135596800000000) // 900000000 AS quarter
    FROM coupon_usage
    LEFT JOIN typed ON typed.coupon_key = coupon_usage.coupon_key
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR coupon_usage.site_id = $site)
        AND (CAST($discount_type AS VARCHAR) IS NULL OR typed.coupon_key IS NOT NULL)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR coupon_usage.first_used_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR coupon_usage.first_used_at < CAST($until AS TIMESTAMPTZ))
),
firsts AS (
    SELECT periods.begins, count(*) AS first_used
    FROM first_uses
    JOIN periods ON periods.quarter = first_uses.quarter
    GROUP BY periods.begins
),
used AS (
    SELECT
        begins,
        CAST(sum(times_used) AS BIGINT)                 AS times_used,
        count(*)                                        AS coupons_used
    FROM per_coupon
    GROUP BY begins
),
gaps AS (
    SELECT
        used.begins,
        used.times_used,
        used.coupons_used,
        coalesce(firsts.first_used, 0)                  AS first_used,
        CASE $per
            WHEN 'week' THEN date_diff('day', used.begins, lead(used.begins) OVER (ORDER BY used.begins)) // 7
            WHEN 'month' THEN date_diff('month', used.begins, lead(used.begins) OVER (ORDER BY used.begins))
            ELSE date_diff('day', used.begins, lead(used.begins) OVER (ORDER BY used.begins))
        END                                             AS next
    FROM used
    LEFT JOIN firsts ON firsts.begins = used.begins
),
filled AS (
    -- Each period with uses, and behind it those without. A date that is surely wrong shall not bury the rest under zeros.
    SELECT
        begins,
        times_used,
        coupons_used,
        first_used,
        unnest(range(0, CASE WHEN next BETWEEN 2 AND 1001 THEN next ELSE 1 END)) AS later
    FROM gaps
),
listed AS (
    SELECT
        CASE $per
            WHEN 'week' THEN CAST(begins + later * INTERVAL '7' DAY AS DATE)
            WHEN 'month' THEN CAST(begins + later * INTERVAL '1' MONTH AS DATE)
            ELSE CAST(begins + later * INTERVAL '1' DAY AS DATE)
        END                                             AS begins,
        CASE WHEN later = 0 THEN times_used ELSE 0 END  AS times_used,
        CASE WHEN later = 0 THEN coupons_used ELSE 0 END AS coupons_used,
        CASE WHEN later = 0 THEN first_used ELSE 0 END  AS first_used
    FROM filled
)
SELECT
    begins,
    times_used,
    coupons_used,
    first_used,
    CAST(sum(times_used) OVER (ORDER BY begins) AS BIGINT) AS running_total
FROM listed
ORDER BY begins
