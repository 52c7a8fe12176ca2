"""The peers of `reports`: its questions as one would write them for the database's tables, and by hand for the lake's files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """A report's question asked otherwise. `columns`: the report's columns that it gives, in this order; `compared`: how many of
    them must be the same, keys and counts, for times and shares are written otherwise."""

    columns: tuple[str, ...]
    compared: int
    of_tables: str
    by_hand: str


PEERS = {
    "usage-per-coupon": Peer(
        columns=("site_id", "coupon_id", "code", "times_used", "difference", "first_used_at", "last_used_at"),
        compared=5,
        of_tables="""
            SELECT c.site_id, c.coupon_id, c.code, count(r.order_id) AS times_used,
                   count(r.order_id) - c.reported_usages, min(r.redeemed_at), max(r.redeemed_at)
            FROM coupons c LEFT JOIN redemptions r ON r.site_id = c.site_id AND r.coupon_id = c.coupon_id
            GROUP BY c.site_id, c.coupon_id, c.code, c.reported_usages
            ORDER BY times_used DESC, c.code""",
        by_hand="""
            SELECT c.site_id, c.coupon_id, c.code, count(r.redeemed_at) AS times_used,
                   count(r.redeemed_at) - c.reported_usages, min(r.redeemed_at), max(r.redeemed_at)
            FROM {coupons} c LEFT JOIN {redemptions} r ON r.site_id = c.site_id AND r.coupon_id = c.coupon_id
            GROUP BY c.site_id, c.coupon_id, c.code, c.reported_usages
            ORDER BY times_used DESC, c.code""",
    ),
    "usage-per-discount-type": Peer(
        columns=("discount_type", "coupons", "coupons_used", "times_used", "first_used_at", "last_used_at"),
        compared=4,
        of_tables="""
            SELECT coalesce(c.discount_type, 'UNKNOWN'), count(DISTINCT c.coupon_id), count(DISTINCT r.coupon_id),
                   count(r.order_id), min(r.redeemed_at), max(r.redeemed_at)
            FROM coupons c LEFT JOIN redemptions r ON r.site_id = c.site_id AND r.coupon_id = c.coupon_id
            GROUP BY coalesce(c.discount_type, 'UNKNOWN')""",
        by_hand="""
            WITH per_coupon AS (
                SELECT coalesce(c.discount_type, 'UNKNOWN') AS discount_type, count(r.redeemed_at) AS times_used,
                       min(r.redeemed_at) AS first_at, max(r.redeemed_at) AS last_at
                FROM {coupons} c LEFT JOIN {redemptions} r ON r.site_id = c.site_id AND r.coupon_id = c.coupon_id
                GROUP BY c.site_id, c.coupon_id, c.discount_type
            )
            SELECT discount_type, count(*), count(*) FILTER (times_used > 0), sum(times_used), min(first_at), max(last_at)
            FROM per_coupon GROUP BY discount_type""",
    ),
    "usage-per-app": Peer(
        columns=("app_id", "times_used", "coupons_used", "first_used_at", "last_used_at"),
        compared=3,
        of_tables="""
            SELECT app_id, sum(uses), count(*), min(first_at), max(last_at)
            FROM (
                SELECT coalesce(app_id, '') AS app_id, count(*) AS uses, min(redeemed_at) AS first_at,
                       max(redeemed_at) AS last_at
                FROM redemptions GROUP BY coalesce(app_id, ''), site_id, coupon_id
            ) AS per_coupon
            GROUP BY app_id ORDER BY 2 DESC""",
        by_hand="""
            SELECT app_id, sum(uses), count(*), min(first_at), max(last_at)
            FROM (
                SELECT coalesce(app_id, '') AS app_id, count(*) AS uses, min(redeemed_at) AS first_at,
                       max(redeemed_at) AS last_at
                FROM {redemptions} GROUP BY coalesce(app_id, ''), site_id, coupon_id
            )
            GROUP BY app_id ORDER BY 2 DESC""",
    ),
    "usage-per-scope": Peer(
        columns=("scope_namespace", "scope_group", "coupons", "coupons_used", "times_used", "first_used_at", "last_used_at"),
        compared=5,
        of_tables="""
            WITH uses AS (
                SELECT site_id, coupon_id, count(*) AS uses, min(redeemed_at) AS first_at, max(redeemed_at) AS last_at
                FROM redemptions GROUP BY site_id, coupon_id
            )
            SELECT c.scope_namespace, c.scope_group, count(*), count(u.uses), coalesce(sum(u.uses), 0),
                   min(u.first_at), max(u.last_at)
            FROM coupons c LEFT JOIN uses u ON u.site_id = c.site_id AND u.coupon_id = c.coupon_id
            GROUP BY c.scope_namespace, c.scope_group, c.snapshot_event_id IS NOT NULL""",
        by_hand="""
            WITH uses AS (
                SELECT site_id, coupon_id, count(*) AS uses, min(redeemed_at) AS first_at, max(redeemed_at) AS last_at
                FROM {redemptions} GROUP BY site_id, coupon_id
            )
            SELECT c.scope_namespace, c.scope_group, count(*), count(u.uses), coalesce(sum(u.uses), 0)::BIGINT,
                   min(u.first_at), max(u.last_at)
            FROM {coupons} c LEFT JOIN uses u ON u.site_id = c.site_id AND u.coupon_id = c.coupon_id
            GROUP BY c.scope_namespace, c.scope_group, c.snapshot_event_id IS NOT NULL""",
    ),
}
