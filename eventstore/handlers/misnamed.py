"""What to say when an event is asked for what Wix does not have: the nearest that it has, wherever in the event it stands."""

from __future__ import annotations

from typing import Any

from eventstore.handlers import parts
from eventstore.nearest import nearest, plain, same

SYNONYMS = {
    "orderid": "wixAppOrderId",
    "appid": "wixAppId",
    "usages": "numberOfUsages",
    "reportedusages": "numberOfUsages",
    "createdat": "_dateCreated",
    "endtime": "expirationTime",
    "expiresat": "expirationTime",
    "endsat": "expirationTime",
    "startsat": "startTime",
    "sequence": "entityEventSequence",
    "anonymize": "triggeredByAnonymizeRequest",
    "eventid": "id",
}
"""Names from elsewhere, the store's own among them, without case and punctuation."""


def missing(kind: type[Any], name: str, elsewhere: str | None = None) -> AttributeError:
    """The error for an attribute that Wix does not have, with the right one if it can be told. `elsewhere`: where that is."""
    said = f"{kind.__name__} has no attribute {name!r}"
    if elsewhere is not None:
        return AttributeError(f"{said}: {elsewhere}", name=name)
    meant = SYNONYMS.get(plain(name), name)
    own, deeper = documented(kind), _deeper(kind)
    found = same(meant, own)
    if found is None:
        deep = same(meant, deeper)
        found = deeper[deep] if deep else nearest(meant, own)
    if found is None and (deep := nearest(meant, deeper, cutoff=0.75)):
        found = deeper[deep]
    if found is None:
        return AttributeError(f"{said}; it has {', '.join(own)}", name=name)
    return AttributeError(f"{said}; did you mean {found!r}?", name=name)


def documented(kind: type[Any]) -> tuple[str, ...]:
    """The names of what an event or a part of one has."""
    found: dict[str, None] = {}
    for each in kind.__mro__:
        found |= dict.fromkeys(getattr(each, "__dataclass_fields__", ()))
        found |= dict.fromkeys(name for name, value in vars(each).items() if isinstance(value, property))
    return tuple(found)


def _deeper(kind: type[Any]) -> dict[str, str]:
    """The names that the parts of `kind` have, with the path to each from there; of two of one name the nearer one."""
    found: dict[str, str] = {}
    level = [(part, name) for name, part in _parts(kind)]
    while level:
        for part, path in level:
            for name in documented(part):
                found.setdefault(name, f"{path}.{name}")
        level = [(inner, f"{path}.{name}") for part, path in level for name, inner in _parts(part)]
    return found


def _parts(kind: type[Any]) -> list[tuple[str, type[parts.Part]]]:
    """The parts directly in `kind`, by name."""
    found = []
    for name in documented(kind):
        value: Any = getattr(kind, name, None)
        getter = value.fget if isinstance(value, property) else None
        said = getter.__annotations__["return"] if getter else kind.__dataclass_fields__[name].type
        part = getattr(parts, said, None)
        if (
            isinstance(part, type) and issubclass(part, parts.Part) and name != "specification"
        ):  # whose names are above it too
            found.append((name, part))
    return found
