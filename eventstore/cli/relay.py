"""`relay`."""

from __future__ import annotations

import click


@click.command()
def relay() -> None:
    """Print the events.js that a Wix site forwards its coupon events with. Its first lines say where it goes."""
    from importlib.resources import files

    click.echo((files("eventstore.relay") / "events.js").read_text(encoding="utf-8"), nl=False)
