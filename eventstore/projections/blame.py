"""Whose fault it is that events cannot be taken in together: of which subjects, and from which event of each on.

Found by halving: one guilty subject among a thousand takes twenty tries of ever fewer events, not a thousand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from eventstore.errors import ProjectionError


class Subject(NamedTuple):
    """What an event is about: its coupon, or its entity where it names no coupon."""

    position: int
    site_id: str
    subject_id: str
    event_id: str

    @property
    def key(self) -> SubjectKey:
        return self.site_id, self.subject_id


SubjectKey: TypeAlias = tuple[str, str]
WhyNot: TypeAlias = Callable[[Collection[int]], Exception | None]
"""Why the events at these positions cannot be taken in together; None if they can."""


class TooMany(ProjectionError):
    """More subjects are guilty than is the fault of events."""


def find(told: Sequence[Subject], why_not: WhyNot, most: int) -> list[tuple[Subject, Exception]]:
    """Of each guilty subject its first guilty event, and what is wrong with it: without those the others can be taken in.

    `told`: events that cannot be taken in together, in order. Raises TooMany where more than `most` subjects are guilty.
    """
    by_subject: dict[SubjectKey, list[Subject]] = defaultdict(list)
    for each in told:
        by_subject[each.key].append(each)
    search = _Search(by_subject, why_not, most)
    guilty = search.guilty(list(by_subject), [])
    innocent = [key for key in by_subject if key not in guilty]
    if search.fail(innocent):
        # Each can be taken in alone and not all together, as where their sum is too large: then the one that makes it so.
        guilty += search.guilty(innocent, [], together=True)
    return [first_guilty(by_subject[key], why_not) for key in guilty]


def first_guilty(of_one: Sequence[Subject], why_not: WhyNot) -> tuple[Subject, Exception]:
    """Of one subject's events, which cannot be taken in together, the first that is in the way of those before it; and what is
    wrong with it."""
    wrong = why_not([each.position for each in of_one])
    if wrong is None:
        # Guilty only beside others: then all of it waits.
        return of_one[0], ProjectionError("it cannot be taken in together with the events of other coupons")
    length, why = shortest_failing(len(of_one), wrong, lambda some: why_not([each.position for each in of_one[:some]]))
    return of_one[length - 1], why


_Why = TypeVar("_Why")


def shortest_failing(length: int, why: _Why, why_not: Callable[[int], _Why | None]) -> tuple[int, _Why]:
    """The fewest of some events, from the first on, that cannot be taken in, and why not.

    All `length` of them cannot, because of `why`. `why_not`: why so many of them cannot; None if they can.
    """
    good, bad = 0, length
    while bad - good > 1:
        middle = (good + bad) // 2
        found = why_not(middle)
        if found is None:
            good = middle
        else:
            bad, why = middle, found
    return bad, why


class _Search:
    def __init__(self, by_subject: dict[SubjectKey, list[Subject]], why_not: WhyNot, most: int) -> None:
        self._by_subject = by_subject
        self._why_not = why_not
        self._left = most

    def fail(self, keys: Sequence[SubjectKey]) -> bool:
        positions = [each.position for key in keys for each in self._by_subject[key]]
        return bool(positions) and self._why_not(positions) is not None

    def guilty(
        self, among: Sequence[SubjectKey], beside: Sequence[SubjectKey], *, together: bool = False
    ) -> list[SubjectKey]:
        """The guilty among these, which fail; `together`: beside those found good before them, not each half alone."""
        if len(among) == 1:
            self._left -= 1
            if self._left < 0:
                raise TooMany("as if the model were wrong, not an event")
            return list(among)
        half = len(among) // 2
        found: list[SubjectKey] = []
        good = list(beside)
        for part in (among[:half], among[half:]):
            bad = self.guilty(part, good, together=together) if self.fail([*good, *part]) else []
            found += bad
            if together:
                good += [key for key in part if key not in bad]
        return found
