"""`serve`."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import click

from eventstore.cli.common import open_store, settings_of

_log = logging.getLogger("eventstore.projections")


@click.command()
@click.option("--host", help="Address to listen on.  [EVENTSTORE_HOST; default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.  [EVENTSTORE_PORT; default: 8787]")
@click.option("--site", metavar="ID", help="The site of events that name none.  [EVENTSTORE_SITE; default: local]")
@click.option("--workers", type=int, metavar="N", help="Processes to answer with.  [EVENTSTORE_WORKERS; default: 1]")
@click.option("--no-projections", is_flag=True, help="Leave it to `eventstore project` to follow the log.")
@click.option(
    "--handlers",
    type=click.Path(path_type=Path),
    metavar="EVENTS.PY",
    help="Run the handlers of this file beside it.  [EVENTSTORE_HANDLERS]",
)
@click.option("--unguarded", is_flag=True, help="Serve even if a guard of the log is missing or altered.")
@click.pass_context
def serve(
    ctx: click.Context,
    host: str | None,
    port: int | None,
    site: str | None,
    workers: int | None,
    no_projections: bool,
    handlers: Path | None,
    unguarded: bool,
) -> None:
    """Receive events and answer questions over HTTP; projections follow the log all the while.

    Wix's own signed webhooks go to /v1/webhooks/wix (`eventstore app add` registers an app), everything else needs a token.

    Makes the store if there is none. On a store without tokens it prints one for local use, which is bound to no site:
    an event is filed under the site that it names, else under --site.

    One process answers with one core. More --workers help on a machine with more, where checking signatures and reading
    deliveries is the work; writing is one process's turn after the other's on either database. One that dies is started again.
    """
    from eventstore import access, apps, logs
    from eventstore.api.server import listen
    from eventstore.api.server import serve as run
    from eventstore.api.workers import serve_workers
    from eventstore.log.engine import shown

    project = False if no_projections else None
    settings = settings_of(ctx, host=host, port=port, site=site, workers=workers, project=project, handlers=handlers)
    logs.configure(level=settings.log_level, style=settings.log_format)
    loaded = None
    if settings.handlers is not None:
        from eventstore.handlers.loading import load_handlers

        # What is wrong with them is told now, and not by a server that is up already.
        loaded = load_handlers(settings.handlers)
    with closing(listen(settings)) as listener:
        with open_store(ctx, create=True, settings=settings) as store:
            if not unguarded:
                store.require_guards()
            for name in store.projections_behind():
                _log.warning(
                    "a projection is behind this program: what its table holds is served, and does not follow the log; "
                    "run `eventstore upgrade`",
                    extra={"projection": name},
                )
            apps.sync_apps(store.engine, settings.apps)
            first = None
            if access.count_tokens(store.engine) == 0:
                first, _ = store.create_token(name="local use", site_id=None)

            def ready(url: str) -> None:
                click.echo(f"listening on {url}")
                click.echo(f"  store  {shown(store.engine.url)}")
                click.echo(f"  API    {url}/docs")
                if first is not None:
                    click.echo(f"  token  {first}")
                    click.echo(
                        "         for local use, shown this once; `eventstore token create --site ID` makes others"
                    )

            if settings.workers == 1:
                run(store, settings, listener=listener, handlers=loaded, on_ready=ready)
        # The store is closed here: each worker opens its own.
        if settings.workers > 1:
            serve_workers(settings, listener, on_ready=ready)
    click.echo("stopped; everything acknowledged is in the log")
