"""The lake: the log and what the models make of it, as Delta tables on a disk or in an object store.

It is derived: it can be thrown away and is made anew. DuckDB, Spark, Trino and others read it, so that outgrowing one machine is
a change of who reads and not of the data; and questions never touch the database that events are written to.
"""

from analytics.lake.damage import LakeUnreadable
from analytics.lake.lake import Lake, LakeProgress, LakeStatus
from analytics.lake.models import in_lake
from analytics.lake.place import default_lake
from analytics.lake.snapshot import Snapshot
from analytics.lake.verify import Broken, Compared, Segment

__all__ = [
    "Broken",
    "Compared",
    "Lake",
    "LakeProgress",
    "LakeStatus",
    "LakeUnreadable",
    "Segment",
    "Snapshot",
    "default_lake",
    "in_lake",
]
