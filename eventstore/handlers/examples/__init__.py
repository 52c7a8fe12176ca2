"""Files to begin with: each a whole `events.py` that runs."""

from __future__ import annotations

import ast
from importlib.resources import files
from typing import NamedTuple

from eventstore.errors import NotFound

_NAMES = ("new_coupon", "coupon_applied", "coupon_deleted", "used_after_deletion", "redemptions_csv")
"""The three of Wix's own documentation first."""


class Example(NamedTuple):
    """An example and what it is about, in a sentence."""

    name: str
    about: str


def examples() -> list[Example]:
    """All examples, the simplest first."""
    return [Example(name, _about(example(name))) for name in _NAMES]


def example(name: str) -> str:
    """The text of the example of this name (`new_coupon`, also `new-coupon` or `new_coupon.py`). Raises NotFound."""
    wanted = name.removesuffix(".py").replace("-", "_")
    if wanted not in _NAMES:
        raise NotFound(f"there is no example {name!r}; the examples are {', '.join(_NAMES)}")
    return files(__name__).joinpath(f"{wanted}.py").read_text(encoding="utf-8")


def _about(text: str) -> str:
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
