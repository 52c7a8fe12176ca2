"""An event-sourced audit store for Wix coupon events."""

__version__ = "0.1.0"
