-- register(true_at, known_by): the coupons as of a time, of the events that had happened by `true_at` and that the log had
-- recorded by `known_by`; null: whenever. The rule of the model (eventstore/projections/models/coupons.sql), over typed columns
-- and so without reading payloads; a test compares the two.
WITH told AS (
    SELECT *
    FROM facts
    WHERE
        type IN ('coupon.created', 'coupon.updated', 'coupon.deleted', 'coupon.applied', 'coupon.observed')
        AND (CAST(true_at AS TIMESTAMPTZ) IS NULL OR event_time <= CAST(true_at AS TIMESTAMPTZ))
        AND (CAST(known_by AS TIMESTAMPTZ) IS NULL OR recorded_at <= CAST(known_by AS TIMESTAMPTZ))
),
sequenced AS (
    SELECT
        site_id, coupon_id, position, event_time, event_id,
        row_number() OVER (
            PARTITION BY site_id, coupon_id ORDER BY sequence DESC, event_time DESC, event_id DESC, position DESC
        ) AS place
    FROM told
    WHERE has_coupon AND sequence IS NOT NULL
),
unsequenced AS (
    SELECT
        site_id, coupon_id, position, event_time, event_id,
        row_number() OVER (
            PARTITION BY site_id, coupon_id ORDER BY event_time DESC, event_id DESC, position DESC
        ) AS place
    FROM told
    WHERE has_coupon AND sequence IS NULL
),
life_sequenced AS (
    SELECT
        site_id, coupon_id, type, event_time, event_id,
        row_number() OVER (
            PARTITION BY site_id, coupon_id ORDER BY sequence DESC, event_time DESC, event_id DESC
        ) AS place
    FROM told
    WHERE type IN ('coupon.created', 'coupon.deleted') AND sequence IS NOT NULL
),
life_unsequenced AS (
    SELECT
        site_id, coupon_id, type, event_time, event_id,
        row_number() OVER (PARTITION BY site_id, coupon_id ORDER BY event_time DESC, event_id DESC) AS place
    FROM told
    WHERE type IN ('coupon.created', 'coupon.deleted') AND sequence IS NULL
),
lives AS (
    SELECT
        site_id,
        coupon_id,
        min(event_time)                                         AS first_event_time,
        max(event_time)                                         AS last_event_time,
        max(event_time) FILTER (WHERE type = 'coupon.deleted')  AS deleted_at,
        max(event_time) FILTER (WHERE type = 'coupon.created')  AS created_last
    FROM told
    GROUP BY site_id, coupon_id
),
chosen AS (
    SELECT
        l.*,
        -- Of the two champions the later one: by time, then by event id.
        CASE
            WHEN s.position IS NULL THEN u.position
            WHEN u.position IS NULL OR s.event_time > u.event_time
                OR (s.event_time = u.event_time AND s.event_id >= u.event_id) THEN s.position
            ELSE u.position
        END AS position,
        coalesce(
            CASE
                WHEN ls.type IS NULL THEN lu.type
                WHEN lu.type IS NULL OR ls.event_time > lu.event_time
                    OR (ls.event_time = lu.event_time AND ls.event_id >= lu.event_id) THEN ls.type
                ELSE lu.type
            END = 'coupon.deleted',
            false
        ) AS deleted
    FROM lives AS l
    LEFT JOIN sequenced AS s ON s.site_id = l.site_id AND s.coupon_id = l.coupon_id AND s.place = 1
    LEFT JOIN unsequenced AS u ON u.site_id = l.site_id AND u.coupon_id = l.coupon_id AND u.place = 1
    LEFT JOIN life_sequenced AS ls ON ls.site_id = l.site_id AND ls.coupon_id = l.coupon_id AND ls.place = 1
    LEFT JOIN life_unsequenced AS lu ON lu.site_id = l.site_id AND lu.coupon_id = l.coupon_id AND lu.place = 1
)
SELECT
    c.site_id,
    c.coupon_id,
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
    f.event_id AS snapshot_event_id,
    f.event_time AS snapshot_time
FROM chosen AS c
LEFT JOIN facts AS f ON f.position = c.position
