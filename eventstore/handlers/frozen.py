"""JSON that nobody can change: what Wix adds to its events is handed to several handlers, and none may reach another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn


class JsonObject(dict[str, Any]):
    """A JSON object that cannot be changed. Lists in it are tuples.

    `json.dumps` takes it, and `dict(it)` or `copy.deepcopy(it)` is a copy to change. Its members are reached as items,
    and, where no method of `dict` has their name, as attributes: `event.body["reward"]`, `event.body.reward`.
    """

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(
            "events cannot be changed; change a copy: dict(…), or copy.deepcopy(…) for what is inside it too"
        )

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)

    if not TYPE_CHECKING:
        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse

        def __getattr__(self, name: str) -> Any:
            try:
                return self[name]
            except KeyError:
                known = ", ".join(self) or "nothing"
                raise AttributeError(f"no {name!r} in this part of the event; it holds {known}", name=name) from None


NOTHING = JsonObject()
"""An object without members."""


def frozen(value: Any) -> Any:
    """A JSON value as one that cannot be changed: objects as `JsonObject`, lists as tuples."""
    if isinstance(value, Mapping):
        return JsonObject({key: frozen(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(map(frozen, value))
    return value


def thawed(value: Any) -> Any:
    """The plain JSON value that `frozen` was given."""
    if isinstance(value, Mapping):
        return {key: thawed(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [thawed(item) for item in value]
    return value
