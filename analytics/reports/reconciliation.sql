-- report: reconciliation
-- title: Usage reconciliation
-- group: checks
-- question: Does our count of each coupon's uses agree with Wix's, and if not, what is the likely cause?
-- parameter: site       text     null   Only this site; null: every site.
-- parameter: coupon     text     null   Only the coupon with this id, or with this code now, in any case; null: all.
-- parameter: differing  boolean  false  Only coupons whose counts differ at the time of Wix's snapshot.
-- column: site_id                 text     The site (Wix app instance) that the coupon belongs to.
-- column: coupon_id               text     Wix's id of the coupon.
-- column: code                    text     What the customer types.
-- column: name                    text     The coupon's name in the dashboard.
-- column: times_used              uses     Orders that used it: an order counts once, however often it was reported.
-- column: reported_usages         uses     Wix's own counter in the latest snapshot; null where no event carried one.
-- column: difference              uses     times_used less reported_usages: negative where Wix knows of more uses.
-- column: cause                   text     The likely cause in words, told from the columns that follow; the query lists them all.
-- column: difference_at_snapshot  uses     The difference but for our uses after the snapshot: what is to be explained.
-- column: uses_after_snapshot     uses     Our uses that are later than the snapshot, which therefore does not count them.
-- column: uses_before_store       uses     Wix's counter in our first event of the coupon, less the uses in it; null: not in it, or no difference.
-- column: repeated_reports        events   Reports by the time of the snapshot of uses reported before; null: no difference.
-- column: uses_without_order      uses     Uses by then that were reported without an order's id; null: no difference.
-- column: highest_reported        uses     The highest that Wix's counter ever was in an event; null: no difference.
-- column: snapshot_time           time     When Wix took the snapshot.
-- column: first_event_at          time     The earliest event that the store has of the coupon.
-- column: last_used_at            time     Our latest use.
-- column: deleted                 boolean  Whether the coupon is deleted now.
-- table: code, times_used, reported_usages, difference, uses_after_snapshot, cause, snapshot_time

