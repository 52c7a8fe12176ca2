-- register(true_at, known_by): the coupons as of a time, of the events that had happened by `true_at` and that the log had
-- recorded by `known_by`; null: whenever. The rule of the model (eventstore/projections/models/coupons.sql), over typed columns
-- and so without reading payloads; a test compares the two.
WITH told AS (
    SELECT position, coupon_key, type, event_time, event_id, sequence, has_coupon
    FROM facts
    WHERE
        type IN ('coupon.created', 'coupon.updated', 'coupon.deleted', 'coupon.applied', 'coupon.observed')
        AND (CAST(true_at AS TIMESTAMPTZ) IS NULL OR event_time <= CAST(true_at AS TIMESTAMPTZ))
        AND (CAST(known_by AS TIMESTAMPTZ) IS NULL OR recorded_at <= CAST(known_by AS TIMESTAMPTZ))
),
-- The latest snapshot among those that carry a sequence, and among those that do not; then of the two the later one, by time, then
-- by event id.
latest AS (
    SELECT
        coupon_key,
        arg_max(position, (coalesce(sequence, 0), event_time, event_id, position)) AS position
    FROM told
    WHERE has_coupon
    GROUP BY coupon_key, sequence IS NULL
),
shown AS (
    SELECT
        told.coupon_key,
        arg_max(told.position, (told.event_time, told.event_id, told.sequence IS NOT NULL)) AS position
    FROM latest
    JOIN told ON told.position = latest.position
    GROUP BY told.coupon_key
),
-- The same of its creations and deletions.
latest_of_life AS (
    SELECT
        coupon_key,
        arg_max(position, (coalesce(sequence, 0), event_time, event_id)) AS position
    FROM told
    WHERE type IN ('coupon.created', 'coupon.deleted')
    GROUP BY coupon_key, sequence IS NULL
),
ended AS (
    SELECT
        told.coupon_key,
        arg_max(told.type, (told.event_time, told.event_id, told.sequence IS NOT NULL)) = 'coupon.deleted' AS deleted
    FROM latest_of_life
    JOIN told ON told.position = latest_of_life.position
    GROUP BY told.coupon_key
),
lives AS (
    SELECT
        coupon_key,
        -- Any event of it tells its ids.
        max(position)                                           AS last_position,
        min(event_time)                                         AS first_event_time,
        max(event_time)                                         AS last_event_time,
        max(event_time) FILTER (WHERE type = 'coupon.deleted')  AS deleted_at,
        max(event_time) FILTER (WHERE type = 'coupon.created')  AS created_last
    FROM told
    GROUP BY coupon_key
),
chosen AS (
    SELECT
        lives.*,
        coalesce(shown.position, lives.last_position)           AS position,
        coalesce(ended.deleted, false)                          AS deleted
    FROM lives
    LEFT JOIN shown ON shown.coupon_key = lives.coupon_key
    LEFT JOIN ended ON ended.coupon_key = lives.coupon_key
)
SELECT
    f.site_id,
    f.coupon_id,
    f.code,
    f.name,
    f.discount_type,
    f.discount_value,
    f.buy_x,
    f.get_y,
    f.raw_type,
    f.scope_namespace,
    f.scope_group,
    f.scope_entity_id,
    f.start_time,
    f.expiration_time,
    f.created_at,
    f.usage_limit,
    f.limit_per_customer,
    f.minimum_subtotal,
    f.limited_to_one_item,
    f.applies_to_subscriptions,
    f.discounted_cycle_count,
    f.active,
    f.expired,
    f.reported_usages,
    c.deleted,
    c.deleted_at,
    CASE WHEN c.created_last > c.deleted_at THEN c.created_last END AS restored_at,
    c.first_event_time,
    c.last_event_time,
    CASE WHEN f.has_coupon THEN f.event_id END AS snapshot_event_id,
    CASE WHEN f.has_coupon THEN f.event_time END AS snapshot_time
FROM chosen AS c
JOIN facts AS f ON f.position = c.position
