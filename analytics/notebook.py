"""The notebooks there are: open one for editing, or run it as an app. `analytics.exporting` writes one to a file.

A notebook is a marimo file in `notebooks/`: plain Python whose docstring says what it is for. It asks the store that the settings
name, on a connection that can change nothing. marimo and Altair are the extra `notebooks`.

The installed files are never edited: `edit` opens a copy in the working directory, and keeps one that is there already, for it
may hold someone's work. marimo is told to look for no updates, to trace nothing and to offer no sharing; nothing leaves the
machine.
"""

from __future__ import annotations

import ast
import logging
import os
import runpy
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

from analytics.catalogue import read_day
from eventstore.config import Settings, load_settings
from eventstore.errors import InputError, NotFound
from eventstore.nearest import did_you_mean

FOLDER = Path(__file__).parent / "notebooks"
COPIES = "notebooks"
"""The folder, in the working directory, that copies to edit are put into."""
FIRST = "start_here"
"""The notebook for those who name none."""
DASHBOARD = "overview"
DASHBOARD_PORT = 8788
"""The port of the dashboard: the one after `eventstore serve`."""
TIME_LIMIT = 60.0
"""Seconds that a question of a notebook may take, an SQL cell's too, as of `eventstore sql`."""
NEEDED = ("marimo", "altair", "vl_convert")
"""What the extra `notebooks` brings."""
ASKED = ("site", "since", "until", "coupon")
"""What a notebook may be started with; each takes what it knows."""

_QUIET = {"MARIMO_SKIP_UPDATE_CHECK": "1", "MARIMO_TRACING": "false", "MARIMO_RESTRICT_SHARING": "true"}


@dataclass(frozen=True, slots=True)
class Notebook:
    """A notebook: its name, its title and what it is for, and its file, which is not to be changed."""

    name: str
    title: str
    about: str
    path: Path


@lru_cache(maxsize=1)
def notebooks() -> tuple[Notebook, ...]:
    """The notebooks there are, the one to begin with first."""
    found = [_read(path) for path in sorted(FOLDER.glob("*.py"))]
    return tuple(sorted(found, key=lambda each: each.name != FIRST))


def notebook(name: str) -> Notebook:
    """The notebook of that name; hyphens are as good as underscores. Raises NotFound."""
    wanted = name.replace("-", "_").lower()
    for each in notebooks():
        if each.name == wanted:
            return each
    names = [each.name for each in notebooks()]
    raise NotFound(f"there is no notebook {name!r}{did_you_mean(wanted, names)}; there are {', '.join(names)}")


def sql(name: str) -> str:
    """The text of `notebooks/NAME.sql`, a query of a notebook's; its values are bound as parameters."""
    return (FOLDER / f"{name}.sql").read_text(encoding="utf-8")


def require_installed() -> None:
    """Raises InputError, saying how to install them, unless marimo and Altair are there."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"notebooks need {', '.join(missing).replace('_', '-')}, which the extra `notebooks` brings: "
            "pip install 'coupon-eventstore[notebooks]', or pip install '.[notebooks]' in a clone"
        )


def asked_of(given: Mapping[str, str]) -> dict[str, str]:
    """What a notebook is started with. Raises InputError for a name that is none of ASKED, and for what is no day."""
    for name in given:
        if name not in ASKED:
            raise InputError(f"a notebook has no parameter {name!r}; there are {', '.join(ASKED)}")
    since, until = (_day(name, given[name]) if name in given else None for name in ("since", "until"))
    if since is not None and until is not None and since > until:
        raise InputError(f"since={since} is after until={until}; a span of days begins with since and ends with until")
    return dict(given)


def _day(name: str, given: str) -> date:
    with suppress(ValueError):
        found = read_day(given)
        if found is not None:
            return found
    raise InputError(f"the parameter {name} takes a day, as in 2026-09-01, not {given!r}")


def copied(name: str, folder: Path) -> tuple[Path, bool]:
    """The notebook's copy in `folder`, and whether it was made now: one that is there is left as it is."""
    found = notebook(name)
    target = folder / found.path.name
    if target.exists():
        return target, False
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found.path, target)
    return target, True


