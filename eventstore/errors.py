"""Every error the store raises, in one tree.

A message says what was wrong, where (a JSON path, a position, a file and line) and what to do about it. Doors turn these
into problem details (HTTP) or one line on standard error (CLI); nothing else may cross a door.
"""

from __future__ import annotations

from typing import Any


class EventStoreError(Exception):
    """The root: catch this to catch every error the store raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own calls the class with the message alone, which not every one of these takes.
        return _again, (type(self), self.args, self.__dict__)


class UnreadableDelivery(EventStoreError):
    """An authenticated delivery that cannot become an Event.

    `reason` is the sentence for people; `where` is the path inside the delivery (`entity.startTime`), or "" for the whole.
    `malformed` is True when the bytes are not JSON of an acceptable shape at all, so that there is nothing to keep but noise:
    doors answer those with a 4xx. All others are kept in quarantine.
    """

    def __init__(self, reason: str, *, where: str = "", malformed: bool = False) -> None:
        self.reason = reason
        self.where = where
        self.malformed = malformed
        super().__init__(f"{where}: {reason}" if where else reason)


class UnknownHandler(EventStoreError):
    """A Velo handler name that Wix does not document."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.name = name
        self.known = known
        super().__init__(f"unknown handler {name!r}; the known ones are {', '.join(known)}")


class DeliveryTooLarge(EventStoreError):
    """A body over the configured limit (`max_body_bytes`)."""


class UnsupportedEncoding(EventStoreError):
    """A body in a `Content-Encoding` that is not read. `known`: those that are."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.known = known
        super().__init__(
            f"the content encoding {name!r} is not read; send the body plain or as one of {', '.join(known)}"
        )


class StoreUnavailable(EventStoreError):
    """The log could not take the event now: locked, full disk, closing, or too much waiting.

    Nothing was acknowledged; send it again: what is in is not kept twice.

    `retry_after` is in seconds.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class StoreNotReady(EventStoreError):
    """The database is absent, empty, of another schema revision, or not one of ours."""


class GuardsDown(EventStoreError):
    """The database no longer keeps the log append-only: a guard is missing, disabled or altered, or a stranger's stands there."""


class NotOwner(EventStoreError):
    """What was asked for changes the tables themselves, and the database role does not own them."""


class NotFound(EventStoreError):
    """What was asked for by name or id is not in the store."""


class NotAllowed(EventStoreError):
    """The token lacks the scope, or is bound to another site."""


class NotAuthenticated(NotAllowed):
    """The token is missing, unknown or revoked."""


class NotGenuine(NotAuthenticated):
    """A webhook that does not prove to come from Wix: algorithm, signature, expiry, or no key that it could be checked with.

    `reason` is a word for counting: algorithm, signature, expired, early, claims, no_app.
    """

    def __init__(self, message: str, reason: str) -> None:
        self.reason = reason
        super().__init__(message)


class UnknownInstance(NotAllowed):
    """A genuine webhook of an app instance that its app is not registered for."""


class TooManyFailures(EventStoreError):
    """Too many failed attempts to authenticate came from one address. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class ProjectionError(EventStoreError):
    """A projection model is wrong or met an event that it cannot take; the message names the model and the position."""


class RebuildUnderWay(EventStoreError):
    """The projections are being rebuilt already; the message says by whom and since when."""


class RebuildAborted(ProjectionError):
    """The rebuild was asked to stop (`rebuild-projections --abort`), and has left everything as it was."""


class ReportError(EventStoreError):
    """An unknown report, or a parameter of the wrong type; the message lists what there is."""


class InputError(EventStoreError):
    """A file, option or parameter that the caller must mend; the message says where."""


def _again(kind: type[EventStoreError], args: tuple[object, ...], facts: dict[str, object]) -> EventStoreError:
    """An error as another process raised it."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


def reason_of(error: EventStoreError) -> str:
    """A word for counting and logging: what kind of error this is, and nothing of what it quotes."""
    if isinstance(error, NotGenuine):
        return error.reason
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in type(error).__name__).lstrip("_")
