-- projection: coupon_usage
-- version: 1
-- from: redemptions (redeemed_at, app_id)
-- key: site_id, coupon_id
-- about: How often, when and in which app every coupon was used, by our own count of its redemptions.
-- column: site_id        text       the site (Wix app instance) that the coupon belongs to
-- column: coupon_id      text       Wix's id of the coupon
-- column: times_used     bigint     redemptions: an order counts once, however often it was reported
-- column: first_used_at  timestamp  the earliest redemption
-- column: last_used_at   timestamp  the latest redemption
-- column: by_app         json       redemptions by app id; '' where no app was reported

-- [lift]
WITH per_app AS (
    SELECT
        site_id,
        coupon_id,
        coalesce(app_id, '')    AS app_id,
        count(*)                AS times_used,
        min(redeemed_at)        AS first_used_at,
        max(redeemed_at)        AS last_used_at
    FROM redemptions
    GROUP BY site_id, coupon_id, coalesce(app_id, '')
)
SELECT
    site_id,
    coupon_id,
    CAST(sum(times_used) AS BIGINT)                                                             AS times_used,
    min(first_used_at)                                                                          AS first_used_at,
    max(last_used_at)                                                                           AS last_used_at,
    map_from_entries(list({'app_id': app_id, 'times_used': times_used} ORDER BY app_id))        AS by_app
FROM per_app
GROUP BY site_id, coupon_id

-- [merge]
WITH totals AS (
    SELECT
        site_id,
        coupon_id,
        CAST(sum(times_used) AS BIGINT)     AS times_used,
        min(first_used_at)                  AS first_used_at,
        max(last_used_at)                   AS last_used_at
    FROM partial
    GROUP BY site_id, coupon_id
),
entries AS (
    SELECT site_id, coupon_id, unnest(map_entries(by_app)) AS entry
    FROM partial
),
apps AS (
    SELECT site_id, coupon_id, entry.key AS app_id, CAST(sum(entry.value) AS BIGINT) AS times_used
    FROM entries
    GROUP BY site_id, coupon_id, entry.key
),
maps AS (
    SELECT
        site_id,
        coupon_id,
        map_from_entries(list({'app_id': app_id, 'times_used': times_used} ORDER BY app_id)) AS by_app
    FROM apps
    GROUP BY site_id, coupon_id
)
SELECT site_id, coupon_id, times_used, first_used_at, last_used_at, by_app
FROM totals
JOIN maps USING (site_id, coupon_id)