def edit(
    name: str,
    *,
    settings: Settings | None = None,
    folder: Path | None = None,
    port: int = 0,
    browser: bool = True,
    asked: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Open a copy of the notebook for editing, in a browser, until interrupted. It runs code: so its address holds a secret.

    `port` 0 takes a free one. `folder`: where the copy is put; `notebooks` in the working directory if not given. Takes the
    process over: signals, `sys.argv` and the environment. Raises InputError, NotFound and StoreNotReady before that.
    """
    used = ready(settings)
    found = notebook(name)
    given = asked_of(asked or {})
    taken = _free_port("127.0.0.1", port)
    path, new = copied(found.name, Path.cwd() / COPIES if folder is None else folder)
    say(f"{path} is " + ("a copy, yours to change" if new else "as you left it; delete it for a fresh copy"))
    _marimo("edit", path, "127.0.0.1", taken, used, browser, given, secret=True, say=say)


def dashboard(
    name: str = DASHBOARD,
    *,
    settings: Settings | None = None,
    host: str = "127.0.0.1",
    port: int = DASHBOARD_PORT,
    browser: bool = True,
    asked: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run the notebook as an app for readers, its code out of their reach, until interrupted.

    On an address that other machines reach, its URL holds a secret, without which it shows nothing. As `edit` otherwise.
    """
    used = ready(settings)
    found = notebook(name)
    given = asked_of(asked or {})
    taken = _free_port(host, port)
    _marimo("run", found.path, host, taken, used, browser, given, secret=not _is_loopback(host), say=say)


def ready(settings: Settings | None) -> Settings:
    """The settings, of a store that is there. Raises StoreNotReady if it is not, and InputError without marimo and Altair."""
    from eventstore.log import schema
    from eventstore.log.engine import make_engine

    require_installed()
    used = settings or load_settings()
    engine = make_engine(used.url)
    try:
        schema.require_ready(engine)
    finally:
        engine.dispose()
    return used


def _marimo(
    verb: str,
    path: Path,
    host: str,
    port: int,
    settings: Settings,
    browser: bool,
    asked: Mapping[str, str],
    *,
    secret: bool,
    say: Callable[[str], None],
) -> None:
    """Be marimo's own command. Through its front door, for that is what it documents."""
    os.environ.update(_QUIET)
    os.environ["EVENTSTORE_URL"] = settings.url
    options = ["--host", host, "--port", str(port), "--no-sandbox", *([] if browser else ["--headless"])]
    with tempfile.TemporaryDirectory() as folder:
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if secret:
            # Not on the command line, which every user of the machine can read.
            word = secrets.token_urlsafe(24)
            file = Path(folder) / "token"
            file.touch(mode=0o600)
            file.write_text(word, encoding="utf-8")
            options += ["--token-password-file", str(file)]
            address += f"?access_token={word}"
        else:
            options.append("--no-token")
        say(f"{path.stem} at {address}")
        say("Ctrl-C ends it")
        logging.getLogger("uvicorn.error").addFilter(_is_no_interruption)
        sys.argv = ["marimo", "-q", "-y", verb, *options, str(path), *_as_arguments(asked)]
        runpy.run_module("marimo", run_name="__main__", alter_sys=True)


def _is_no_interruption(record: logging.LogRecord) -> bool:
    # At Ctrl-C marimo's server logs the traceback of its own waiting, which was cancelled.
    told = record.getMessage()
    return not (told.startswith("Traceback") and told.rstrip().endswith("CancelledError"))


def _as_arguments(asked: Mapping[str, str]) -> Sequence[str]:
    # With = so that a value that begins with a hyphen stays a value.
    return ["--", *(f"--{name}={value}" for name, value in asked.items())] if asked else []


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises InputError if it cannot be listened on."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            # As servers do, or a port would seem taken for a minute after each.
            if sys.platform != "win32":
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            tried.listen(1)
            taken: int = tried.getsockname()[1]
    except OSError as error:
        raise InputError(
            f"nothing can listen on the port {port} of {host}: {error.strerror or error}; --port 0 takes a free one"
        ) from error
    return taken


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path) -> Notebook:
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    title, _, about = told.partition("\n\n")
    return Notebook(path.stem, title.rstrip("."), " ".join(about.split()), path)
