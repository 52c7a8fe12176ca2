-- projection: loyalty_coupons
-- version: 1
-- from: facts
-- key: site_id, loyalty_coupon_id
-- index: site_id, coupon_id
-- about: The current state of every loyalty reward coupon, linked to its marketing coupon. Who earned it stays in the log.
-- column: site_id            text       the site (Wix app instance)
-- column: loyalty_coupon_id  text       Wix's id of the loyalty coupon
-- column: coupon_id          text       the marketing coupon it made (`couponReference.couponId`)
-- column: code               text       that coupon's code
-- column: status             text       UNKNOWN, PENDING, ACTIVE, APPLIED, FAILED or ARCHIVED, as last reported
-- column: reward_name        text       the reward it was redeemed for
-- column: revision           bigint     Wix's revision of the snapshot shown
-- column: discount_type      text       as in coupons
-- column: discount_value     decimal    as in coupons
-- column: transaction_id     text       the points transaction that paid for it
-- column: refundable         boolean    refundable rewards are hidden from customers
-- column: coupon_deleted     boolean    whether Wix said that the marketing coupon is gone
-- column: created_at         timestamp  when Wix says it was made
-- column: updated_at         timestamp  when Wix says it last changed
-- column: deleted            boolean    whether a deletion of it is known
-- column: deleted_at         timestamp  its last deletion
-- column: first_event_time   timestamp  the earliest event known of it
-- column: last_event_time    timestamp  the latest event known of it
-- column: snapshot_event_id  text       the event whose snapshot these columns show
-- column: _latest            json       memory of the merge: the best snapshot, by revision, then sequence, time and event id
-- column: _coupon_id         json       memory of the merge: the latest coupon id told

-- [lift]
WITH chosen AS (
    SELECT
        site_id,
        entity_id AS loyalty_coupon_id,
        max({'revision': coalesce(revision, -1), 'sequence': coalesce(sequence, -1), 'event_time': event_time,
             'event_id': event_id, 'position': position})
            FILTER (has_loyalty)                                                AS latest,
        max({'event_time': event_time, 'event_id': event_id, 'coupon_id': coupon_id})
            FILTER (coupon_id IS NOT NULL)                                      AS _coupon_id,
        max(event_time) FILTER (type = 'loyalty_coupon.deleted')                AS deleted_at,
        min(event_time)                                                         AS first_event_time,
        max(event_time)                                                         AS last_event_time
    FROM facts
    WHERE type IN ('loyalty_coupon.created', 'loyalty_coupon.updated', 'loyalty_coupon.deleted')
    GROUP BY site_id, entity_id
)
SELECT
    site_id,
    loyalty_coupon_id,
    CASE WHEN latest IS NOT NULL THEN {
        'revision': latest.revision, 'sequence': latest.sequence, 'event_time': latest.event_time,
        'event_id': latest.event_id,
        -- What is needed of the snapshot and no more: the member and the account stay out of every projection.
        'loyalty': to_json(from_json(
            batch.payload,
            '{"loyalty": {"status": "VARCHAR", "reward_name": "VARCHAR", "revision": "BIGINT", "transaction_id": "VARCHAR",
                          "refundable": "BOOLEAN", "coupon_deleted": "BOOLEAN", "created_at": "VARCHAR", "updated_at": "VARCHAR"},
              "coupon": {"code": "VARCHAR", "discount": {"type": "VARCHAR", "value": "VARCHAR"}}}'
        ))::VARCHAR
    } END AS _latest,
    _coupon_id,
    deleted_at,
    first_event_time,
    last_event_time
FROM chosen
LEFT JOIN batch ON batch.position = chosen.latest.position

-- [merge]
WITH merged AS (
    SELECT
        site_id,
        loyalty_coupon_id,
        max(_latest)            AS _latest,
        max(_coupon_id)         AS _coupon_id,
        max(deleted_at)         AS deleted_at,
        min(first_event_time)   AS first_event_time,
        max(last_event_time)    AS last_event_time
    FROM partial
    GROUP BY site_id, loyalty_coupon_id
),
typed AS (
    SELECT
        *,
        from_json(
            _latest.loyalty,
            '{"loyalty": {"status": "VARCHAR", "reward_name": "VARCHAR", "revision": "BIGINT", "transaction_id": "VARCHAR",
                          "refundable": "BOOLEAN", "coupon_deleted": "BOOLEAN", "created_at": "TIMESTAMPTZ",
                          "updated_at": "TIMESTAMPTZ"},
              "coupon": {"code": "VARCHAR", "discount": {"type": "VARCHAR", "value": "DECIMAL(18,6)"}}}'
        ) AS d
    FROM merged
)
SELECT
    site_id,
    loyalty_coupon_id,
    _coupon_id.coupon_id                    AS coupon_id,
    d.coupon.code                           AS code,
    d.loyalty.status                        AS status,
    d.loyalty.reward_name                   AS reward_name,
    d.loyalty.revision                      AS revision,
    d.coupon.discount.type                  AS discount_type,
    d.coupon.discount.value                 AS discount_value,
    d.loyalty.transaction_id                AS transaction_id,
    coalesce(d.loyalty.refundable, false)   AS refundable,
    coalesce(d.loyalty.coupon_deleted, false) AS coupon_deleted,
    d.loyalty.created_at                    AS created_at,
    d.loyalty.updated_at                    AS updated_at,
    deleted_at IS NOT NULL                  AS deleted,
    deleted_at,
    first_event_time,
    last_event_time,
    _latest.event_id                        AS snapshot_event_id,
    _latest,
    _coupon_id
FROM typed
