"""What any database must do to hold a log of this project.

The suite speaks to the log through `EventStore` alone, and where it plays a stranger, through statements that any SQL database
takes. It never assumes that the log is empty: what it appends stands under site ids of its own, and positions are counted from
the head that it found. So it can be run against a database that somebody else brings:

    EVENTSTORE_CONFORMANCE_URL=postgresql://host/name pytest tests/conformance

An empty database is made ready first, as `eventstore init` does. Nobody else may append meanwhile, and what the suite appends
stays: the log has no way to forget it. Without that variable it runs on the two databases that the project knows.

What must hold, by module:

- `test_appending.py`: the answer for each event (appended, duplicate, conflict, quarantined), in one batch and across batches,
  for many callers at once and for very large batches; positions count on from the head without gaps, in the order of the answers.
- `test_keeping.py`: what was appended is given back exactly: texts, numbers, times, the bytes that were delivered. Ids are told
  apart by their bytes. The time of recording never runs backwards. The database refuses to change any of it.
- `test_reading.py`: pages, streams and tails by position and by filter; an event can be read by anyone once its answer is given,
  and a reader never sees a position before the ones below it.
- `test_processes.py`: several processes append at once; one that is killed leaves whole batches and no gap.
"""
