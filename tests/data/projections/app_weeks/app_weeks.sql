-- projection: app_weeks
-- version: 1
-- from: redemptions (redeemed_at, app_id)
-- key: site_id, week, app
-- about: How often coupons were used in every app of a site, week by week.
-- column: site_id     text       the site (Wix app instance)
-- column: week        text       the Monday that the week begins with, in UTC: 2026-09-07
-- column: app         text       Wix's id of the app; '' where none was reported
-- column: times_used  bigint     redemptions in that week: an order counts once, however often it was reported
-- column: last_at     timestamp  the latest redemption in that week

-- Made of the redemptions, not of the facts: Wix reports an order twice, and of two events of one order, in two weeks perhaps,
-- no query over a week's facts can tell which is the first.

-- [lift]
SELECT
    site_id,
    strftime(date_trunc('week', redeemed_at), '%Y-%m-%d')   AS week,
    coalesce(app_id, '')                                    AS app,
    count(*)                                                AS times_used,
    max(redeemed_at)                                        AS last_at
FROM redemptions
GROUP BY ALL

-- [merge]
SELECT
    site_id,
    week,
    app,
    CAST(sum(times_used) AS BIGINT)                         AS times_used,
    max(last_at)                                            AS last_at
FROM partial
GROUP BY site_id, week, app
