"""Errors as problem details (RFC 9457): every answer that is not a success says what was wrong and what to do."""

from __future__ import annotations

import logging
import math
import traceback
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from eventstore.errors import (
    DeliveryTooLarge,
    EventStoreError,
    InputError,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotGenuine,
    ReportError,
    StoreUnavailable,
    TooManyFailures,
    UnknownHandler,
    UnknownInstance,
    UnreadableDelivery,
    UnsupportedEncoding,
    reason_of,
)
from eventstore.ingest import UNKNOWN_ROUTE
from eventstore.log.engine import is_unavailable

PROBLEM_JSON = "application/problem+json"
PROBLEM: dict[str, Any] = {
    "content": {
        PROBLEM_JSON: {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": {"type": "string", "description": "A name for this kind of problem."},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string", "description": "What was wrong here, and what to do about it."},
                },
            }
        }
    }
}
"""How the API page documents a refusal."""
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request cannot be read.", **PROBLEM},
    401: {"description": "No token, or an unknown one.", **PROBLEM},
    403: {"description": "The token is for another site, or lacks the scope.", **PROBLEM},
    422: {"description": "A parameter is wrong.", **PROBLEM},
    429: {"description": "Too many failed attempts from this address; Retry-After says when to try again.", **PROBLEM},
}
"""The refusals that every route but the health check may answer."""
INGESTING = {
    "/v1/webhooks/wix": "rest",
    "/v1/velo/{handler}": "velo",
    "/v1/sdk/events": "sdk",
    "/v1/events": UNKNOWN_ROUTE,
}
"""The ingestion routes by path, and the name of the route that a delivery comes by there: for counting refusals."""
_PRESSING = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR)
"""The answers that an operator should look at; all others are the caller's own affair."""
_log = logging.getLogger("eventstore.api")

_STATUS: tuple[tuple[type[EventStoreError], HTTPStatus], ...] = (
    (NotAuthenticated, HTTPStatus.UNAUTHORIZED),
    (NotAllowed, HTTPStatus.FORBIDDEN),
    (UnknownHandler, HTTPStatus.NOT_FOUND),
    (NotFound, HTTPStatus.NOT_FOUND),
    (DeliveryTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnsupportedEncoding, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (UnreadableDelivery, HTTPStatus.BAD_REQUEST),
    (InputError, HTTPStatus.BAD_REQUEST),
    (ReportError, HTTPStatus.BAD_REQUEST),
    (StoreUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (TooManyFailures, HTTPStatus.TOO_MANY_REQUESTS),
)


def problem(error: EventStoreError) -> dict[str, Any]:
    """The problem details of one of our errors."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    details: dict[str, Any] = {
        "type": f"urn:eventstore:problem:{_kebab(type(error).__name__)}",
        "title": _TITLES.get(type(error), status.phrase),
        "status": int(status),
        "detail": str(error),
    }
    if isinstance(error, UnknownHandler):
        details["known_handlers"] = list(error.known)
    if isinstance(error, UnreadableDelivery) and error.where:
        details["where"] = error.where
    return details


_TITLES: dict[type[EventStoreError], str] = {
    UnreadableDelivery: "The delivery cannot be read",
    UnknownHandler: "Unknown handler",
    DeliveryTooLarge: "The delivery is too large",
    UnsupportedEncoding: "The content encoding is not read",
    StoreUnavailable: "The store is not available now",
    NotAuthenticated: "A bearer token is needed",
    NotGenuine: "The webhook is not proved to be Wix's",
    TooManyFailures: "Too many failed attempts",
    UnknownInstance: "The app may not speak for this instance",
    NotAllowed: "The token does not allow this",
    NotFound: "Not found",
    InputError: "The request is wrong",
    ReportError: "The report is asked wrongly",
}


def _kebab(name: str) -> str:
    return "".join("-" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("-")


def problem_response(details: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer with these problem details."""
    return JSONResponse(details, status_code=details["status"], headers=headers, media_type=PROBLEM_JSON)


def install(app: FastAPI) -> None:
    """Answer every error of the app as problem details."""
    app.add_exception_handler(EventStoreError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(Exception, _unexpected)


async def answer(request: Request, error: Exception) -> JSONResponse:
    """What the handlers here answer to an error, for a route that is called without the app's own layers around it."""
    handlers = request.app.exception_handlers
    return await next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)(request, error)  # type: ignore[no-any-return]


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EventStoreError)
    headers = {}
    if isinstance(error, StoreUnavailable | TooManyFailures):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, UnsupportedEncoding):
        headers["Accept-Encoding"] = ", ".join(error.known)  # RFC 7694
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="eventstore"'
    details = problem(error)
    template = getattr(request.scope.get("route"), "path", "")
    # What is only put off comes again.
    if request.method == "POST" and template in INGESTING and not isinstance(error, StoreUnavailable):
        request.app.state.context.store.note_refusal(INGESTING[template], reason_of(error))
    told = {"method": request.method, "route": template, "status": details["status"], "reason": reason_of(error)}
    _log.log(logging.WARNING if details["status"] in _PRESSING else logging.INFO, "refused", extra=told)
    return problem_response(details, headers)


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    details = {"type": "about:blank", "title": phrase, "status": error.status_code, "detail": str(error.detail)}
    return problem_response(details, dict(error.headers or {}))


async def _validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [{"where": ".".join(str(part) for part in each["loc"]), "detail": each["msg"]} for each in error.errors()]
    detail = "; ".join(f"{each['where']}: {each['detail']}" for each in errors)
    details = {
        "type": "urn:eventstore:problem:input-error",
        "title": "The request is wrong",
        "status": 422,
        "detail": detail,
        "errors": jsonable_encoder(errors),
    }
    return problem_response(details)


async def _database(request: Request, error: Exception) -> JSONResponse:
    if not is_unavailable(error):
        return await _unexpected(request, error)
    assert isinstance(error, DBAPIError)
    _log.warning("the database failed", extra={"method": request.method, "reason": type(error.orig).__name__})
    return await _ours(request, StoreUnavailable("the database cannot be used now; ask again"))


async def _gone(_request: Request, _error: Exception) -> JSONResponse:
    # Nobody hears this answer; but a sender that hangs up is no fault of ours, and none to log.
    return problem_response(
        {"type": "about:blank", "title": "Cut short", "status": 400, "detail": "the body ended early"}
    )


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # Where and of what kind, not what it says: bodies, paths, headers and messages may hold personal data and tokens.
    trace = "".join(traceback.format_tb(error.__traceback__))
    _log.error("unexpected %s", type(error).__name__, extra={"method": request.method, "trace": trace})
    details = {
        "type": "about:blank",
        "title": "Internal error",
        "status": 500,
        "detail": "an unexpected error, logged by the server; nothing of this request was acknowledged",
    }
    # The server ends the connection after an unexpected error: a client that is told so does not use it again.
    return problem_response(details, {"Connection": "close"})
