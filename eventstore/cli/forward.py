"""`forward`."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import click

from eventstore.cli.common import open_store, settings_of
from eventstore.cli.run_handlers import from_option, run


@click.command()
@click.option("--to", "url", metavar="URL", help="Where to post each event.")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The secrets that sign, one a line (while one is replaced: both).  [EVENTSTORE_FORWARD_SECRET: the secret itself]",
)
@click.option("--new-secret", is_flag=True, help="Print a new secret, and end.")
@click.option(
    "--type", "types", multiple=True, metavar="TYPE", help="Only these: coupon.applied, coupon.* …; repeatable."
)
@click.option("--site", "sites", multiple=True, metavar="ID", help="Only these sites; repeatable.")
@click.option("--name", metavar="NAME", help="The name that its place is kept under.  [default: made of the URL]")
@from_option
@click.option("--once", is_flag=True, help="Forward what the log holds now, and end.")
@click.option(
    "--connections",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    metavar="N",
    help="Events that are under way at once, of as many coupons.",
)
@click.pass_context
def forward(
    ctx: click.Context,
    url: str | None,
    secret_file: Path | None,
    new_secret: bool,
    types: tuple[str, ...],
    sites: tuple[str, ...],
    name: str | None,
    begin: str,
    once: bool,
    connections: int,
) -> None:
    """Post each event to a URL, signed by the Standard Webhooks scheme.

    At least once, those of a coupon in order; `webhook-id` is the same each time. A receiver that is away, or answers 429, 502,
    503 or 504, is waited for; what it refuses otherwise is tried ten times in three days, and then waits for a person, with its
    coupon's later events (`eventstore handlers dead-letters`).

    \b
    eventstore forward --new-secret > secret
    eventstore forward --to https://example.com/hooks --secret-file secret
    """
    from eventstore import logs
    from eventstore.handlers import forward as forwarding
    from eventstore.handlers.session import Limits

    if new_secret:
        click.echo(forwarding.new_secret())
        return
    if url is None:
        raise click.UsageError("say where --to")
    settings = settings_of(ctx)
    if secret_file is not None:
        keys = forwarding.read_secrets(secret_file)
    else:
        keys = settings.forward_secret.get_secret_value().split() if settings.forward_secret else []
    logs.configure(level=settings.log_level, style=settings.log_format)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with closing(forwarding.Forward(url, keys, connections=connections)) as target:
        handlers = forwarding.forwarding(target, types=types, sites=sites)
        with open_store(ctx, settings=settings) as store:
            runner = store.handlers.runner(
                handlers,
                name=name or forwarding.set_name(url),
                begin=begin,
                limits=Limits(workers=connections, rules=forwarding.RULES),
            )
            run(ctx, store, runner, [each.name for each in handlers], once=once)
