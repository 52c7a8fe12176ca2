"""Questions about coupons, answered in SQL.

    import analytics

    result = analytics.run_report("eventstore.db", "usage-per-coupon", since="2026-09-01")
    print(result.to_csv())

    with analytics.connect("eventstore.db") as store:
        store.execute("SELECT code, times_used FROM coupons JOIN coupon_usage USING (site_id, coupon_id)").fetchall()

`run_report` answers one of the questions in `reports/*.sql` (`reports()` lists them, `report(name)` is one of them); `connect`
brings the store's lake up to date and opens a DuckDB over it, from which nothing else can be reached; `ask` asks that a question
of your own under a limit of time; `export` writes files to hand over; `Lake` is the lake itself.
"""

from analytics.catalogue import Report, report, reports
from analytics.connect import AnalyticsConnection, connect
from analytics.export import Exported, export, exported_events
from analytics.lake import Lake, default_lake
from analytics.query import Answer, ask
from analytics.results import ReportResult
from analytics.run import run_report
from analytics.teaching import Askable, askable

__all__ = [
    "AnalyticsConnection",
    "Answer",
    "Askable",
    "Exported",
    "Lake",
    "Report",
    "ReportResult",
    "ask",
    "askable",
    "connect",
    "default_lake",
    "export",
    "exported_events",
    "report",
    "reports",
    "run_report",
]
