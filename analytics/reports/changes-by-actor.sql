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

WITH told AS (
    SELECT
        *,
        CASE
            WHEN type IN ('coupon.created', 'loyalty_coupon.created') THEN 'created'
            WHEN type IN ('coupon.updated', 'loyalty_coupon.updated') THEN 'updated'
            WHEN type IN ('coupon.deleted', 'loyalty_coupon.deleted') THEN 'deleted'
            WHEN type = 'coupon.applied' THEN 'applied'
            ELSE 'other'
        END                                             AS kind
    FROM facts
    WHERE
        (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR event_time >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR event_time < CAST($until AS TIMESTAMPTZ))
)
SELECT
    actor_type,
    actor_id,
    CASE WHEN count(DISTINCT account_id) = 1 THEN min(account_id) END
                                                        AS account_id,
    count(*)                                            AS events,
    count(*) FILTER (kind = 'created')                  AS created,
    count(*) FILTER (kind = 'updated')                  AS updated,
    count(*) FILTER (kind = 'deleted')                  AS deleted,
    count(*) FILTER (kind = 'applied')                  AS applied,
    count(*) FILTER (kind = 'other')                    AS other,
    -- Ids of coupons are only told apart within a site.
    count(DISTINCT (site_id, coupon_id)) FILTER (coupon_id IS NOT NULL)
                                                        AS coupons,
    min(event_time)                                     AS first_event_at,
    max(event_time)                                     AS last_event_at
FROM told
GROUP BY actor_type, actor_id
ORDER BY events DESC, actor_type NULLS LAST, actor_id NULLS LAST
