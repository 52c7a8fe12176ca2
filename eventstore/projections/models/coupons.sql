-- projection: coupons
-- version: 1
-- from: facts
-- key: site_id, coupon_id
-- about: The current state of every coupon: its latest snapshot and its life.
-- column: site_id             text       the site (Wix app instance) that the coupon belongs to
-- column: coupon_id           text       Wix's id of the coupon
-- column: code                text       what the customer types, as Wix spells it; compare without case
-- column: name                text       the name in the dashboard
-- column: discount_type       text       MONEY_OFF, PERCENT_OFF, FREE_SHIPPING, FIXED_PRICE, BUY_X_GET_Y or UNKNOWN
-- column: discount_value      decimal    an amount in the site's currency, or a percentage for PERCENT_OFF
-- column: buy_x               bigint     items to buy (BUY_X_GET_Y)
-- column: get_y               bigint     items then free (BUY_X_GET_Y)
-- column: raw_type            text       the discount's type in Wix's own words
-- column: scope_namespace     text       stores, bookings, events, pricingPlans …; null: the whole site
-- column: scope_group         text       product, collection, service, event, ticket, plan …
-- column: scope_entity_id     text       the one product, service … it is for
-- column: start_time          timestamp  valid from
-- column: expiration_time     timestamp  valid until; null: no end
-- column: created_at          timestamp  when Wix says the coupon was made
-- column: usage_limit         bigint     uses allowed in all
-- column: limit_per_customer  bigint     uses allowed for one customer
-- column: minimum_subtotal    decimal    least order value
-- column: limited_to_one_item boolean    only one item of the order is discounted
-- column: applies_to_subscriptions boolean  also for subscriptions
-- column: discounted_cycle_count bigint  subscription cycles discounted, 1–999
-- column: active              boolean    the switch in the dashboard, as last reported
-- column: expired             boolean    whether Wix called it expired in the latest snapshot
-- column: reported_usages     bigint     Wix's own counter `numberOfUsages` in the latest snapshot
-- column: deleted             boolean    whether the latest of its creations and deletions is a deletion
-- column: deleted_at          timestamp  its last deletion
-- column: restored_at         timestamp  its last creation, if that followed its last deletion
-- column: first_event_time    timestamp  the earliest event known of it
-- column: last_event_time     timestamp  the latest event known of it
-- column: snapshot_event_id   text       the event whose snapshot these columns show; null when none carried one
-- column: snapshot_time       timestamp  that event's time
-- column: _code               text       memory of the search by code: the code in lower case
-- column: _sequenced          json       memory of the merge: the best snapshot among events with a sequence
-- column: _unsequenced        json       memory of the merge: the best snapshot among events without one
-- column: _life_sequenced     json       memory of the merge: the last creation or deletion with a sequence
-- column: _life_unsequenced   json       memory of the merge: the last creation or deletion without one
-- column: _created_last       timestamp  memory of the merge: the last creation

-- Which event is latest: by sequence among those that carry one, by time between one that does and one that does not, then
-- by event id. That relation has cycles among three events, so two champions are kept, one of each kind, and compared last:
-- a choice that no order, repetition or split of the deliveries can change.

-- [lift]
WITH told AS (
    SELECT *
    FROM facts
    WHERE type IN ('coupon.created', 'coupon.updated', 'coupon.deleted', 'coupon.applied', 'coupon.observed')
),
chosen AS (
    SELECT
        site_id,
        coupon_id,
        max({'sequence': sequence, 'event_time': event_time, 'event_id': event_id, 'position': position})
            FILTER (has_coupon AND sequence IS NOT NULL)                                    AS sequenced,
        max({'event_time': event_time, 'event_id': event_id, 'position': position})
            FILTER (has_coupon AND sequence IS NULL)                                        AS unsequenced,
        max({'sequence': sequence, 'event_time': event_time, 'event_id': event_id, 'deleted': type = 'coupon.deleted'})
            FILTER (type IN ('coupon.created', 'coupon.deleted') AND sequence IS NOT NULL)  AS _life_sequenced,
        max({'event_time': event_time, 'event_id': event_id, 'deleted': type = 'coupon.deleted'})
            FILTER (type IN ('coupon.created', 'coupon.deleted') AND sequence IS NULL)      AS _life_unsequenced,
        min(event_time)                                                                     AS first_event_time,
        max(event_time)                                                                     AS last_event_time,
        max(event_time) FILTER (type = 'coupon.deleted')                                    AS deleted_at,
        max(event_time) FILTER (type = 'coupon.created')                                    AS _created_last
    FROM told
    GROUP BY site_id, coupon_id
)
SELECT
    chosen.site_id                                                                          AS site_id,
    chosen.coupon_id                                                                        AS coupon_id,
    CASE WHEN sequenced IS NOT NULL THEN {
        'sequence': sequenced.sequence, 'event_time': sequenced.event_time, 'event_id': sequenced.event_id,
        'coupon': CAST(json_extract(s.payload, '$.coupon') AS VARCHAR)
    } END                                                                                   AS _sequenced,
    CASE WHEN unsequenced IS NOT NULL THEN {
        'event_time': unsequenced.event_time, 'event_id': unsequenced.event_id,
        'coupon': CAST(json_extract(u.payload, '$.coupon') AS VARCHAR)
    } END                                                                                   AS _unsequenced,
    _life_sequenced,
    _life_unsequenced,
    first_event_time,
    last_event_time,
    deleted_at,
    _created_last
