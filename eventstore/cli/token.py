"""`token create | list | revoke`."""

from __future__ import annotations

from dataclasses import asdict

import click

from eventstore.cli.common import json_option, open_store, print_json, print_table


@click.group()
def token() -> None:
    """Make, list and revoke the bearer tokens that the HTTP API asks for."""


@token.command()
@click.option(
    "--site", metavar="ID", help="The one site it is bound to: Wix's instance id, or any name for a Velo site."
)
@click.option("--any-site", is_flag=True, help="Bind it to no site: each event is filed under the site it names.")
@click.option("--name", default="", help="What it is for, to recognise it later.")
@click.option("--scopes", default="ingest,read", show_default=True, help="What it may do: ingest, read, admin.")
@json_option
@click.pass_context
def create(ctx: click.Context, site: str | None, any_site: bool, name: str, scopes: str, as_json: bool) -> None:
    """Make a token and show it, this once: only its hash is stored."""
    if (site is None) == (not any_site):
        raise click.UsageError("say which site it is bound to: --site ID, or --any-site")
    with open_store(ctx, create=True) as store:
        secret, made = store.create_token(name=name or (site or "any site"), site_id=site, scopes=scopes)
    if as_json:
        print_json({"token": secret, **asdict(made)})
        return
    click.echo(secret)
    click.echo(
        f"bound to {site or 'no site'}, may {' and '.join(sorted(made.scopes))}; it is not shown again", err=True
    )


@token.command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the tokens; never their secrets."""
    from eventstore import access

    with open_store(ctx) as store:
        found = access.list_tokens(store.engine)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    print_table(
        None,
        ["token", "name", "site", "scopes", "created", "revoked"],
        [
            (
                each.token_id,
                each.name,
                each.site_id or "any",
                ",".join(sorted(each.scopes)),
                each.created_at,
                each.revoked_at,
            )
            for each in found
        ],
    )


@token.command()
@click.argument("token_id", metavar="TOKEN")
@click.pass_context
def revoke(ctx: click.Context, token_id: str) -> None:
    """End a token (its id as `token list` shows it). A running server follows within seconds."""
    from eventstore import access

    with open_store(ctx) as store:
        access.revoke_token(store.engine, token_id)
    click.echo(f"revoked {token_id}")
