-- report: loyalty-rewards
-- title: Loyalty rewards
-- group: coupons
-- question: What became of the rewards that members took for their points: were they used, lost their coupon, can be refunded?
-- parameter: site   text       null  Only this site; null: every site.
-- parameter: since  timestamp  null  Only rewards made at or after this time; null: from the beginning.
-- parameter: until  timestamp  null  Only rewards made before this time; null: to the end.
-- column: site_id            text     The site (Wix app instance) that the reward belongs to.
-- column: loyalty_coupon_id  text     Wix's id of the reward's loyalty coupon.
-- column: reward_name        text     The reward that points were redeemed for; null: not told.
-- column: status             text     As Wix last told it, ACTIVE, APPLIED …: no event tells a later one; null: not told.
-- column: created_at         time     When Wix says it was made, else the earliest event known of it.
-- column: coupon_id          text     The marketing coupon that it made; null: not told.
-- column: code               text     That coupon's code.
-- column: discount_type      text     MONEY_OFF, PERCENT_OFF, FREE_SHIPPING, FIXED_PRICE, BUY_X_GET_Y or UNKNOWN; null: not told.
-- column: discount_value     amount   Money, or a percentage for PERCENT_OFF; null for types without a value.
-- column: times_used         uses     Orders that used its coupon: an order counts once, however often it was reported.
-- column: first_used_at      time     The earliest of these uses.
-- column: last_used_at       time     The latest of these uses.
-- column: orphan             text     coupon not told, coupon unknown (no event of it is known), coupon deleted; null: it has one.
-- column: refundable         boolean  Whether Wix calls the reward refundable.
-- column: refund             text     Of a refundable one: can be refunded, used (so not to be refunded), deleted; null: of others.
-- column: deleted            boolean  Whether the reward is deleted.
-- column: deleted_at         time     Its last deletion.
-- column: transaction_id     text     The points transaction that paid for it.
-- table: reward_name, status, created_at, code, discount_type, discount_value, times_used, first_used_at, orphan, refund, deleted

WITH rewards AS (
    SELECT
        *,
        coalesce(created_at, first_event_time)          AS made_at
    FROM loyalty_coupons
    WHERE CAST($site AS VARCHAR) IS NULL OR site_id = $site
)
SELECT
    rewards.site_id                                     AS site_id,
    rewards.loyalty_coupon_id                           AS loyalty_coupon_id,
    rewards.reward_name                                 AS reward_name,
    rewards.status                                      AS status,
    rewards.made_at                                     AS created_at,
    rewards.coupon_id                                   AS coupon_id,
    coalesce(coupons.code, rewards.code)                AS code,
    coalesce(coupons.discount_type, rewards.discount_type)
                                                        AS discount_type,
    CASE WHEN coupons.discount_type IS NOT NULL THEN coupons.discount_value ELSE rewards.discount_value END
                                                        AS discount_value,
    coalesce(coupon_usage.times_used, 0)                AS times_used,
    coupon_usage.first_used_at                          AS first_used_at,
    coupon_usage.last_used_at                           AS last_used_at,
    CASE
        WHEN coupons.deleted OR rewards.coupon_deleted THEN 'coupon deleted'
        WHEN rewards.coupon_id IS NULL THEN 'coupon not told'
        WHEN coupons.coupon_id IS NULL THEN 'coupon unknown'
    END                                                 AS orphan,
    rewards.refundable                                  AS refundable,
    CASE
        WHEN NOT rewards.refundable THEN NULL
        -- Wix's own word too: a use can have been lost on its way here.
        WHEN coupon_usage.times_used > 0 OR rewards.status = 'APPLIED' THEN 'used'
        WHEN rewards.deleted THEN 'deleted'
        ELSE 'can be refunded'
    END                                                 AS refund,
    rewards.deleted                                     AS deleted,
    rewards.deleted_at                                  AS deleted_at,
    rewards.transaction_id                              AS transaction_id
FROM rewards
LEFT JOIN coupons
    ON coupons.site_id = rewards.site_id AND coupons.coupon_id = rewards.coupon_id
LEFT JOIN coupon_usage
    ON coupon_usage.site_id = rewards.site_id AND coupon_usage.coupon_id = rewards.coupon_id
WHERE
    (CAST($since AS TIMESTAMPTZ) IS NULL OR rewards.made_at >= CAST($since AS TIMESTAMPTZ))
    AND (CAST($until AS TIMESTAMPTZ) IS NULL OR rewards.made_at < CAST($until AS TIMESTAMPTZ))
ORDER BY rewards.made_at, rewards.site_id, rewards.loyalty_coupon_id