FROM chosen
LEFT JOIN batch AS s ON s.position = chosen.sequenced.position
LEFT JOIN batch AS u ON u.position = chosen.unsequenced.position

-- [merge]
WITH merged AS (
    SELECT
        site_id,
        coupon_id,
        max(_sequenced)         AS _sequenced,
        max(_unsequenced)       AS _unsequenced,
        max(_life_sequenced)    AS _life_sequenced,
        max(_life_unsequenced)  AS _life_unsequenced,
        min(first_event_time)   AS first_event_time,
        max(last_event_time)    AS last_event_time,
        max(deleted_at)         AS deleted_at,
        max(_created_last)      AS _created_last
    FROM partial
    GROUP BY site_id, coupon_id
),
judged AS (
    SELECT
        *,
        _sequenced IS NOT NULL AND (
            _unsequenced IS NULL
            OR _sequenced.event_time > _unsequenced.event_time
            OR (_sequenced.event_time = _unsequenced.event_time AND _sequenced.event_id >= _unsequenced.event_id)
        ) AS by_sequence,
        _life_sequenced IS NOT NULL AND (
            _life_unsequenced IS NULL
            OR _life_sequenced.event_time > _life_unsequenced.event_time
            OR (
                _life_sequenced.event_time = _life_unsequenced.event_time
                AND _life_sequenced.event_id >= _life_unsequenced.event_id
            )
        ) AS life_by_sequence
    FROM merged
),
typed AS (
    SELECT
        *,
        from_json(
            CASE WHEN by_sequence THEN _sequenced.coupon ELSE _unsequenced.coupon END,
            '{"code": "VARCHAR", "name": "VARCHAR",
              "discount": {"type": "VARCHAR", "value": "DECIMAL(18,6)", "buy_x": "BIGINT", "get_y": "BIGINT", "raw_type": "VARCHAR"},
              "scope": {"namespace": "VARCHAR", "group": "VARCHAR", "entity_id": "VARCHAR"},
              "start_time": "TIMESTAMPTZ", "expiration_time": "TIMESTAMPTZ", "created_at": "TIMESTAMPTZ",
              "usage_limit": "BIGINT", "limit_per_customer": "BIGINT", "minimum_subtotal": "DECIMAL(18,6)",
              "limited_to_one_item": "BOOLEAN", "applies_to_subscriptions": "BOOLEAN", "discounted_cycle_count": "BIGINT",
              "active": "BOOLEAN", "expired": "BOOLEAN", "reported_usages": "BIGINT"}'
        ) AS c
    FROM judged
)
SELECT
    site_id,
    coupon_id,
    c.code                                                                          AS code,
    lower(c.code)                                                                   AS _code,
    c.name                                                                          AS name,
    c.discount.type                                                                 AS discount_type,
    c.discount.value                                                                AS discount_value,
    c.discount.buy_x                                                                AS buy_x,
    c.discount.get_y                                                                AS get_y,
    c.discount.raw_type                                                             AS raw_type,
    c.scope.namespace                                                               AS scope_namespace,
    c.scope."group"                                                                 AS scope_group,
    c.scope.entity_id                                                               AS scope_entity_id,
    c.start_time                                                                    AS start_time,
    c.expiration_time                                                               AS expiration_time,
    c.created_at                                                                    AS created_at,
    c.usage_limit                                                                   AS usage_limit,
    c.limit_per_customer                                                            AS limit_per_customer,
    c.minimum_subtotal                                                              AS minimum_subtotal,
    c.limited_to_one_item                                                           AS limited_to_one_item,
    c.applies_to_subscriptions                                                      AS applies_to_subscriptions,
    c.discounted_cycle_count                                                        AS discounted_cycle_count,
    c.active                                                                        AS active,
    c.expired                                                                       AS expired,
    c.reported_usages                                                               AS reported_usages,
    coalesce(
        CASE WHEN life_by_sequence THEN _life_sequenced.deleted ELSE _life_unsequenced.deleted END,
        false
    )                                                                               AS deleted,
    deleted_at,
    CASE WHEN _created_last > deleted_at THEN _created_last END                     AS restored_at,
    first_event_time,
    last_event_time,
    CASE WHEN by_sequence THEN _sequenced.event_id ELSE _unsequenced.event_id END   AS snapshot_event_id,
    CASE WHEN by_sequence THEN _sequenced.event_time ELSE _unsequenced.event_time END AS snapshot_time,
    _sequenced,
    _unsequenced,
    _life_sequenced,
    _life_unsequenced,
    _created_last
FROM typed
