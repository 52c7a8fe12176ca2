-- events: the log as analysts read it, one row an event of `batch`; its payload is parsed once, on the way into the lake.
-- What the models read of an event is told here as eventstore/projections/facts.sql tells it; a test compares the two. Beside it
-- stand the snapshot that the event carried, if any, and who caused it: personal data, unless it was an app.
-- column: position          bigint     the event's place in the log: 1, 2, 3 … without gaps
-- column: event_id          text       Wix's id of the event, or one derived from its content
-- column: site_id           text       the site (Wix app instance) that it happened on
-- column: type              text       coupon.created, coupon.applied …; Wix's own name for an unrecognised family
-- column: source            text       the route it came by: velo, rest, sdk or snapshot
-- column: entity_id         text       what it is about, in Wix's ids
-- column: coupon_id         text       the marketing coupon that it is about, if any
-- column: event_time        timestamp  when it happened, as Wix says
-- column: event_date        date       the UTC day that it happened on
-- column: recorded_at       timestamp  when the log took it in
-- column: sequence          bigint     Wix's sequence number for the entity; null on routes without one
-- column: order_id          text       the order that used the coupon
-- column: has_order         boolean    whether it tells which order used the coupon: no text has to be read to know
-- column: app_id            text       the app that the order was made in
-- column: recognised        boolean    whether the family is one that Wix documents for coupons
-- column: restored          boolean    whether it brings back what had been deleted
-- column: has_coupon        boolean    whether it carried a snapshot of the coupon, which the next columns then show
-- column: code              text       the coupon's code as this event shows it
-- column: name              text       its name
-- column: discount_type     text       MONEY_OFF, PERCENT_OFF, FREE_SHIPPING, FIXED_PRICE, BUY_X_GET_Y or UNKNOWN
-- column: discount_value    decimal    an amount in the site's currency, or a percentage for PERCENT_OFF
-- column: buy_x             bigint     items to buy (BUY_X_GET_Y)
-- column: get_y             bigint     items then free (BUY_X_GET_Y)
-- column: raw_type          text       the discount's type in Wix's own words
-- column: has_scope         boolean    whether it is limited to a part of the site, even if not told which
-- column: scope_namespace   text       stores, bookings, events, pricingPlans …; null: the whole site
-- column: scope_group       text       product, collection, service, event, ticket, plan …
-- column: scope_entity_id   text       the one product, service … it is for
-- column: start_time        timestamp  valid from
-- column: expiration_time   timestamp  valid until; null: no end
-- column: created_at        timestamp  when Wix says the coupon was made
-- column: usage_limit       bigint     uses allowed in all
-- column: limit_per_customer bigint    uses allowed for one customer
-- column: minimum_subtotal  decimal    least order value
-- column: limited_to_one_item boolean  only one item of the order is discounted
-- column: applies_to_subscriptions boolean  also for subscriptions
-- column: discounted_cycle_count bigint subscription cycles discounted, 1–999
-- column: active            boolean    the switch in the dashboard
-- column: expired           boolean    whether Wix called it expired
-- column: reported_usages   bigint     Wix's own counter `numberOfUsages`
-- column: has_loyalty       boolean    whether it carried a loyalty reward's snapshot
-- column: loyalty_status    text       that reward's status: PENDING, ACTIVE, APPLIED …
-- column: revision          bigint     Wix's revision of that snapshot
-- column: actor_type        text       ANONYMOUS_VISITOR, MEMBER, WIX_USER, APP or UNKNOWN; null: not told who did it
-- column: actor_id          text       Wix's id of who did it: personal data, unless it is an APP's
-- column: account_id        text       the Wix account whose site it is: personal data of the owner
-- column: account_site_id   text       that account's site in Wix's accountInfo, which site_id need not be
-- column: coupon_key        bigint     a number for site_id and coupon_id, to join and group by: much faster than texts
-- column: event_key         bigint     a number for site_id and event_id, likewise
-- column: oddities          bigint     what it shows by itself that is odd, added up (see below); 0: nothing
-- column: payload           text       the event as the log keeps it, canonical JSON: holds personal data
--
-- Oddities have the codes of the report `findings`: 1 late, 2 used_before_start, 4 used_after_expiration, 8 used_while_inactive,
-- 16 coupon_id_differs_from_entity_id, 32 scope_and_minimum_subtotal, 64 free_shipping_with_scope,
-- 128 bookings_not_limited_to_one_item, 256 code_too_long, 512 name_too_long, 1024 unknown_discount.
SELECT
    position,
    doc.event_id                        AS event_id,
    doc.site_id                         AS site_id,
    doc.type                            AS type,
    doc.source                          AS source,
    doc.entity_id                       AS entity_id,
    -- An event of a coupon that does not name it is about its entity.
    coalesce(doc.coupon_id, CASE WHEN doc.type LIKE 'coupon.%' THEN doc.entity_id END) AS coupon_id,
    make_timestamptz(event_time)        AS event_time,
    -- Grouping by a day is twenty times as fast as by a time cut to its day.
    CAST(make_timestamp(event_time) AS DATE) AS event_date,
    make_timestamptz(recorded_at)       AS recorded_at,
    doc.sequence                        AS sequence,
    doc.order_id                        AS order_id,
    doc.order_id IS NOT NULL            AS has_order,
    doc.app_id                          AS app_id,
    doc.recognised                      AS recognised,
    doc.restored                        AS restored,
    doc.coupon IS NOT NULL              AS has_coupon,
    doc.coupon.code                     AS code,
    doc.coupon.name                     AS name,
    doc.coupon.discount.type            AS discount_type,
    doc.coupon.discount.value           AS discount_value,
    doc.coupon.discount.buy_x           AS buy_x,
    doc.coupon.discount.get_y           AS get_y,
    doc.coupon.discount.raw_type        AS raw_type,
    doc.coupon.scope IS NOT NULL        AS has_scope,
    doc.coupon.scope.namespace          AS scope_namespace,
    doc.coupon.scope."group"            AS scope_group,
    doc.coupon.scope.entity_id          AS scope_entity_id,
    doc.coupon.start_time               AS start_time,
    doc.coupon.expiration_time          AS expiration_time,
    doc.coupon.created_at               AS created_at,
    doc.coupon.usage_limit              AS usage_limit,
    doc.coupon.limit_per_customer       AS limit_per_customer,
    doc.coupon.minimum_subtotal         AS minimum_subtotal,
    doc.coupon.limited_to_one_item      AS limited_to_one_item,
    doc.coupon.applies_to_subscriptions AS applies_to_subscriptions,
    doc.coupon.discounted_cycle_count   AS discounted_cycle_count,
    doc.coupon.active                   AS active,
    doc.coupon.expired                  AS expired,
    doc.coupon.reported_usages          AS reported_usages,
    doc.loyalty IS NOT NULL             AS has_loyalty,
    doc.loyalty.status                  AS loyalty_status,
    doc.loyalty.revision                AS revision,
    doc.actor.type                      AS actor_type,
    doc.actor.id                        AS actor_id,
    doc.account.account_id              AS account_id,
    doc.account.site_id                 AS account_site_id,
    -- As analytics/columns.py makes them of the projections' columns.
    CASE WHEN doc.coupon_id IS NOT NULL OR doc.type LIKE 'coupon.%' THEN CAST(
        md5_number(concat_ws(chr(31), doc.site_id, coalesce(doc.coupon_id, doc.entity_id))) & 9223372036854775807::UHUGEINT
        AS BIGINT
    ) END                               AS coupon_key,
    CAST(md5_number(concat_ws(chr(31), doc.site_id, doc.event_id)) & 9223372036854775807::UHUGEINT AS BIGINT) AS event_key,
    CAST(
        CASE WHEN doc.source <> 'snapshot' AND recorded_at - event_time > 3600000000 THEN 1 ELSE 0 END
        + CASE WHEN doc.type = 'coupon.applied' THEN
            CASE WHEN make_timestamptz(event_time) < doc.coupon.start_time THEN 2 ELSE 0 END
            + CASE WHEN make_timestamptz(event_time) >= doc.coupon.expiration_time THEN 4 ELSE 0 END
            + CASE WHEN NOT doc.coupon.active THEN 8 ELSE 0 END
        ELSE 0 END
        + CASE WHEN doc.type LIKE 'coupon.%' AND coalesce(doc.coupon_id, doc.entity_id) <> doc.entity_id THEN 16 ELSE 0 END
        + CASE WHEN doc.coupon_id IS NOT NULL OR doc.type LIKE 'coupon.%' THEN
            CASE WHEN doc.coupon.scope IS NOT NULL AND doc.coupon.minimum_subtotal IS NOT NULL THEN 32 ELSE 0 END
            + CASE WHEN doc.coupon.scope IS NOT NULL AND doc.coupon.discount.type = 'FREE_SHIPPING' THEN 64 ELSE 0 END
            + CASE WHEN doc.coupon.scope.namespace = 'bookings' AND NOT doc.coupon.limited_to_one_item THEN 128 ELSE 0 END
            + CASE WHEN length(doc.coupon.code) > 20 THEN 256 ELSE 0 END
            + CASE WHEN length(doc.coupon.name) > 80 THEN 512 ELSE 0 END
            + CASE WHEN doc.coupon.discount.type = 'UNKNOWN' THEN 1024 ELSE 0 END
        ELSE 0 END
        AS BIGINT
    )                                   AS oddities,
    payload
