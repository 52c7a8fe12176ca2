"""A person's `events.py`: run, and its handlers found.

Handlers are the functions named as Wix names them, and what the file registers with `on`, `coupons` and `loyalty`. Whatever is
wrong with the file is an InputError that says where: a function whose misspelt name would never be called is worse than none.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import RLock
from traceback import extract_tb
from types import CodeType, ModuleType
from typing import Final

from eventstore.errors import InputError
from eventstore.handlers.registry import Handler, Handlers, registering
from eventstore.handlers.wanted import NAMES, check_function, is_like_a_name
from eventstore.nearest import nearest

_lock: Final = RLock()
"""Modules and the search path belong to the whole process."""
_brought_in: Final[dict[str, ModuleType]] = {}
"""Neighbours that files have imported by bare names. The next file gets them anew: it may have others of the same names."""


def load_handlers(path: Path) -> Handlers:
    """The handlers of the file, in the order in which it has them.

    The file runs as a module of a package of its own, whose other modules are the files beside it: `from .helpers import
    send`, and while it is being loaded `import helpers` too. Raises InputError: with the file's name, the line, and what to
    do.
    """
    tree, code = _compile(path)
    handlers = Handlers()
    with _lock, registering(handlers):
        module = _run(path, code)
    _find_named(handlers, module, _own_names(tree), path)
    handlers.reorder(lambda handler: _place(handler, path))
    return handlers


def _compile(path: Path) -> tuple[ast.Module, CodeType]:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give the file with your handlers") from None
    try:
        tree = ast.parse(source, str(path))
        return tree, compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise _syntax_error(error, path) from None
    except ValueError as error:  # a NUL, before Python 3.12
        raise InputError(f"{path}: no Python: {error}") from None


def _syntax_error(error: SyntaxError, path: Path) -> InputError:
    line = f"\n    {error.text.strip()}" if error.text else ""
    return InputError(f"{error.filename or path}:{error.lineno or 1}: {error.msg}{line}")


def _run(path: Path, code: CodeType) -> ModuleType:
    """The file as a module. Raises InputError if it does not run to its end."""
    folder = path.resolve().parent
    for name, neighbour in _brought_in.items():
        if sys.modules.get(name) is neighbour:
            del sys.modules[name]
    _brought_in.clear()
    # The same name each time, so that the loggers and pickles of a module have a name that lasts.
    package = f"eventstore_handlers_{sha256(str(folder).encode()).hexdigest()[:8]}"
    for name in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
        del sys.modules[name]
    parent = ModuleSpec(package, None, is_package=True)
    parent.submodule_search_locations = [str(folder)]
    sys.modules[package] = module_from_spec(parent)
    spec = spec_from_file_location(f"{package}.{path.stem}", path)
    if spec is None:
        raise InputError(f"{path}: the name of a file with handlers ends in .py")
    module = sys.modules[spec.name] = module_from_spec(spec)
    with _importable(folder):
        try:
            exec(code, vars(module))  # noqa: S102 - what the caller asked to run
        except InputError:
            raise
        except SyntaxError as error:
            raise _syntax_error(error, path) from error
        except (Exception, SystemExit) as error:
            raise InputError(_said(error, path, folder)) from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The folder's files can be imported in this block."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            neighbour = sys.modules[name]
            file = getattr(neighbour, "__file__", None)
            if file is not None and Path(file).is_relative_to(folder):
                _brought_in[name] = neighbour


def _said(error: BaseException, path: Path, folder: Path) -> str:
    """What went wrong, and the last line of the file or its neighbours on the way there."""
    own = [frame for frame in extract_tb(error.__traceback__) if Path(frame.filename).resolve().is_relative_to(folder)]
    where = f"{own[-1].filename}:{own[-1].lineno}" if own else str(path)
    return f"{where}: {type(error).__name__}: {error}" if str(error) else f"{where}: {type(error).__name__}"


def _own_names(tree: ast.Module) -> dict[str, int]:
    """The names that the module itself gives at its top level, with their lines; not those that it imports."""
    found: dict[str, int] = {}
    level: list[ast.AST] = list(tree.body)
    while level:
        node = level.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = node.lineno
        level.extend(ast.iter_child_nodes(node))
    return found


def _find_named(handlers: Handlers, module: ModuleType, own: dict[str, int], path: Path) -> None:
    """Add the handlers that are told by their names. Raises InputError for a name that was meant to be found."""
    registered = {id(handler.function) for handler in handlers}
    for name, value in vars(module).items():
        where = f"{path}:{own.get(name, 1)}"
        if name in NAMES:
            check_function(value, name, where)
            if id(value) in registered:
                _check_agrees(handlers, name, value, where)
            else:
                handlers.add(value, NAMES[name], name=name)
        elif name in own and callable(value) and id(value) not in registered and is_like_a_name(name):
            raise InputError(f"{where}: {name} is no name of a handler{_meant(name)}")
    if not len(handlers):
        raise InputError(
            f'{path}: no handlers; call a function {", ".join(NAMES)}, or decorate one with @on("coupon.applied")'
        )


def _check_agrees(handlers: Handlers, name: str, function: object, where: str) -> None:
    """A function that has Wix's name for one event and is registered for others would mislead whoever reads it."""
    [handler] = [each for each in handlers if each.function is function]
    if handler.types is None or NAMES[name] not in handler.types:
        kinds = "all events" if handler.types is None else ", ".join(sorted(handler.types))
        raise InputError(
            f"{where}: {name} is Wix's name for {NAMES[name]}, but it is registered for {kinds}; rename it"
        )


def _meant(name: str) -> str:
    near = [each for each in NAMES if each.partition("_")[2].lower() == name.replace("_", "").lower()]
    if not near and (nearest_name := nearest(name, NAMES, cutoff=0.7)):
        near = [nearest_name]
    if near:
        return f"; did you mean {' or '.join(near)}? (What is no handler begins with _)"
    return f"; the names are {', '.join(NAMES)}. (For other events there is @on(…); what is no handler begins with _)"


def _place(handler: Handler, path: Path) -> tuple[bool, int]:
    """Those of the file by their lines, then the others."""
    file, _, line = handler.where.rpartition(":")
    return file != str(path), int(line) if file == str(path) else 0
