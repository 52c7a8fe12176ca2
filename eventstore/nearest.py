"""Which of the right names a wrong one was meant to be."""

from __future__ import annotations

from collections.abc import Iterable


def plain(name: str) -> str:
    """A name without case and punctuation: `start_time`, `startTime` and `StartTime` are one."""
    return "".join(filter(str.isalnum, name)).lower()


def same(wanted: str, known: Iterable[str]) -> str | None:
    """The name that differs from `wanted` in case and punctuation only."""
    meant = plain(wanted)
    return next((name for name in known if plain(name) == meant), None)


def nearest(wanted: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The name most like `wanted`; None if none is at least `cutoff` (0 to 1) like it."""
    from difflib import get_close_matches

    names = list(known)
    found = same(wanted, names)
    if found is not None:
        return found
    by_plain = {plain(name): name for name in reversed(names)}
    close = get_close_matches(plain(wanted), by_plain, 1, cutoff)
    return by_plain[close[0]] if close else None


def did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """What an error about a name that is none says beside it: the nearest in brackets, or nothing."""
    found = nearest(wanted, known, cutoff=0.5)
    return f" (did you mean {found}?)" if found else ""
