-- status: what a coupon is good for at the instant `:at`, from the columns of coupons and coupon_usage.
-- The one place that says so: the databases and DuckDB run it alike. The first line that holds decides. What nobody has told is
-- not guessed: NULL lets a line pass, and where none holds the status is unknown.
CASE
    WHEN deleted THEN 'deleted'
    -- Known by its uses alone: no event has said what it is.
    WHEN snapshot_event_id IS NULL THEN 'unknown'
    -- Switched off by its owner, who may switch it on again, whatever its dates and counts say.
    WHEN NOT active THEN 'inactive'
    -- By its date, or because Wix said so: no event tells that a coupon has expired, and an expired one comes back only by an
    -- update, whose snapshot says it anew.
    WHEN expired OR expiration_time <= :at THEN 'expired'
    -- By our count or by Wix's own, which for a coupon older than the store is the higher one. Wix sets no limit below one.
    WHEN usage_limit > 0 AND (times_used >= usage_limit OR reported_usages >= usage_limit) THEN 'used_up'
    WHEN start_time > :at THEN 'scheduled'
    WHEN active THEN 'active'
    ELSE 'unknown'
END
