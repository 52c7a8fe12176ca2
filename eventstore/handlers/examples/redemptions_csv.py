"""Keeps a CSV of all redemptions: one row for each use of a coupon in an order.

The file is `redemptions.csv` in the working directory, or what the environment variable REDEMPTIONS_CSV says.

A handler may get an event twice: when the machine stops after a row was written, and before it was noted that the event was
handled. And Wix may report the use in one order twice. So each row has a key, and a row whose key is in the file is not
written again. A row that was cut short, by a full disk or a power failure, is cut off before the next one is written.
"""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from eventstore.handlers import CouponApplied

COLUMNS = ("key", "used_at", "site", "coupon_id", "code", "name", "order_id", "app_id")
FILE = Path(os.environ.get("REDEMPTIONS_CSV", "redemptions.csv"))


class Rows:
    """The rows of the file: the keys of those that are in it, and where the last of them ends."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.end = 0
        self.one_at_a_time = Lock()  # events of different coupons are handled at the same time

    def add(self, row: list[str]) -> None:
        with self.one_at_a_time:
            if not self.end:
                self.read()
            if row[0] in self.keys:
                return
            with FILE.open("r+b") as file:
                file.seek(self.end)
                file.truncate()  # what a failed attempt has left
                file.write(line(row))
                file.flush()
                os.fsync(file.fileno())  # from here on it may be noted that the event was handled
                self.end = file.tell()
            self.keys.add(row[0])

    def read(self) -> None:
        """What is in the file; if that is nothing, it is begun with a headline."""
        keys, end = set(), 0
        with FILE.open("a+b") as file:
            file.seek(0)
            for told in file:
                if told.endswith(b"\n"):
                    keys.add(next(csv.reader([told.decode()]))[0])
                    end += len(told)
        if not end:
            end = FILE.write_bytes(line(COLUMNS))
        self.keys, self.end = keys, end


rows = Rows()


def wixMarketing_onCouponApplied(event: CouponApplied) -> None:
    coupon, order = event.data.coupon, event.data.wixAppOrderId
    key = " ".join((event.site_id, event.coupon_id, order or event.metadata.id))
    used_at = event.metadata.eventTime.isoformat()
    row = (key, used_at, event.site_id, event.coupon_id, coupon.code, coupon.name, order, event.data.wixAppId)
    rows.add([cell(each) for each in row])


def cell(value: str | None) -> str:
    """A text for a cell: in one line, and nothing that a spreadsheet would take for a formula."""
    said = " ".join((value or "").split())
    return f"'{said}" if said.startswith(("=", "+", "-", "@")) else said


def line(cells: Sequence[str]) -> bytes:
    """A line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
