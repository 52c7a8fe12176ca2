"""`app add | list | rotate | remove`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import json_option, open_store, print_json, print_table
from eventstore.errors import InputError

if TYPE_CHECKING:
    from eventstore.apps import WixApp

name_option = click.option("--name", required=True, help="What the app is called here.")
KEY_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True)
GRACE_HOURS = 48.0


@click.group()
def app() -> None:
    """Register the Wix apps whose signed webhooks are accepted: their public keys, and the instances (sites) of each."""


@app.command()
@name_option
@click.option(
    "--key-file",
    type=KEY_FILE,
    help="The app's public key, as its Webhooks page shows it: PEM, base64 of PEM, or PEM with \\n; - reads it from "
    "standard input. Not needed to add instances to an app that is there.",
)
@click.option("--instance", "instances", multiple=True, metavar="ID", help="An instance of the app; repeatable.")
@click.option(
    "--test-instance",
    "test_instances",
    multiple=True,
    metavar="ID",
    help="The instance that the dashboard's Test button sends; its events stand under this id as their site, apart.",
)
@click.option(
    "--accept-new-instances/--no-accept-new-instances",
    default=None,
    help="Whether instances not named here are added when they first send something.  [default: refused]",
)
@json_option
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    key_file: str | None,
    instances: tuple[str, ...],
    test_instances: tuple[str, ...],
    accept_new_instances: bool | None,
    as_json: bool,
) -> None:
    """Register an app, or add instances to one that is there. A running server follows within seconds."""
    from eventstore import apps

    key = None if key_file is None else _read(key_file)
    with open_store(ctx, create=True) as store:
        made = apps.add_app(
            store.engine,
            name=name,
            key=key,
            instances=instances,
            test_instances=test_instances,
            accept_new_instances=accept_new_instances,
        )
    if as_json:
        print_json(asdict(made))
        return
    _print([made])
    click.echo("Send its webhooks to https://…/v1/webhooks/wix")


@app.command("list")
@click.option("--removed", is_flag=True, help="Removed apps too.")
@json_option
@click.pass_context
def list_(ctx: click.Context, removed: bool, as_json: bool) -> None:
    """List the apps with their keys and instances."""
    from eventstore import apps

    with open_store(ctx) as store:
        found = apps.list_apps(store.engine, removed=removed)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    _print(found)


@app.command()
@name_option
@click.option("--key-file", type=KEY_FILE, required=True, help="The new public key.")
@click.option(
    "--grace",
    type=click.FloatRange(0, 24 * 365),
    default=GRACE_HOURS,
    show_default=True,
    metavar="HOURS",
    help="How long the key before is still accepted: Wix repeats a delivery for two days. 0 if it became known.",
)
@click.pass_context
def rotate(ctx: click.Context, name: str, key_file: str, grace: float) -> None:
    """Give an app a new key. The one before is kept for ever, to check what it has signed."""
    from eventstore import apps

    key = _read(key_file)
    with open_store(ctx) as store:
        _print([apps.rotate_key(store.engine, name=name, key=key, grace=timedelta(hours=grace))])


@app.command()
@name_option
@click.pass_context
def remove(ctx: click.Context, name: str) -> None:
    """Accept nothing more of an app. Its events stay, and its keys, to check what they have signed."""
    from eventstore import apps

    with open_store(ctx) as store:
        apps.remove_app(store.engine, name=name)
    click.echo(f"removed {name}; a running server follows within seconds")


def _read(file: str) -> str:
    try:
        with click.open_file(file, encoding="utf-8") as opened:
            return str(opened.read())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the key file {file} cannot be read: {error}") from error


def _print(found: list[WixApp]) -> None:
    print_table(
        None,
        ["app", "id", "new instances", "added", "removed"],
        [
            (
                each.name,
                each.app_id,
                "accepted" if each.accept_new_instances else "refused",
                each.added_at,
                each.removed_at,
            )
            for each in found
        ],
    )
    print_table(
        "Keys",
        ["app", "key (SHA-256)", "valid from", "until"],
        [(each.name, key.key_id[:16], key.added_at, key.retired_at) for each in found for key in each.keys],
    )
    print_table(
        "Instances",
        ["app", "instance", "kind", "added", "removed"],
        [
            (each.name, one.instance_id, "test" if one.test else "live", one.added_at, one.removed_at)
            for each in found
            for one in each.instances
        ],
    )
