-- changes: what each event changed of a coupon, a row a fact, against the snapshot before it.
-- column: position     bigint     the event's place in the log
-- column: site_id      text       the site (Wix app instance)
-- column: coupon_id    text       Wix's id of the coupon
-- column: event_id     text       the event
-- column: type         text       its type: coupon.updated as a rule; a use tells of changes whose own event is missing
-- column: event_time   timestamp  when it happened
-- column: recorded_at  timestamp  when the log took it in
-- column: actor_type   text       who did it: MEMBER, WIX_USER, APP …; null: not told
-- column: fact         text       what changed, as the column of coupons is named
-- column: before       text       its value in the snapshot before; null: none
-- column: after        text       its value in this event's snapshot; null: none

-- Before and after are by the time of the events, then their ids, whenever they were recorded. A coupon's first snapshot has
-- nothing before it and is no change; nor is Wix's counter of uses, which every use moves.
WITH told AS (
    SELECT
        position, site_id, coupon_id, event_id, type, event_time, recorded_at, actor_type,
        {
            'code': CAST(code AS VARCHAR),
            'name': CAST(name AS VARCHAR),
            'discount_type': CAST(discount_type AS VARCHAR),
            'discount_value': CAST(discount_value AS VARCHAR),
            'buy_x': CAST(buy_x AS VARCHAR),
            'get_y': CAST(get_y AS VARCHAR),
            'raw_type': CAST(raw_type AS VARCHAR),
            'scope_namespace': CAST(scope_namespace AS VARCHAR),
            'scope_group': CAST(scope_group AS VARCHAR),
            'scope_entity_id': CAST(scope_entity_id AS VARCHAR),
            'start_time': CAST(start_time AS VARCHAR),
            'expiration_time': CAST(expiration_time AS VARCHAR),
            'usage_limit': CAST(usage_limit AS VARCHAR),
            'limit_per_customer': CAST(limit_per_customer AS VARCHAR),
            'minimum_subtotal': CAST(minimum_subtotal AS VARCHAR),
            'limited_to_one_item': CAST(limited_to_one_item AS VARCHAR),
            'applies_to_subscriptions': CAST(applies_to_subscriptions AS VARCHAR),
            'discounted_cycle_count': CAST(discounted_cycle_count AS VARCHAR),
            'active': CAST(active AS VARCHAR),
            'expired': CAST(expired AS VARCHAR)
        } AS now
    FROM facts
    WHERE
        has_coupon
        AND type IN ('coupon.created', 'coupon.updated', 'coupon.deleted', 'coupon.applied', 'coupon.observed')
),
beside AS (
    SELECT *, lag(now) OVER (PARTITION BY site_id, coupon_id ORDER BY event_time, event_id) AS before
    FROM told
),
differing AS (
    SELECT * EXCLUDE (now, before), unnest([
        {'fact': 'code', 'before': before.code, 'after': now.code},
        {'fact': 'name', 'before': before.name, 'after': now.name},
        {'fact': 'discount_type', 'before': before.discount_type, 'after': now.discount_type},
        {'fact': 'discount_value', 'before': before.discount_value, 'after': now.discount_value},
        {'fact': 'buy_x', 'before': before.buy_x, 'after': now.buy_x},
        {'fact': 'get_y', 'before': before.get_y, 'after': now.get_y},
        {'fact': 'raw_type', 'before': before.raw_type, 'after': now.raw_type},
        {'fact': 'scope_namespace', 'before': before.scope_namespace, 'after': now.scope_namespace},
        {'fact': 'scope_group', 'before': before.scope_group, 'after': now.scope_group},
        {'fact': 'scope_entity_id', 'before': before.scope_entity_id, 'after': now.scope_entity_id},
        {'fact': 'start_time', 'before': before.start_time, 'after': now.start_time},
        {'fact': 'expiration_time', 'before': before.expiration_time, 'after': now.expiration_time},
        {'fact': 'usage_limit', 'before': before.usage_limit, 'after': now.usage_limit},
        {'fact': 'limit_per_customer', 'before': before.limit_per_customer, 'after': now.limit_per_customer},
        {'fact': 'minimum_subtotal', 'before': before.minimum_subtotal, 'after': now.minimum_subtotal},
        {'fact': 'limited_to_one_item', 'before': before.limited_to_one_item, 'after': now.limited_to_one_item},
        {'fact': 'applies_to_subscriptions', 'before': before.applies_to_subscriptions, 'after': now.applies_to_subscriptions},
        {'fact': 'discounted_cycle_count', 'before': before.discounted_cycle_count, 'after': now.discounted_cycle_count},
        {'fact': 'active', 'before': before.active, 'after': now.active},
        {'fact': 'expired', 'before': before.expired, 'after': now.expired}
    ]) AS change
    FROM beside
    WHERE before IS NOT NULL AND before IS DISTINCT FROM now
)
SELECT
    position,
    site_id,
    coupon_id,
    event_id,
    type,
    event_time,
    recorded_at,
    actor_type,
    change.fact     AS fact,
    change."before" AS "before",
    change."after"  AS "after"
FROM differing
WHERE change."before" IS DISTINCT FROM change."after"