WITH counted AS (
    SELECT
        coupons.coupon_key,
        coupons.site_id,
        coupons.coupon_id,
        coupons.code,
        coupons.name,
        coupons.deleted,
        coupons.reported_usages,
        coupons.snapshot_time,
        coupons.first_event_time,
        coalesce(coupon_usage.times_used, 0)            AS times_used,
        coupon_usage.last_used_at
    FROM coupons
    LEFT JOIN coupon_usage ON coupon_usage.coupon_key = coupons.coupon_key
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR coupons.site_id = $site)
        AND (
            CAST($coupon AS VARCHAR) IS NULL
            OR lower(coupons.coupon_id) = lower($coupon)
            OR lower(coupons.code) = lower($coupon)
        )
),
later AS (
    -- Few coupons have uses after their snapshot, for a report of a use mostly carries one.
    SELECT counted.coupon_key, count(*) AS uses_after_snapshot
    FROM redemptions
    JOIN counted ON counted.coupon_key = redemptions.coupon_key
    WHERE counted.last_used_at > counted.snapshot_time AND redemptions.redeemed_at > counted.snapshot_time
    GROUP BY counted.coupon_key
),
compared AS (
    SELECT
        counted.*,
        CASE WHEN counted.snapshot_time IS NOT NULL THEN coalesce(later.uses_after_snapshot, 0) END
                                                        AS uses_after_snapshot,
        counted.times_used - coalesce(later.uses_after_snapshot, 0) - counted.reported_usages
                                                        AS difference_at_snapshot
    FROM counted
    LEFT JOIN later ON later.coupon_key = counted.coupon_key
),
differing AS (
    SELECT coupon_key, snapshot_time, first_event_time
    FROM compared
    WHERE difference_at_snapshot <> 0
),
told AS (
    -- What the log says of those whose counts differ.
    SELECT
        differing.coupon_key,
        min(facts.reported_usages) FILTER (WHERE facts.event_time = differing.first_event_time)
                                                        AS first_reported,
        count(*) FILTER (WHERE facts.type = 'coupon.applied' AND facts.event_time = differing.first_event_time) > 0
                                                        AS first_is_use,
        max(facts.reported_usages)                      AS highest_reported,
        count(*) FILTER (WHERE facts.type = 'coupon.applied' AND facts.event_time <= differing.snapshot_time)
                                                        AS reports,
        count(*) FILTER (WHERE facts.type = 'coupon.applied' AND facts.event_time = differing.snapshot_time) > 0
                                                        AS in_a_use,
        count(*) FILTER (
            WHERE facts.type = 'coupon.applied' AND NOT facts.has_order AND facts.event_time <= differing.snapshot_time
        )                                               AS uses_without_order
    FROM facts
    JOIN differing ON differing.coupon_key = facts.coupon_key
    WHERE facts.type IN ('coupon.created', 'coupon.updated', 'coupon.deleted', 'coupon.applied', 'coupon.observed')
    GROUP BY differing.coupon_key
),
weighed AS (
    SELECT
        compared.*,
        -- What Wix had counted before the first event that we have; that event may itself be a use, and count itself.
        CASE
            WHEN told.first_is_use AND told.first_reported > 0 THEN told.first_reported - 1
            ELSE told.first_reported
        END                                             AS uses_before_store,
        told.reports - (compared.times_used - compared.uses_after_snapshot) AS repeated_reports,
        told.uses_without_order,
        told.highest_reported,
        told.in_a_use
    FROM compared
    LEFT JOIN told ON told.coupon_key = compared.coupon_key
)
SELECT
    site_id,
    coupon_id,
    code,
    name,
    times_used,
    reported_usages,
    times_used - reported_usages                        AS difference,
    -- Of several possible causes the one that the events speak for. What they cannot tell apart is named together.
    CASE
        WHEN reported_usages IS NULL
            THEN 'not comparable: no event carried Wix''s count'
        WHEN difference_at_snapshot = 0 AND uses_after_snapshot = 0
            THEN 'agrees'
        WHEN difference_at_snapshot = 0
            THEN 'agrees: Wix''s snapshot is older than our last uses'
        -- Wix counts more. What it had counted before our first event we can know; what it counted since, we were not told.
        WHEN difference_at_snapshot < 0 AND uses_before_store >= -difference_at_snapshot
            THEN 'used before the store''s first event of it'
        WHEN difference_at_snapshot < 0 AND uses_before_store > 0
            THEN 'used before the store''s first event of it, and events are missing here'
        WHEN difference_at_snapshot < 0 AND uses_before_store IS NULL
            THEN 'used before the store''s first event of it, or events are missing here'
        -- Such uses are dated by the event that told them, which can follow the order.
        WHEN difference_at_snapshot < 0 AND uses_after_snapshot >= -difference_at_snapshot
            THEN 'Wix''s snapshot may count our later uses, or events are missing here'
        WHEN difference_at_snapshot < 0 AND repeated_reports >= -difference_at_snapshot
            THEN 'events are missing here, or Wix counts orders twice that were reported twice'
        WHEN difference_at_snapshot < 0
            THEN 'events are missing here'
        -- Wix counts fewer.
        WHEN difference_at_snapshot = 1 AND in_a_use
            THEN 'Wix''s snapshot came with a use that it may not count yet'
        WHEN highest_reported = 0
            THEN 'Wix''s events carry no count, which reads as 0'
        -- It had counted as many as we have.
        WHEN highest_reported >= times_used - uses_after_snapshot
            THEN 'Wix''s count went down: uses were undone, or it began anew'
        WHEN uses_without_order >= difference_at_snapshot
            THEN 'uses reported without an order''s id: one reported twice counts twice here'
        ELSE 'Wix counts fewer: uses were undone there, or never counted'
    END                                                 AS cause,
    difference_at_snapshot,
    uses_after_snapshot,
    uses_before_store,
    repeated_reports,
    uses_without_order,
    highest_reported,
    snapshot_time,
    first_event_time                                    AS first_event_at,
    last_used_at,
    deleted
FROM weighed
WHERE NOT coalesce(CAST($differing AS BOOLEAN), false) OR difference_at_snapshot <> 0
ORDER BY abs(difference_at_snapshot) DESC NULLS LAST, times_used DESC, code NULLS LAST, site_id, coupon_id