FROM (
    SELECT
        *,
        from_json(
            payload,
            '{"site_id": "VARCHAR", "event_id": "VARCHAR", "type": "VARCHAR", "source": "VARCHAR", "entity_id": "VARCHAR",
              "coupon_id": "VARCHAR", "sequence": "BIGINT", "order_id": "VARCHAR", "app_id": "VARCHAR",
              "recognised": "BOOLEAN", "restored": "BOOLEAN",
              "coupon": {
                  "code": "VARCHAR", "name": "VARCHAR",
                  "discount": {"type": "VARCHAR", "value": "DECIMAL(18,6)", "buy_x": "BIGINT", "get_y": "BIGINT",
                               "raw_type": "VARCHAR"},
                  "scope": {"namespace": "VARCHAR", "group": "VARCHAR", "entity_id": "VARCHAR"},
                  "start_time": "TIMESTAMPTZ", "expiration_time": "TIMESTAMPTZ", "created_at": "TIMESTAMPTZ",
                  "usage_limit": "BIGINT", "limit_per_customer": "BIGINT", "minimum_subtotal": "DECIMAL(18,6)",
                  "limited_to_one_item": "BOOLEAN", "applies_to_subscriptions": "BOOLEAN",
                  "discounted_cycle_count": "BIGINT", "active": "BOOLEAN", "expired": "BOOLEAN", "reported_usages": "BIGINT"},
              "loyalty": {"status": "VARCHAR", "revision": "BIGINT"},
              "actor": {"type": "VARCHAR", "id": "VARCHAR"},
              "account": {"account_id": "VARCHAR", "site_id": "VARCHAR"}}'
        ) AS doc
    FROM batch
)
