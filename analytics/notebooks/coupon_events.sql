-- coupon_events: all that happened to one coupon, in the order in which it happened, with what each event changed in words.
-- Parameters: site, coupon (text). `only_used`: it told a use and changed nothing.
WITH changed AS (
    SELECT
        position,
        string_agg(
            replace(fact, '_', ' ') || ': ' || coalesce(before, '–') || ' → ' || coalesce(after, '–'), '; ' ORDER BY fact
        ) AS told
    FROM changes
    WHERE site_id = $site AND coupon_id = $coupon
    GROUP BY position
)
SELECT
    facts.position,
    facts.event_time,
    facts.recorded_at,
    facts.type,
    facts.source,
    facts.order_id,
    facts.reported_usages,
    facts.type = 'coupon.applied' AND changed.told IS NULL AS only_used,
    concat_ws(
        '; ',
        'order ' || facts.order_id,
        CASE
            WHEN facts.restored THEN 'brings back what had been deleted'
            WHEN facts.type = 'coupon.created' AND facts.has_coupon
                THEN 'made as ' || coalesce(facts.code, '–') || ', ' || lower(replace(facts.discount_type, '_', ' '))
        END,
        changed.told
    ) AS told
FROM facts
LEFT JOIN changed
    ON changed.position = facts.position
WHERE facts.site_id = $site AND facts.coupon_id = $coupon
ORDER BY facts.event_time, facts.event_id
