-- span: the sites there are, and the first and last UTC day on which anything happened at each.
-- What Query Coupons answered is no happening: its day is the day of asking, and counts only where there is nothing else.
SELECT
    site_id,
    coalesce(min(event_date) FILTER (WHERE type <> 'coupon.observed'), min(event_date))    AS first_day,
    coalesce(max(event_date) FILTER (WHERE type <> 'coupon.observed'), max(event_date))    AS last_day
FROM facts
GROUP BY site_id
ORDER BY site_id
