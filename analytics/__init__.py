"""Questions about coupons, answered in SQL.

    import analytics

    result = analytics.run_report("eventstore.db", "usage-per-coupon", since="2026-09-01")
    print(result.to_csv())

    with analytics.connect("eventstore.db") as store:
        store.execute("SELECT code, times_used FROM coupons JOIN coupon_usage USING (site_id, coupon_id)").fetchall()

`run_report` answers one of the questions in `reports/*.sql` (`reports()` lists them, `report(name)` is one of them);
`connect` opens an in-memory DuckDB with a copy of the store's tables, from which nothing else can be reached.
"""

from analytics.catalogue import Report, report, reports
from analytics.connect import AnalyticsConnection, connect
from analytics.results import ReportResult
from analytics.run import run_report

__all__ = [
    "AnalyticsConnection",
    "Report",
    "ReportResult",
    "connect",
    "report",
    "reports",
    "run_report",
]
