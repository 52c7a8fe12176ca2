-- report: usage-per-app
-- title: Usage per app
-- group: usage
-- question: In which Wix apps were the orders made that used coupons?
-- parameter: site   text       null  Only this site; null: every site.
-- parameter: since  timestamp  null  Only uses at or after this time; null: from the beginning.
-- parameter: until  timestamp  null  Only uses before this time; null: to the end.
-- column: app_id         text     Wix's id of the app, as the first report of the use tells it; '' where none was reported.
-- column: app            text     Stores, Bookings, Events or Loyalty; null: an app that this report does not know, or none.
-- column: times_used     uses     Orders that used a coupon: an order counts once for each coupon, however often it was reported.
-- column: coupons_used   coupons  Different coupons that they used.
-- column: share_of_uses  percent  Of all uses, those in this app.
-- column: first_used_at  time     The earliest of these uses.
-- column: last_used_at   time     The latest of these uses.

WITH per_coupon AS (
    SELECT
        coalesce(app_id, '')                            AS app_id,
        coupon_key,
        count(*)                                        AS times_used,
        min(redeemed_at)                                AS first_used_at,
        max(redeemed_at)                                AS last_used_at
    FROM redemptions
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redeemed_at < CAST($until AS TIMESTAMPTZ))
    GROUP BY coalesce(app_id, ''), coupon_key
),
per_app AS (
    SELECT
        app_id,
        CAST(sum(times_used) AS BIGINT)                 AS times_used,
        count(*)                                        AS coupons_used,
        min(first_used_at)                              AS first_used_at,
        max(last_used_at)                               AS last_used_at
    FROM per_coupon
    GROUP BY app_id
)
SELECT
    app_id,
    -- The ids that Wix documents.
    CASE app_id
        WHEN '1380b703-ce81-ff05-f115-39571d94dfcd' THEN 'Stores'
        WHEN '215238eb-22a5-4c36-9e7b-e7c08025e04e' THEN 'Stores'
        WHEN '13d21c63-b5ec-5912-8397-c3a5ddb27a97' THEN 'Bookings'
        WHEN '140603ad-af8d-84a5-2c80-a0f60cb47351' THEN 'Events'
        WHEN '553c79f3-5625-4f38-b14b-ef7c0d1e87df' THEN 'Loyalty'
    END                                                 AS app,
    times_used,
    coupons_used,
    CAST(round(100.0 * times_used / sum(times_used) OVER (), 1) AS DECIMAL(4, 1))
                                                        AS share_of_uses,
    first_used_at,
    last_used_at
FROM per_app
ORDER BY times_used DESC, app_id
