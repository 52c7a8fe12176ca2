"""The lake: the log and what the models make of it, as Delta tables on a disk or in an object store.

It is derived: it can be thrown away and is made anew. DuckDB, Spark, Trino and others read it, so that outgrowing one machine is
a change of who reads and not of the data; and questions never touch the database that events are written to.
"""

from analytics.lake.lake import Lake, LakeProgress, LakeStatus, Segment
from analytics.lake.place import default_lake
from analytics.lake.snapshot import Snapshot

__all__ = ["Lake", "LakeProgress", "LakeStatus", "Segment", "Snapshot", "default_lake"]
