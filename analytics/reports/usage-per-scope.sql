-- report: usage-per-scope
-- title: Usage per scope
-- group: usage
-- question: What are the coupons for that customers use: which parts of the site, which groups, which single things?
-- parameter: per    namespace|group|entity  group  How finely scopes are told apart.
-- parameter: site   text       null  Only this site; null: every site.
-- parameter: since  timestamp  null  Only uses at or after this time; null: from the beginning.
-- parameter: until  timestamp  null  Only uses before this time; null: to the end.
-- column: scope                 text     In words: whole site, the next three as far as told, or unknown: no snapshot was told.
-- column: scope_namespace       text     stores, bookings, events, pricingPlans …; null: the whole site, or unknown.
-- column: scope_group           text     product, collection, service, event, ticket, plan …; null: all, or per namespace.
-- column: scope_entity_id       text     The one product, service … it is for; null: all of the group, or not per entity.
-- column: coupons               coupons  Coupons with this scope now, used or not.
-- column: coupons_used          coupons  Those used at least once.
-- column: times_used            uses     Orders that used one: an order counts once, however often it was reported.
-- column: share_of_uses         percent  Of all uses, those of this scope; null when there are no uses at all.
-- column: uses_per_used_coupon  average  times_used by coupons_used, on average; null when none was used.
-- column: first_used_at         time     The earliest of these uses.
-- column: last_used_at          time     The latest of these uses.
-- table: scope, coupons, coupons_used, times_used, share_of_uses, first_used_at, last_used_at

WITH uses AS (
    -- Of all times the projection has counted already: the uses themselves are read for a span of time alone.
    SELECT coupon_key, times_used, first_used_at, last_used_at
    FROM coupon_usage
    WHERE CAST($since AS TIMESTAMPTZ) IS NULL AND CAST($until AS TIMESTAMPTZ) IS NULL
    UNION ALL
    SELECT coupon_key, count(*), min(redeemed_at), max(redeemed_at)
    FROM redemptions
    WHERE
        (CAST($since AS TIMESTAMPTZ) IS NOT NULL OR CAST($until AS TIMESTAMPTZ) IS NOT NULL)
        AND (CAST($since AS TIMESTAMPTZ) IS NULL OR redeemed_at >= CAST($since AS TIMESTAMPTZ))
        AND (CAST($until AS TIMESTAMPTZ) IS NULL OR redeemed_at < CAST($until AS TIMESTAMPTZ))
    GROUP BY coupon_key
),
scoped AS (
    SELECT
        coupon_key,
        -- A coupon known by a deletion alone may be for anything; one whose snapshot tells no scope is for everything.
        snapshot_event_id IS NOT NULL                   AS told,
        scope_namespace,
        CASE WHEN $per <> 'namespace' THEN scope_group END AS scope_group,
        CASE WHEN $per = 'entity' THEN scope_entity_id END AS scope_entity_id
    FROM coupons
    WHERE CAST($site AS VARCHAR) IS NULL OR site_id = $site
),
per_scope AS (
    SELECT
        scoped.told,
        scoped.scope_namespace,
        scoped.scope_group,
        scoped.scope_entity_id,
        count(*)                                        AS coupons,
        count(uses.times_used)                          AS coupons_used,
        CAST(coalesce(sum(uses.times_used), 0) AS BIGINT) AS times_used,
        min(uses.first_used_at)                         AS first_used_at,
        max(uses.last_used_at)                          AS last_used_at
    FROM scoped
    -- From the coupons' side, so that scopes never used are listed, with 0.
    LEFT JOIN uses ON uses.coupon_key = scoped.coupon_key
    GROUP BY scoped.told, scoped.scope_namespace, scoped.scope_group, scoped.scope_entity_id
)
SELECT
    CASE
        WHEN NOT told THEN 'unknown'
        WHEN scope_namespace IS NULL AND scope_group IS NULL AND scope_entity_id IS NULL THEN 'whole site'
        ELSE concat_ws(', ', scope_namespace, scope_group, scope_entity_id)
    END                                                 AS scope,
    scope_namespace,
    scope_group,
    scope_entity_id,
    coupons,
    coupons_used,
    times_used,
    CAST(round(100.0 * times_used / nullif(sum(times_used) OVER (), 0), 1) AS DECIMAL(4, 1))
                                                        AS share_of_uses,
    CAST(round(times_used / nullif(coupons_used, 0), 2) AS DECIMAL(18, 2))
                                                        AS uses_per_used_coupon,
    first_used_at,
    last_used_at
FROM per_scope
ORDER BY
    times_used DESC, coupons DESC, told DESC, scope_namespace NULLS FIRST, scope_group NULLS FIRST,
    scope_entity_id NULLS FIRST
