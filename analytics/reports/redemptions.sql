-- report: redemptions
-- title: Redemptions
-- group: usage
-- question: Which orders used which coupon, and when?
-- parameter: site    text       null  Only this site; null: every site.
-- parameter: since   timestamp  null  Only uses at or after this time; null: from the beginning.
-- parameter: until   timestamp  null  Only uses before this time; null: to the end.
-- parameter: coupon  text       null  Only the coupon with this id, or with this code now or at the use, in any case; null: all.
-- parameter: limit   count      10000 Only so many, the latest; null: all of them.
-- column: redeemed_at     time    When the use was first reported to have happened.
-- column: site_id         text    The site (Wix app instance) that the coupon belongs to.
-- column: coupon_id       text    Wix's id of the coupon.
-- column: code            text    What the customer typed: the code at the time of use; null where the report did not show it.
-- column: name            text    The coupon's name now.
-- column: discount_type   text    What it is now: MONEY_OFF, PERCENT_OFF, FREE_SHIPPING, FIXED_PRICE, BUY_X_GET_Y or UNKNOWN.
-- column: discount_value  amount  Money, or a percentage for PERCENT_OFF, as it is now; null for types without a value.
-- column: order_id        text    The order; for a use reported without one, event: and the event's id.
-- column: app_id          text    The app that the order was made in; null where none was reported.
-- column: reports         events  Events that reported this use: an order may be reported on completion and when it is paid.
-- column: event_id        text    The first of them.
-- table: redeemed_at, code, name, discount_type, discount_value, order_id, reports

WITH named AS (
    SELECT coupon_key
    FROM coupons
    WHERE lower(coupon_id) = lower($coupon) OR lower(code) = lower($coupon)
),
asked AS NOT MATERIALIZED (
    -- In two halves, one of which is empty: to look each use up among the coupons takes ten times as long as to list it.
    SELECT coupon_key, site_id, coupon_id, order_id, redeemed_at, event_id, app_id, code, reports
    FROM redemptions
    WHERE CAST($coupon AS VARCHAR) IS NULL
    UNION ALL
    SELECT coupon_key, site_id, coupon_id, order_id, redeemed_at, event_id, app_id, code, reports
    FROM redemptions
    WHERE
        CAST($coupon AS VARCHAR) IS NOT NULL
        AND (lower(code) = lower($coupon) OR coupon_key IN (SELECT coupon_key FROM named))
),
spanned AS NOT MATERIALIZED (
    SELECT coupon_key, site_id, coupon_id, order_id, redeemed_at, event_id, app_id, code, reports
    FROM asked
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redeemed_at < CAST($until AS TIMESTAMPTZ))
),
latest AS (
    -- The times alone tell from when on the rest has to be read at all: four times as fast as to sort it.
    SELECT redeemed_at
    FROM spanned
    WHERE CAST($limit AS BIGINT) IS NOT NULL
    ORDER BY redeemed_at DESC
    LIMIT CAST(least(CAST($limit AS BIGINT), 2147483647) AS INTEGER)
),
oldest AS (
    SELECT coalesce(min(redeemed_at), TIMESTAMPTZ '0001-01-01 00:00:00+00') AS redeemed_at
    FROM latest
),
listed AS (
    SELECT spanned.*
    FROM spanned
    JOIN oldest ON spanned.redeemed_at >= oldest.redeemed_at
    ORDER BY spanned.redeemed_at DESC, site_id, coupon_id, order_id
    -- Without a limit it is more than anyone can read, and the most that every engine takes.
    LIMIT CAST(least(CAST($limit AS BIGINT), 2147483647) AS INTEGER)
)
SELECT
    listed.redeemed_at                                  AS redeemed_at,
    listed.site_id                                      AS site_id,
    listed.coupon_id                                    AS coupon_id,
    listed.code                                         AS code,
    coupons.name                                        AS name,
    -- A coupon known by events without a snapshot has no type.
    coalesce(coupons.discount_type, 'UNKNOWN')          AS discount_type,
    coupons.discount_value                              AS discount_value,
    listed.order_id                                     AS order_id,
    listed.app_id                                       AS app_id,
    listed.reports                                      AS reports,
    listed.event_id                                     AS event_id
FROM listed
LEFT JOIN coupons ON coupons.coupon_key = listed.coupon_key
ORDER BY listed.redeemed_at DESC, listed.site_id, listed.coupon_id, listed.order_id
