-- facts: the one place that turns an event's payload into typed columns.
-- From `batch`, the log's rows as they come (times in microseconds).
-- Only what orders, keys and counts is read here. A model that shows a snapshot chooses its event first and fetches the
-- payload from `batch` then: copying every payload along would cost as much as everything else together.
SELECT
    position,
    doc.site_id                         AS site_id,
    doc.event_id                        AS event_id,
    doc.type                            AS type,
    doc.source                          AS source,
    doc.entity_id                       AS entity_id,
    -- An event of a coupon that does not name it is about its entity.
    coalesce(doc.coupon_id, CASE WHEN doc.type LIKE 'coupon.%' THEN doc.entity_id END) AS coupon_id,
    make_timestamptz(event_time)        AS event_time,
    make_timestamptz(recorded_at)       AS recorded_at,
    doc.sequence                        AS sequence,
    doc.order_id                        AS order_id,
    doc.app_id                          AS app_id,
    doc.recognised                      AS recognised,
    doc.restored                        AS restored,
    doc.coupon IS NOT NULL              AS has_coupon,
    doc.coupon.code                     AS code,
    doc.loyalty IS NOT NULL             AS has_loyalty,
    doc.loyalty.revision                AS revision
FROM (
    SELECT
        *,
        from_json(
            payload,
            '{"site_id": "VARCHAR", "event_id": "VARCHAR", "type": "VARCHAR", "source": "VARCHAR", "entity_id": "VARCHAR",
              "coupon_id": "VARCHAR", "sequence": "BIGINT", "order_id": "VARCHAR", "app_id": "VARCHAR",
              "recognised": "BOOLEAN", "restored": "BOOLEAN", "coupon": {"code": "VARCHAR"},
              "loyalty": {"revision": "BIGINT"}}'
        ) AS doc
    FROM batch
)
