-- facts: the one place that turns an event's payload into typed columns.
-- From `batch`, the log's rows as they come (times in microseconds, absent values as '' and the least BIGINT).
-- Only what orders, keys and counts is read here; a coupon's snapshot stays in `payload` until a model has chosen which
-- of many it needs, because reading a snapshot costs more than everything else together.
SELECT
    position,
    site_id,
    event_id,
    type,
    source,
    entity_id,
    nullif(coupon_id, '')                               AS coupon_id,
    make_timestamptz(event_time)                        AS event_time,
    make_timestamptz(recorded_at)                       AS recorded_at,
    nullif(sequence, -9223372036854775808)              AS sequence,
    doc.order_id                                        AS order_id,
    doc.app_id                                          AS app_id,
    coalesce(doc.recognised, true)                      AS recognised,
    coalesce(doc.restored, false)                       AS restored,
    doc.coupon IS NOT NULL                              AS has_coupon,
    doc.coupon.code                                     AS code,
    doc.loyalty IS NOT NULL                             AS has_loyalty,
    doc.loyalty.revision                                AS revision,
    payload
FROM (
    SELECT
        *,
        from_json(
            payload,
            '{"order_id": "VARCHAR", "app_id": "VARCHAR", "recognised": "BOOLEAN", "restored": "BOOLEAN",
              "coupon": {"code": "VARCHAR"}, "loyalty": {"revision": "BIGINT"}}'
        ) AS doc
    FROM batch
)
