"""`serve`."""

from __future__ import annotations

import click

from eventstore.cli.common import open_store, settings_of


@click.command()
@click.option("--host", help="Address to listen on.  [EVENTSTORE_HOST; default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.  [EVENTSTORE_PORT; default: 8787]")
@click.option("--site", metavar="ID", help="The site of events that name none.  [EVENTSTORE_SITE; default: local]")
@click.pass_context
def serve(ctx: click.Context, host: str | None, port: int | None, site: str | None) -> None:
    """Receive events and answer questions over HTTP; projections follow the log all the while.

    Wix's own signed webhooks go to /v1/webhooks/wix (`eventstore app add` registers an app), everything else needs a token.

    Makes the store if there is none. On a store without tokens it prints one for local use, which is bound to no site:
    an event is filed under the site that it names, else under --site.
    """
    from eventstore import access, apps, logs
    from eventstore.api.server import serve as run

    settings = settings_of(ctx, host=host, port=port, site=site)
    logs.configure(level=settings.log_level, style=settings.log_format)
    with open_store(ctx, create=True, settings=settings) as store:
        apps.sync_apps(store.engine, settings.apps)
        first = None
        if access.count_tokens(store.engine) == 0:
            first, _ = store.create_token(name="local use", site_id=None)

        def ready(url: str) -> None:
            click.echo(f"listening on {url}")
            click.echo(f"  store  {store.engine.url.render_as_string()}")
            click.echo(f"  API    {url}/docs")
            if first is not None:
                click.echo(f"  token  {first}")
                click.echo("         for local use, shown this once; `eventstore token create --site ID` makes others")

        run(store, settings, on_ready=ready)
    click.echo("stopped; everything acknowledged is in the log")
