-- projection: redemptions
-- version: 1
-- from: facts
-- key: site_id, coupon_id, order_id
-- about: Every use of a coupon, once: Wix reports an order on completion and again when it is marked as paid.
-- column: site_id          text       the site (Wix app instance) that the coupon belongs to
-- column: coupon_id        text       Wix's id of the coupon
-- column: order_id         text       the order (`wixAppOrderId`); for a use reported without one, `event:` and the event's id
-- column: redeemed_at      timestamp  the time of the earliest report of this use
-- column: event_id         text       the event that is the earliest report
-- column: app_id           text       the app the order was made in (`wixAppId`), as the earliest report says
-- column: code             text       the code as it was at the time of use
-- column: reports          bigint     how many events reported this use
-- column: later_event_ids  json       the other events that reported it, sorted; null when there are none

-- [lift]
SELECT
    site_id,
    coupon_id,
    coalesce(order_id, 'event:' || event_id)    AS order_id,
    event_time                                  AS redeemed_at,
    event_id,
    app_id,
    code,
    CAST(NULL AS VARCHAR[])                     AS later_event_ids
FROM facts
WHERE type = 'coupon.applied'

-- [merge]
-- The ids of the reports are kept, not their number, so that a report merged twice counts once.
WITH merged AS (
    SELECT
        site_id,
        coupon_id,
        order_id,
        min({'at': redeemed_at, 'event_id': event_id, 'app_id': app_id, 'code': code})          AS first,
        CASE WHEN count(*) > 1 OR count(later_event_ids) > 0 THEN list(event_id) END            AS firsts,
        list(later_event_ids) FILTER (later_event_ids IS NOT NULL)                              AS laters
    FROM partial
    GROUP BY site_id, coupon_id, order_id
),
listed AS (
    SELECT
        *,
        CASE WHEN firsts IS NOT NULL THEN
            list_sort(list_filter(
                list_distinct(list_concat(firsts, coalesce(flatten(laters), []))), lambda id: id <> first.event_id
            ))
        END AS others
    FROM merged
)
SELECT
    site_id,
    coupon_id,
    order_id,
    first.at                                    AS redeemed_at,
    first.event_id                              AS event_id,
    first.app_id                                AS app_id,
    first.code                                  AS code,
    1 + coalesce(len(others), 0)                AS reports,
    CASE WHEN len(others) > 0 THEN others END   AS later_event_ids
FROM listed
