"""`eventstore`: the root command. A command's module is imported when the command is called, so that help answers at once."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from eventstore import __version__
from eventstore.errors import EventStoreError, NotFound, RebuildUnderWay, StoreUnavailable

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("eventstore.cli.demo", "Fill a store with a month of a shop and show what it can tell."),
    "init": ("eventstore.cli.store", "Make a store, or bring one to this version."),
    "serve": ("eventstore.cli.serve", "Receive events and answer questions over HTTP."),
    "project": ("eventstore.cli.project", "Follow the log with the projections, as a process of its own."),
    "ingest": ("eventstore.cli.ingest", "Append deliveries from files."),
    "import-coupons": ("eventstore.cli.import_coupons", "Import what Query Coupons answers, and show what differs."),
    "rebuild-projections": ("eventstore.cli.rebuild", "Rebuild current state and usage counts from the log."),
    "upgrade": ("eventstore.cli.upgrade", "Migrate a store and rebuild the projections that are behind."),
    "projection": ("eventstore.cli.projection", "Show the rows of a projection, one of your own for example."),
    "status": ("eventstore.cli.store", "Show the store at a glance."),
    "tail": ("eventstore.cli.tail", "Show the latest events, and every new one as it is recorded."),
    "verify": ("eventstore.cli.verify", "Check that the database still keeps the log append-only."),
    "maintain": ("eventstore.cli.maintain", "Make partitions ahead of the log (PostgreSQL)."),
    "coupon": ("eventstore.cli.coupon", "Show one coupon: state, usage, findings, history."),
    "coupons": ("eventstore.cli.coupon", "List the register of coupons, now or as of a moment."),
    "usage": ("eventstore.cli.coupon", "Show how often each coupon was used."),
    "report": ("eventstore.cli.report", "Answer a question with DuckDB: table, JSON, CSV or Parquet."),
    "sql": ("eventstore.cli.sql", "Ask a question of your own in SQL."),
    "export": ("eventstore.cli.export", "Write a table as Parquet, CSV or NDJSON to hand over."),
    "lake": ("eventstore.cli.lake", "Bring up to date, look at, compare and tidy what questions are answered from."),
    "notebook": ("eventstore.cli.notebook", "Open a notebook on the store, or export it."),
    "dashboard": ("eventstore.cli.notebook", "Run the overview as an app in the browser."),
    "quarantine": ("eventstore.cli.quarantine", "See, retry and resolve what could not become an event."),
    "dead-letters": ("eventstore.cli.dead_letters", "See, retry and skip events that a projection could not take."),
    "run-handlers": ("eventstore.cli.run_handlers", "Call the functions of an events.py for each event."),
    "handlers": ("eventstore.cli.handlers", "See where handlers are; retry, skip and replay."),
    "forward": ("eventstore.cli.forward", "Post each event to a URL, signed."),
    "event": ("eventstore.cli.event", "Show one event, its original bytes, and check Wix's signature on them."),
    "app": ("eventstore.cli.app", "Register the Wix apps whose signed webhooks are accepted."),
    "token": ("eventstore.cli.token", "Make, list and revoke bearer tokens."),
    "relay": ("eventstore.cli.relay", "Print the events.js that a Wix site forwards its events with."),
}
"""Command name → its module and its line in the help, in the order a newcomer meets them."""

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_UNAVAILABLE = 75
"""sysexits' EX_TEMPFAIL: try again later."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 1) or [each for each in COMMANDS if each.startswith(args[0])]
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `eventstore demo`. Settings come from EVENTSTORE_* in the environment and from eventstore.toml. "
    "Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 75 the store is busy: try again.",
)
@click.option(
    "--store",
    metavar="URL",
    help="The store: a SQLite file or a database URL.  [EVENTSTORE_URL; default: sqlite:///eventstore.db]",
)
@click.version_option(__version__, prog_name="eventstore")
@click.pass_context
def cli(ctx: click.Context, store: str | None) -> None:
    """An audit store for Wix coupon events: an append-only log, projections that follow it, and reports.

    Every event is kept once, for ever, in the order it arrived; what the coupons are now and how often they were used is
    derived from that log and can be rebuilt at any time.
    """
    ctx.obj = store


def main() -> None:
    """Run the command line. Errors on purpose are one line on standard error; only bugs show a traceback."""
    try:
        # Without its standalone mode, click gives the status of `ctx.exit` back as a value.
        status = cli(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EventStoreError as error:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
        sys.exit(exit_code(error))
    except Exception as error:
        from eventstore.log.engine import is_unavailable, said

        if not is_unavailable(error):
            raise
        click.echo(
            f"{click.style('error:', fg='red', bold=True)} the database failed: {said(error)}; try again", err=True
        )
        sys.exit(EXIT_UNAVAILABLE)


def exit_code(error: EventStoreError) -> int:
    """The exit status that an error means."""
    codes: tuple[tuple[Any, int], ...] = (
        (NotFound, EXIT_NOT_FOUND),
        (StoreUnavailable, EXIT_UNAVAILABLE),
        (RebuildUnderWay, EXIT_UNAVAILABLE),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), EXIT_FAILURE)
