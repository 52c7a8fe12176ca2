"""The ingestion routes with a bearer token: `/v1/velo/{handler}`, `/v1/sdk/events` and the NDJSON batch `/v1/events`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any

import orjson
from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from eventstore.api.answers import EventAnswer, event_response, line_answer
from eventstore.api.context import Context, Here, Ingester, kept_headers, read_body
from eventstore.api.problems import PROBLEM, REFUSALS, problem
from eventstore.errors import DeliveryTooLarge, StoreUnavailable, UnknownHandler, reason_of
from eventstore.event import Source
from eventstore.ingest import UNKNOWN_ROUTE, Route, ingest_lines, read_delivery
from eventstore.wix import HANDLERS

router = APIRouter(tags=["ingestion"])

SPOOL_MEMORY = 4 * 1024 * 1024
"""Bytes of a batch kept in memory; the rest waits in a temporary file."""
ANSWER_BYTES = 64 * 1024
"""Bytes of answers sent at a time."""
RESPONSES: dict[int | str, dict[str, Any]] = {
    **REFUSALS,
    400: {"description": "Not JSON, or too deep.", **PROBLEM},
    413: {"description": "The body is over the limit.", **PROBLEM},
    503: {"description": "Send it again after Retry-After seconds; no event is kept twice.", **PROBLEM},
}
_JSON_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}
_NDJSON_BODY = {"requestBody": {"required": True, "content": {"application/x-ndjson": {"schema": {"type": "string"}}}}}


@router.post(
    "/v1/velo/{handler}",
    response_model=EventAnswer,
    responses={**RESPONSES, 404: {"description": "Not a handler that Wix documents.", **PROBLEM}},
    openapi_extra=_JSON_BODY,
    summary="An event as a site's events.js receives it",
)
async def velo(
    request: Request,
    here: Here,
    token: Ingester,
    handler: Annotated[str, Path(description="The handler's name, as in `wixMarketing_onCouponCreated`.")],
) -> Response:
    """Append the event that the site's backend handler was called with: `{metadata, entity}` or `{metadata, data}`."""
    if handler not in HANDLERS:
        raise UnknownHandler(handler, tuple(HANDLERS))
    body = await read_body(request, here.settings.max_body_bytes)
    return await _append(here, body, Route(Source.VELO, handler, headers=kept_headers(request)), token)


@router.post(
    "/v1/sdk/events",
    response_model=EventAnswer,
    responses=RESPONSES,
    openapi_extra=_JSON_BODY,
    summary="An event as a handler of @wix/sdk receives it",
)
async def sdk(request: Request, here: Here, token: Ingester) -> Response:
    """Append the event envelope that an app built on `@wix/sdk` was called with: `{entity | data, metadata}`."""
    body = await read_body(request, here.settings.max_body_bytes)
    return await _append(here, body, Route(Source.SDK, headers=kept_headers(request)), token)


async def _append(here: Context, body: bytes, how: Route, token: Ingester) -> Response:
    entries = read_delivery(body, how, lambda named: token.site_for(named, here.settings.site), may_wrap=False)
    return event_response(await here.relays.append(entries))


@router.post(
    "/v1/events",
    response_class=StreamingResponse,
    responses={
        **RESPONSES,
        404: {"description": "Not a handler that Wix documents.", **PROBLEM},
        200: {"description": "One JSON answer a line, in order.", "content": {"application/x-ndjson": {}}},
    },
    openapi_extra=_NDJSON_BODY,
    summary="Many deliveries at once, one a line",
)
async def batch(
    request: Request,
    here: Here,
    token: Ingester,
    route: Annotated[
        Source | None, Query(description="The route of lines that do not say theirs; found out by shape if absent.")
    ] = None,
    handler: Annotated[str | None, Query(description="The Velo handler of lines that do not say theirs.")] = None,
) -> Response:
    """Append deliveries, one JSON document a line, and answer a line for each once it is durable.

    A line is a delivery as any route would carry it, or one wrapped with what its body does not say:
    `{"route": "velo", "handler": "wixMarketing_onCouponCreated", "body": {…}}`. A wrong line is refused alone.
    """
    if handler is not None and handler not in HANDLERS:
        raise UnknownHandler(handler, tuple(HANDLERS))
    spool = SpooledTemporaryFile(max_size=SPOOL_MEMORY)  # noqa: SIM115 - closed by the generator that reads it
    try:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > here.settings.max_batch_bytes:
                raise DeliveryTooLarge(
                    f"the batch is over the limit of {here.settings.max_batch_bytes} bytes (max_batch_bytes); split it"
                )
            spool.write(part)
        spool.seek(0)
        lines = _lines(spool, here.settings.max_body_bytes)
        how = Route(route, handler)
        answers = _answers(here, token, lines, how)
        # The first block is made before the status is sent, so that a store that cannot take anything answers 503.
        first = await to_thread.run_sync(next, answers, None, limiter=here.batches)
    except BaseException:
        spool.close()
        raise

    async def body() -> AsyncIterator[bytes]:
        with spool:
            block = first
            while block is not None:
                yield block
                block = await to_thread.run_sync(next, answers, None, limiter=here.batches)

    return StreamingResponse(body(), media_type="application/x-ndjson")


def _lines(spool: IO[bytes], limit: int) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of one that is too long only so much that it is known to be."""
    number = 0
    while line := spool.readline(limit + 2):
        number += 1
        if len(line) == limit + 2 and not line.endswith(b"\n"):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = spool.readline(limit)
        yield number, line


def _answers(here: Context, token: Ingester, lines: Iterator[tuple[int, bytes]], how: Route) -> Iterator[bytes]:
    """Blocks of answer lines. Once something was acknowledged, a failure is told in the lines that it concerns."""
    block: list[bytes] = []
    size = 0
    answered = 0
    seen = _Seen(lines)
    try:
        for answer in ingest_lines(
            seen,
            how,
            lambda named: token.site_for(named, here.settings.site),
            here.store.submit_patiently,
            max_line_bytes=here.settings.max_body_bytes,
        ):
            if answer.error is not None:
                here.store.note_refusal(how.route or UNKNOWN_ROUTE, reason_of(answer.error))
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
            if len(block) >= 500:
                yield b"".join(block)
                block = []
    if block:
        yield b"".join(block)


class _Seen:
    """Passes lines on and remembers how far it got, so that those left unanswered can be named."""

    def __init__(self, lines: Iterator[tuple[int, bytes]]) -> None:
        self._lines = lines
        self._last = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for number, line in self._lines:
            self._last = number
            yield number, line

    def after(self, answered: int) -> Iterator[int]:
        """The numbers of the lines behind the answered one, to the end of the batch."""
        yield from range(answered + 1, self._last + 1)
        for number, _ in self._lines:
            yield number
