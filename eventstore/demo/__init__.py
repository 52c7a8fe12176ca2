"""Demonstration deliveries: a seeded month of a shop, Wix's documented examples, and a stream for benchmarks."""

from eventstore.demo.delivery import SITE_ID, Delivery
from eventstore.demo.examples import examples
from eventstore.demo.shop import month
from eventstore.demo.stream import documented

__all__ = ["SITE_ID", "Delivery", "documented", "examples", "month"]
