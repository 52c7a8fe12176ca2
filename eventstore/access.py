"""Bearer tokens: shown once, stored hashed, scoped, and bound to a site."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from sqlalchemy import Engine, func, insert, select, update

from eventstore.errors import InputError, NotAllowed, NotFound
from eventstore.log.engine import write_transaction
from eventstore.log.records import now
from eventstore.log.tables import api_tokens

TOKEN_PREFIX = "evs_"  # noqa: S105 - so that secret scanners can recognise one


class Scope(StrEnum):
    """What a token may do."""

    INGEST = "ingest"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Token:
    """A token as the store knows it. `site_id` None: bound to no site, so that each event says its own."""

    token_id: str
    name: str
    site_id: str | None
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None = None

    def require(self, scope: Scope) -> None:
        """Raise NotAllowed unless the token has the scope."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise NotAllowed(
                f"the token {self.name!r} lacks the scope {scope}; make one with `eventstore token create`"
            )

    def site_for(self, named: str | None, default: str) -> str:
        """The site that an event or a question belongs to. Raises NotAllowed if it names another than the token's."""
        if self.site_id is None:
            return named or default
        if named is not None and named != self.site_id:
            raise NotAllowed(
                f"the token {self.name!r} is bound to the site {self.site_id}, this is about the site {named}; "
                f"make one with `eventstore token create --site {named}`"
            )
        return self.site_id


def parse_scopes(text: str) -> frozenset[Scope]:
    """Scopes from `ingest,read`. Raises InputError naming the unknown one."""
    try:
        return frozenset(Scope(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"{error}; scopes are {', '.join(Scope)}") from error


def digest(secret: str) -> bytes:
    """What the store keeps of a token's secret, and finds it by."""
    # A plain hash is enough for 256 random bits; a slow one would only slow every request.
    return sha256(secret.encode()).digest()


def create_token(engine: Engine, *, name: str, site_id: str | None, scopes: frozenset[Scope]) -> tuple[str, Token]:
    """Make a token: `(secret, token)`. The secret is not stored and cannot be shown again."""
    if not scopes:
        raise InputError("a token needs at least one scope")
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = Token("tok_" + secrets.token_hex(6), name, site_id, scopes, now())
    with write_transaction(engine) as connection:
        connection.execute(
            insert(api_tokens).values(
                token_id=token.token_id,
                token_hash=digest(secret),
                name=name,
                site_id=site_id,
                scopes=",".join(sorted(scopes)),
                created_at=token.created_at,
            )
        )
    return secret, token


def find_token(engine: Engine, hashed: bytes) -> Token | None:
    """The live token whose secret has this `digest`, or None. To look up a hash tells nothing, by its time, of the secret."""
    with engine.connect() as connection:
        row = connection.execute(
            select(*_COLUMNS).where(api_tokens.c.token_hash == hashed, api_tokens.c.revoked_at.is_(None))
        ).first()
    return None if row is None else _token(*row)


def live_tokens(engine: Engine) -> dict[bytes, Token]:
    """Every token that is not revoked, by its `digest`."""
    with engine.connect() as connection:
        rows = connection.execute(select(api_tokens.c.token_hash, *_COLUMNS).where(api_tokens.c.revoked_at.is_(None)))
        return {hashed: _token(*row) for hashed, *row in rows}


def list_tokens(engine: Engine) -> list[Token]:
    """Every token ever made, oldest first."""
    with engine.connect() as connection:
        return [_token(*row) for row in connection.execute(select(*_COLUMNS).order_by(api_tokens.c.created_at))]


def count_tokens(engine: Engine) -> int:
    """How many tokens there are, revoked ones included."""
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(api_tokens)).scalar_one())


def revoke_token(engine: Engine, token_id: str) -> None:
    """End a token. Raises NotFound."""
    with write_transaction(engine) as connection:
        done = connection.execute(
            update(api_tokens)
            .where(api_tokens.c.token_id == token_id, api_tokens.c.revoked_at.is_(None))
            .values(revoked_at=now())
        )
        if done.rowcount == 0:
            raise NotFound(f"there is no live token {token_id!r}; `eventstore token list` shows them")


_COLUMNS = (
    api_tokens.c.token_id,
    api_tokens.c.name,
    api_tokens.c.site_id,
    api_tokens.c.scopes,
    api_tokens.c.created_at,
    api_tokens.c.revoked_at,
)


def _token(
    token_id: str, name: str, site_id: str | None, scopes: str, created_at: datetime, revoked_at: datetime | None
) -> Token:
    return Token(token_id, name, site_id, parse_scopes(scopes), created_at, revoked_at)
