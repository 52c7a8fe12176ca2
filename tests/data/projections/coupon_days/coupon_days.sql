-- projection: coupon_days
-- version: 1
-- from: facts
-- key: site_id, coupon_id
-- index: site_id, last_day
-- about: On which days something happened to every coupon.
-- column: site_id    text       the site (Wix app instance)
-- column: coupon_id  text       Wix's id of the coupon
-- column: days       json       the UTC days with an event of the coupon, sorted, each once: 2026-09-07
-- column: last_day   text       the last of them
-- column: names      json       the names that its snapshots showed, sorted, each once

-- A set is what it is however often something is put into it: that is why days are listed, and events are not counted.

-- [lift]
SELECT
    f.site_id,
    f.coupon_id,
    list(DISTINCT strftime(f.event_time, '%Y-%m-%d'))               AS days,
    list(DISTINCT json_extract_string(b.payload, '$.coupon.name'))  AS names
FROM facts AS f
JOIN batch AS b USING (position)
WHERE f.coupon_id IS NOT NULL
GROUP BY f.site_id, f.coupon_id

-- [merge]
WITH sets AS (
    SELECT
        site_id,
        coupon_id,
        list_sort(list_distinct(flatten(list(days))))   AS days,
        list_sort(list_distinct(flatten(list(names))))  AS names
    FROM partial
    GROUP BY site_id, coupon_id
)
SELECT site_id, coupon_id, days, days[-1] AS last_day, names
FROM sets
