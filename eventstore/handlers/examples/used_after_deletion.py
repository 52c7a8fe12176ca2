"""Alerts you when a coupon was used after it had been deleted, in whatever order Wix tells the two.

The event of a deletion may arrive after that of the use, a use may be reported twice, and a deleted coupon may come back. So
both kinds of events are kept in a small table, and each event is judged together with those that came before it. The table
is written through `event.transaction`: in the store's own database, and exactly once for each event.

It is one handler for all three kinds of events, and not three, because events of one coupon come to *one* handler one after
the other. Two handlers would be called at the same time, and each could miss what the other is about to write.
"""

from sqlalchemy import text

from eventstore.handlers import CouponApplied, CouponCreated, CouponDeleted, on

TABLE = text("""
    CREATE TABLE IF NOT EXISTS used_after_deletion (
        site TEXT, coupon TEXT, what TEXT, id TEXT, at TEXT, alerted INTEGER DEFAULT 0,
        PRIMARY KEY (site, coupon, what, id)
    )
""")
# A use is one order, however often it is reported; its first report dates it.
NOTE = text("""
    INSERT INTO used_after_deletion (site, coupon, what, id, at) VALUES (:site, :coupon, :what, :id, :at)
    ON CONFLICT (site, coupon, what, id) DO UPDATE SET at = excluded.at WHERE excluded.at < used_after_deletion.at
""")
# The uses that this event can throw a new light on: whether the last that was heard of the coupon before is its deletion.
JUDGE = text("""
    SELECT id, at, deleted
    FROM (
        SELECT
            id, at, alerted,
            coalesce((
                SELECT CASE WHEN life.what = 'deleted' THEN 1 ELSE 0 END
                FROM used_after_deletion AS life
                WHERE life.site = uses.site AND life.coupon = uses.coupon AND life.what <> 'used' AND life.at < uses.at
                ORDER BY life.at DESC
                LIMIT 1
            ), 0) AS deleted
        FROM used_after_deletion AS uses
        WHERE site = :site AND coupon = :coupon AND what = 'used' AND at >= :at
    ) AS judged
    WHERE alerted <> deleted
    ORDER BY at
""")
ALERTED = text("""
    UPDATE used_after_deletion SET alerted = :alerted
    WHERE site = :site AND coupon = :coupon AND what = 'used' AND id = :id
""")


def alert(message: str) -> None:
    """Put your e-mail or chat here. Should it fail, the event comes again; so an alert may be repeated, but never lost."""
    print(message)


@on("coupon.created", "coupon.deleted", "coupon.applied")
def used_after_deletion(event: CouponCreated | CouponDeleted | CouponApplied) -> None:
    order = event.data.wixAppOrderId if isinstance(event, CouponApplied) else None
    what = "created" if isinstance(event, CouponCreated) else "deleted" if isinstance(event, CouponDeleted) else "used"
    coupon = {"site": event.site_id, "coupon": event.coupon_id}
    # Texts of one length in UTC, so that they sort as the times do, in any database.
    at = event.metadata.eventTime.isoformat(timespec="microseconds")

    database = event.transaction
    database.execute(TABLE)
    database.execute(NOTE, {**coupon, "what": what, "id": order or event.metadata.id, "at": at})
    for use in database.execute(JUDGE, {**coupon, "at": at}).all():
        database.execute(ALERTED, {**coupon, "id": use.id, "alerted": use.deleted})
        if use.deleted:
            alert(f"Coupon {event.coupon_id} was used at {use.at} in the order {use.id}, after it had been deleted")
        else:  # Wix told something older only now
            alert(
                f"Coupon {event.coupon_id} was not deleted when it was used at {use.at} in the order {use.id} after all"
            )
