"""The peers of `reports`: its questions as one would write them for the database's tables, and by hand for the lake's files.

Both take what is kept there for them, as the reports do: the counts of `coupon_usage`, and by hand the numbers `coupon_key`. What
they leave out is what makes the reports longer: parameters, and words such as a reconciliation's likely cause.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """A report's question asked otherwise. `columns`: the report's columns that it gives, in this order; `compared`: how many of
    them must be the same, keys and counts, for times and shares are written otherwise. Of a database those suffice that its
    tables hold: what only a payload tells, as Wix's counts of long ago, it is not asked for."""

    columns: tuple[str, ...]
    compared: int
    of_tables: str
    by_hand: str


PEERS = {
    "usage-per-coupon": Peer(
        columns=(
            *(
                "site_id",
                "coupon_id",
                "code",
                "times_used",
                "difference",
                "uses_after_deletion",
                "reported_usages",
                "name",
            ),
            *("discount_type", "discount_value", "first_used_at", "last_used_at", "usage_limit", "deleted"),
        ),
        compared=7,
        of_tables="""
            WITH after_deletion AS (
                SELECT r.site_id, r.coupon_id, count(*) AS uses
                FROM redemptions r JOIN coupons c ON c.site_id = r.site_id AND c.coupon_id = r.coupon_id
                WHERE r.redeemed_at > c.deleted_at AND (c.restored_at IS NULL OR r.redeemed_at < c.restored_at)
                GROUP BY r.site_id, r.coupon_id
            )
            SELECT c.site_id, c.coupon_id, c.code, coalesce(u.times_used, 0) AS uses,
                   coalesce(u.times_used, 0) - c.reported_usages, coalesce(a.uses, 0), c.reported_usages, c.name,
                   coalesce(c.discount_type, 'UNKNOWN'), c.discount_value, u.first_used_at, u.last_used_at, c.usage_limit,
                   c.deleted
            FROM coupons c
            LEFT JOIN coupon_usage u ON u.site_id = c.site_id AND u.coupon_id = c.coupon_id
            LEFT JOIN after_deletion a ON a.site_id = c.site_id AND a.coupon_id = c.coupon_id
            ORDER BY uses DESC, c.code, c.site_id, c.coupon_id""",
        by_hand="""
            WITH after_deletion AS (
                SELECT coupon_key, count(*) AS uses
                FROM {redemptions} r JOIN {coupons} c USING (coupon_key)
                WHERE r.redeemed_at > c.deleted_at AND (c.restored_at IS NULL OR r.redeemed_at < c.restored_at)
                GROUP BY coupon_key
            )
            SELECT c.site_id, c.coupon_id, c.code, coalesce(u.times_used, 0) AS uses,
                   coalesce(u.times_used, 0) - c.reported_usages, coalesce(a.uses, 0), c.reported_usages, c.name,
                   coalesce(c.discount_type, 'UNKNOWN'), c.discount_value, u.first_used_at, u.last_used_at, c.usage_limit,
                   c.deleted
            FROM {coupons} c
            LEFT JOIN {coupon_usage} u USING (coupon_key)
            LEFT JOIN after_deletion a USING (coupon_key)
            ORDER BY uses DESC, c.code, c.site_id, c.coupon_id""",
    ),
    "usage-per-discount-type": Peer(
        columns=(
            *("discount_type", "coupons", "coupons_used", "times_used", "uses_after_deletion"),
            *("share_of_uses", "uses_per_used_coupon", "first_used_at", "last_used_at"),
        ),
        compared=5,
        of_tables="""
            WITH after_deletion AS (
                SELECT coalesce(c.discount_type, 'UNKNOWN') AS discount_type, count(*) AS uses
                FROM redemptions r JOIN coupons c ON c.site_id = r.site_id AND c.coupon_id = r.coupon_id
                WHERE r.redeemed_at > c.deleted_at AND (c.restored_at IS NULL OR r.redeemed_at < c.restored_at)
                GROUP BY 1
            ),
            per_type AS (
                SELECT coalesce(c.discount_type, 'UNKNOWN') AS discount_type, count(*) AS coupons,
                       count(u.times_used) AS used, coalesce(sum(u.times_used), 0) AS uses,
                       min(u.first_used_at) AS first_at, max(u.last_used_at) AS last_at
                FROM coupons c LEFT JOIN coupon_usage u ON u.site_id = c.site_id AND u.coupon_id = c.coupon_id
                GROUP BY 1
            )
            SELECT t.discount_type, t.coupons, t.used, t.uses, coalesce(a.uses, 0),
                   round(100.0 * t.uses / sum(t.uses) OVER (), 1), round(1.0 * t.uses / nullif(t.used, 0), 2),
                   t.first_at, t.last_at
            FROM per_type t LEFT JOIN after_deletion a ON a.discount_type = t.discount_type""",
        by_hand="""
            WITH after_deletion AS (
                SELECT coalesce(c.discount_type, 'UNKNOWN') AS discount_type, count(*) AS uses
                FROM {redemptions} r JOIN {coupons} c USING (coupon_key)
                WHERE r.redeemed_at > c.deleted_at AND (c.restored_at IS NULL OR r.redeemed_at < c.restored_at)
                GROUP BY 1
            ),
            per_type AS (
                SELECT coalesce(c.discount_type, 'UNKNOWN') AS discount_type, count(*) AS coupons,
                       count(u.times_used) AS used, coalesce(sum(u.times_used), 0)::BIGINT AS uses,
                       min(u.first_used_at) AS first_at, max(u.last_used_at) AS last_at
                FROM {coupons} c LEFT JOIN {coupon_usage} u USING (coupon_key)
                GROUP BY 1
            )
            SELECT t.discount_type, t.coupons, t.used, t.uses, coalesce(a.uses, 0),
                   round(100.0 * t.uses / sum(t.uses) OVER (), 1), round(t.uses / nullif(t.used, 0), 2),
                   t.first_at, t.last_at
            FROM per_type t LEFT JOIN after_deletion a USING (discount_type)""",
    ),
    "usage-per-app": Peer(
        columns=("app_id", "times_used", "coupons_used", "share_of_uses", "first_used_at", "last_used_at"),
        compared=3,
        of_tables="""
            SELECT app_id, sum(uses), count(*), round(100.0 * sum(uses) / sum(sum(uses)) OVER (), 1),
                   min(first_at), max(last_at)
            FROM (
                SELECT coalesce(app_id, '') AS app_id, count(*) AS uses, min(redeemed_at) AS first_at,
                       max(redeemed_at) AS last_at
                FROM redemptions GROUP BY coalesce(app_id, ''), site_id, coupon_id
            ) AS per_coupon
            GROUP BY app_id ORDER BY 2 DESC""",
        by_hand="""
            SELECT app_id, sum(uses)::BIGINT, count(*), round(100.0 * sum(uses) / sum(sum(uses)) OVER (), 1),
                   min(first_at), max(last_at)
            FROM (
                SELECT coalesce(app_id, '') AS app_id, count(*) AS uses, min(redeemed_at) AS first_at,
                       max(redeemed_at) AS last_at
                FROM {redemptions} GROUP BY coalesce(app_id, ''), coupon_key
            )
            GROUP BY app_id ORDER BY 2 DESC""",
    ),
    "usage-per-scope": Peer(
        columns=(
            *("scope_namespace", "scope_group", "coupons", "coupons_used", "times_used"),
            *("share_of_uses", "uses_per_used_coupon", "first_used_at", "last_used_at"),
        ),
        compared=5,
        of_tables="""
            SELECT c.scope_namespace, c.scope_group, count(*), count(u.times_used), coalesce(sum(u.times_used), 0),
                   round(100.0 * coalesce(sum(u.times_used), 0) / sum(coalesce(sum(u.times_used), 0)) OVER (), 1),
                   round(1.0 * sum(u.times_used) / nullif(count(u.times_used), 0), 2),
                   min(u.first_used_at), max(u.last_used_at)
            FROM coupons c LEFT JOIN coupon_usage u ON u.site_id = c.site_id AND u.coupon_id = c.coupon_id
            GROUP BY c.scope_namespace, c.scope_group, c.snapshot_event_id IS NOT NULL
            ORDER BY 5 DESC""",
        by_hand="""
            SELECT c.scope_namespace, c.scope_group, count(*), count(u.times_used), coalesce(sum(u.times_used), 0)::BIGINT,
                   round(100.0 * coalesce(sum(u.times_used), 0) / sum(coalesce(sum(u.times_used), 0)) OVER (), 1),
                   round(sum(u.times_used) / nullif(count(u.times_used), 0), 2),
                   min(u.first_used_at), max(u.last_used_at)
            FROM {coupons} c LEFT JOIN {coupon_usage} u USING (coupon_key)
            GROUP BY c.scope_namespace, c.scope_group, c.snapshot_event_id IS NOT NULL
            ORDER BY 5 DESC""",
    ),
    # Days without a use are none of the database's rows; the logs of benchmarks have none.
    "usage-over-time": Peer(
        columns=("times_used", "coupons_used", "first_used", "running_total", "begins"),
        compared=4,
        of_tables="""
            WITH used AS (
                SELECT day, sum(uses) AS uses, count(*) AS coupons
                FROM (
                    SELECT redeemed_at / 86400000000 AS day, count(*) AS uses
                    FROM redemptions GROUP BY redeemed_at / 86400000000, site_id, coupon_id
                ) AS per_coupon
                GROUP BY day
            ),
            firsts AS (
                SELECT first_used_at / 86400000000 AS day, count(*) AS coupons
                FROM coupon_usage GROUP BY first_used_at / 86400000000
            )
            SELECT u.uses, u.coupons, coalesce(f.coupons, 0), sum(u.uses) OVER (ORDER BY u.day), u.day
            FROM used u LEFT JOIN firsts f ON f.day = u.day
            ORDER BY u.day""",
        by_hand="""
            WITH used AS (
                SELECT day, sum(uses)::BIGINT AS uses, count(*) AS coupons
                FROM (
                    SELECT epoch_us(redeemed_at) // 86400000000 AS day, count(*) AS uses
                    FROM {redemptions} GROUP BY 1, coupon_key
                )
                GROUP BY day
            ),
            firsts AS (
                SELECT epoch_us(first_used_at) // 86400000000 AS day, count(*) AS coupons FROM {coupon_usage} GROUP BY 1
            ),
            days AS (SELECT unnest(range(min(day), max(day) + 1)) AS day FROM used)
            SELECT coalesce(u.uses, 0), coalesce(u.coupons, 0), coalesce(f.coupons, 0),
                   (sum(u.uses) OVER (ORDER BY d.day))::BIGINT, DATE '1970-01-01' + d.day::INTEGER
            FROM days d LEFT JOIN used u USING (day) LEFT JOIN firsts f USING (day)
            ORDER BY d.day""",
    ),
    "reconciliation": Peer(
        columns=(
            *("site_id", "coupon_id", "code", "times_used", "reported_usages", "difference", "difference_at_snapshot"),
            *("uses_after_snapshot", "name", "snapshot_time", "first_event_at", "last_used_at", "deleted"),
            *("uses_before_store", "repeated_reports", "uses_without_order", "highest_reported"),
        ),
        compared=8,
        of_tables="""
            WITH later AS (
                SELECT r.site_id, r.coupon_id, count(*) AS uses
                FROM redemptions r JOIN coupons c ON c.site_id = r.site_id AND c.coupon_id = r.coupon_id
                WHERE r.redeemed_at > c.snapshot_time
                GROUP BY r.site_id, r.coupon_id
            )
            SELECT c.site_id, c.coupon_id, c.code, coalesce(u.times_used, 0), c.reported_usages,
                   coalesce(u.times_used, 0) - c.reported_usages,
                   coalesce(u.times_used, 0) - coalesce(l.uses, 0) - c.reported_usages AS gap,
                   CASE WHEN c.snapshot_time IS NOT NULL THEN coalesce(l.uses, 0) END,
                   c.name, c.snapshot_time, c.first_event_time, u.last_used_at, c.deleted
            FROM coupons c
            LEFT JOIN coupon_usage u ON u.site_id = c.site_id AND u.coupon_id = c.coupon_id
            LEFT JOIN later l ON l.site_id = c.site_id AND l.coupon_id = c.coupon_id
            ORDER BY abs(coalesce(u.times_used, 0) - coalesce(l.uses, 0) - c.reported_usages) DESC, c.code""",
        by_hand="""
            WITH later AS (
                SELECT coupon_key, count(*) AS uses
                FROM {redemptions} r JOIN {coupons} c USING (coupon_key)
                WHERE r.redeemed_at > c.snapshot_time
                GROUP BY coupon_key
            ),
            compared AS (
                SELECT c.*, coalesce(u.times_used, 0) AS uses, u.last_used_at, coalesce(l.uses, 0) AS after,
                       coalesce(u.times_used, 0) - coalesce(l.uses, 0) - c.reported_usages AS gap
                FROM {coupons} c LEFT JOIN {coupon_usage} u USING (coupon_key) LEFT JOIN later l USING (coupon_key)
            ),
            told AS (
                SELECT coupon_key,
                       min(f.reported_usages) FILTER (f.event_time = d.first_event_time) AS opening,
                       bool_or(f.type = 'coupon.applied' AND f.event_time = d.first_event_time) AS opened_by_use,
                       count(*) FILTER (f.type = 'coupon.applied' AND f.event_time <= d.snapshot_time) AS reports,
                       count(*) FILTER (f.type = 'coupon.applied' AND f.event_time <= d.snapshot_time
                                        AND f.order_id IS NULL) AS orderless,
                       max(f.reported_usages) AS highest
                FROM {events} f JOIN compared d USING (coupon_key)
                WHERE d.gap <> 0 AND f.type LIKE 'coupon.%'
                GROUP BY coupon_key
            )
            SELECT c.site_id, c.coupon_id, c.code, c.uses, c.reported_usages, c.uses - c.reported_usages, c.gap,
                   CASE WHEN c.snapshot_time IS NOT NULL THEN c.after END,
                   c.name, c.snapshot_time, c.first_event_time, c.last_used_at, c.deleted,
                   t.opening - (t.opened_by_use AND t.opening > 0)::INTEGER, t.reports - (c.uses - c.after), t.orderless,
                   t.highest
            FROM compared c LEFT JOIN told t USING (coupon_key)
            ORDER BY abs(c.gap) DESC, c.uses DESC, c.code, c.site_id, c.coupon_id""",
    ),
}
