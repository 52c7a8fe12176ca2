-- report: changes-by-actor
-- title: Changes by actor
-- group: log
-- question: Who created, changed, deleted and used coupons, how often and when?
-- parameter: site   text       null  Only this site; null: every site.
-- parameter: since  timestamp  null  Only events that happened at or after this time; null: from the beginning.
-- parameter: until  timestamp  null  Only events that happened before this time; null: to the end.
-- column: actor_type      text     ANONYMOUS_VISITOR, MEMBER, WIX_USER, APP or UNKNOWN; null: events that do not say who.
-- column: actor_id        text     The actor's id at Wix: personal data, unless it is an APP; null where Wix gave none.
-- column: account_id      text     The account whose sites they were on: personal data of its owner; null: none told, or several.
-- column: events          events   All events of this actor: the sum of the next five.
-- column: created         events   Creations of coupons and of loyalty coupons; a redemption of points makes one of each.
-- column: updated         events   Changes of either.
-- column: deleted         events   Deletions of either.
-- column: applied         events   Reports of a use; an order may be reported twice, so uses can be fewer.
-- column: other           events   All else: coupons observed in a snapshot, and events of families that are not known.
-- column: coupons         coupons  Different coupons that these events are about; a reward without its coupon is none.
-- column: first_event_at  time     When the earliest of these events happened.
-- column: last_event_at   time     When the latest of them happened.
-- table: actor_type, actor_id, events, created, updated, deleted, applied, other, coupons, last_event_at

WITH told AS NOT MATERIALIZED (
    SELECT actor_type, actor_id, account_id, type, coupon_key, event_time
    FROM facts
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
),
per_type AS (
    -- By type first: then the types are compared a few times, not once an event.
    SELECT
        actor_type,
        actor_id,
        account_id,
        type,
        count(*)                                        AS events,
        min(event_time)                                 AS first_event_at,
        max(event_time)                                 AS last_event_at
    FROM told
    GROUP BY actor_type, actor_id, account_id, type
),
kinds AS (
    SELECT
        *,
        CASE
            WHEN type IN ('coupon.created', 'loyalty_coupon.created') THEN 'created'
            WHEN type IN ('coupon.updated', 'loyalty_coupon.updated') THEN 'updated'
            WHEN type IN ('coupon.deleted', 'loyalty_coupon.deleted') THEN 'deleted'
            WHEN type = 'coupon.applied' THEN 'applied'
            ELSE 'other'
        END                                             AS kind
    FROM per_type
),
about AS (
    SELECT actor_type, actor_id, count(coupon_key) AS coupons
    FROM (SELECT DISTINCT actor_type, actor_id, coupon_key FROM told) AS pairs
    GROUP BY actor_type, actor_id
)
SELECT
    kinds.actor_type                                    AS actor_type,
    kinds.actor_id                                      AS actor_id,
    CASE WHEN min(account_id) = max(account_id) THEN min(account_id) END
                                                        AS account_id,
    CAST(sum(events) AS BIGINT)                         AS events,
    CAST(coalesce(sum(events) FILTER (kind = 'created'), 0) AS BIGINT)
                                                        AS created,
    CAST(coalesce(sum(events) FILTER (kind = 'updated'), 0) AS BIGINT)
                                                        AS updated,
    CAST(coalesce(sum(events) FILTER (kind = 'deleted'), 0) AS BIGINT)
                                                        AS deleted,
    CAST(coalesce(sum(events) FILTER (kind = 'applied'), 0) AS BIGINT)
                                                        AS applied,
    CAST(coalesce(sum(events) FILTER (kind = 'other'), 0) AS BIGINT)
                                                        AS other,
    max(about.coupons)                                  AS coupons,
    min(first_event_at)                                 AS first_event_at,
    max(last_event_at)                                  AS last_event_at
FROM kinds
JOIN about
    ON about.actor_type IS NOT DISTINCT FROM kinds.actor_type AND about.actor_id IS NOT DISTINCT FROM kinds.actor_id
GROUP BY kinds.actor_type, kinds.actor_id
ORDER BY events DESC, kinds.actor_type NULLS LAST, kinds.actor_id NULLS LAST
