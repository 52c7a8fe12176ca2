"""A batch over HTTP: its body waits in a temporary file, its answers are made while they are sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO

import orjson
from anyio import to_thread
from fastapi import Request

from eventstore.access import Token
from eventstore.api.answers import line_answer
from eventstore.api.context import Context
from eventstore.api.problems import problem
from eventstore.errors import DeliveryTooLarge, StoreUnavailable, UnsupportedEncoding
from eventstore.ingest import Route, append_chunks
from eventstore.lines import ENCODINGS, PIECE_BYTES, Piece, Reading, cut, decompressed
from eventstore.readers import Job, read_pieces

SPOOL_MEMORY = 4 * 1024 * 1024
"""Bytes of a batch kept in memory; the rest waits in a temporary file."""
ANSWER_BYTES = 64 * 1024
"""Bytes of answers sent at a time."""
UNANSWERED_LINES = 500
"""Lines of a batch that the log stopped taking, told at a time."""
_SAME = {"": None, "identity": None, "x-gzip": "gzip"}
"""Other names of codings (RFC 9110, 8.4.1)."""


def encoding_of(request: Request) -> str | None:
    """How the request's body is compressed, None if it is not. Raises UnsupportedEncoding."""
    told = ", ".join(request.headers.getlist("content-encoding")).strip().lower()
    encoding = _SAME.get(told, told)
    if encoding is not None and encoding not in ENCODINGS:
        raise UnsupportedEncoding(told, ENCODINGS)
    return encoding


async def answered(request: Request, here: Context, token: Token, how: Route) -> AsyncIterator[bytes]:
    """Take in the request's body whole; gives blocks of answer lines, in order, each line once it is durable.

    Raises UnsupportedEncoding, DeliveryTooLarge, InputError (compressed data that are wrong) and StoreUnavailable only before
    it gives anything, and then nothing of the body is in the log.
    """
    limit = here.settings.max_batch_bytes
    encoding = encoding_of(request)
    spool = SpooledTemporaryFile(max_size=SPOOL_MEMORY)  # noqa: SIM115 - closed by the generator that reads it
    try:
        await _receive(request, spool, limit)
        if encoding is not None:
            await to_thread.run_sync(_require_sound, spool, encoding, limit, limiter=here.batches)
        spool.seek(0)
        text = spool if encoding is None else _open(spool, encoding)
        blocks = _blocks(here, token, cut(text, max_line_bytes=here.settings.max_body_bytes), how)
        # The first block is made before the status is sent, so that a store that cannot take anything answers 503.
        first = await to_thread.run_sync(next, blocks, None, limiter=here.batches)
    except BaseException:
        spool.close()
        raise

    async def rest() -> AsyncIterator[bytes]:
        with spool:
            block = first
            while block is not None:
                yield block
                block = await to_thread.run_sync(next, blocks, None, limiter=here.batches)

    return rest()


async def _receive(request: Request, spool: IO[bytes], limit: int) -> None:
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        spool.write(part)


def _require_sound(spool: IO[bytes], encoding: str, limit: int) -> None:
    """Decompress it all, keeping nothing: what is too large then, or wrong somewhere, is refused whole and not in its midst."""
    spool.seek(0)
    stream = _open(spool, encoding)
    size = 0
    while part := stream.read(PIECE_BYTES):
        size += len(part)
        if size > limit:
            raise _too_large(limit)


def _open(spool: IO[bytes], encoding: str) -> Reading:
    return decompressed(spool, encoding, "the body")


def _too_large(limit: int) -> DeliveryTooLarge:
    return DeliveryTooLarge(
        f"the batch is over the limit of {limit} bytes (max_batch_bytes), which holds for what is compressed in it too; split it"
    )


def _blocks(here: Context, token: Token, pieces: Iterator[Piece], how: Route) -> Iterator[bytes]:
    """Blocks of answer lines. Once something was acknowledged, a failure is told in the lines that it concerns."""
    block: list[bytes] = []
    size = 0
    answered = 0
    seen = _Seen(pieces)
    job = Job(how, partial(token.site_for, default=here.settings.site), here.settings.max_body_bytes)
    try:
        for chunk in append_chunks(read_pieces(seen, job, here.store.readers), here.store.submit_patiently):
            for answer in chunk.answers():
                here.store.note_answer(answer, how.route)
                line = orjson.dumps(line_answer(answer), option=orjson.OPT_APPEND_NEWLINE)
                block.append(line)
                size += len(line)
                answered = answer.line
                if size >= ANSWER_BYTES:
                    yield b"".join(block)
                    block, size = [], 0
    except StoreUnavailable as error:
        if not answered:
            raise
        yield b"".join(block)
        block = []
        details = problem(error)
        for number in seen.after(answered):
            block.append(orjson.dumps({"line": number, "outcome": "unavailable", "problem": details}) + b"\n")
            if len(block) >= UNANSWERED_LINES:
                yield b"".join(block)
                block = []
    if block:
        yield b"".join(block)


class _Seen:
    """Passes pieces on and remembers how far it got, so that the lines left unanswered can be named."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._last = 0

    def __iter__(self) -> Iterator[Piece]:
        for piece in self._pieces:
            self._last = piece.last
            yield piece

    def after(self, answered: int) -> Iterator[int]:
        """The numbers of the lines behind the answered one, to the end of the batch."""
        yield from range(answered + 1, self._last + 1)
        for piece in self._pieces:
            yield from range(piece.first, piece.last + 1)
