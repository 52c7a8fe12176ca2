"""Reports: `/v1/reports`, what there is, and `/v1/reports/{name}`, one answered as JSON, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from eventstore.api.context import Here, Reader, site_asked
from eventstore.api.coupons import NO_NUL
from eventstore.api.desk import Desk
from eventstore.api.problems import PROBLEM, REFUSALS
from eventstore.errors import InputError, NotAllowed, NotFound, ReportError
from eventstore.event import INT64_MAX

if TYPE_CHECKING:
    from analytics import ReportResult
    from analytics.answering import Question
    from analytics.kept import KeptAnswer

router = APIRouter(tags=["reading"], responses=REFUSALS)

PIECE_ROWS = 1_000
"""Rows that are written at a time: meanwhile no other thread can run, for some milliseconds."""


class Form(StrEnum):
    """What an answer can be given as."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


MEDIA_TYPES = {
    Form.JSON: "application/json",
    Form.CSV: "text/csv",
    Form.PARQUET: "application/vnd.apache.parquet",
}
CACHING = {"Cache-Control": "private, no-cache", "Vary": "Accept, Authorization"}
"""An answer may be kept by who asked for it, and is asked about again each time: If-None-Match makes that cheap."""


CUT = "Eventstore-Cut"
"""The header of an answer that may have more rows than its parameter `limit` lets it."""


class ReportParameter(BaseModel):
    """A parameter of a report: a query parameter of its address."""

    name: str
    type: str = Field(description="text, date, timestamp, bigint, count, boolean or zone.")
    default: str | int | bool | None = Field(description="What is meant where it is not given; null: no restriction.")
    choices: list[str] = Field(description="The words that a text may be; empty: any.")
    expected: str = Field(description="What it takes, in words for people.")
    doc: str


class ReportColumn(BaseModel):
    """A column of a report's answer, in their order."""

    name: str
    unit: str = Field(description="text, boolean, time (UTC), date, amount, percent, seconds …, or what is counted.")
    doc: str


class ReportAbout(BaseModel):
    """A report: what it answers, what it takes, and what it tells."""

    name: str
    title: str
    question: str
    parameters: list[ReportParameter]
    columns: list[ReportColumn]


class ReportList(BaseModel):
    """Every report, by name."""

    reports: list[ReportAbout]


class ReportAnswer(BaseModel):
    """The answer of a report."""

    report: str
    title: str
    parameters: dict[str, str | int | bool | None] = Field(description="What it was asked with, defaults among them.")
    position: int = Field(description="How far into the log it looked: not less than what the log held when asked.")
    columns: list[ReportColumn]
    cut: bool = Field(
        description="Whether the parameter `limit` was reached, so that there may be more rows; `limit=all` gives all of them."
    )
    rows: list[dict[str, Any]] = Field(description="One object a row. Times are UTC, amounts have every digit.")


@router.get("/v1/reports", summary="The reports there are")
async def reports(here: Here, _token: Reader) -> ReportList:
    """What each report answers, the parameters that it takes and the columns of its answer."""
    return await here.desk.quickly(_list)


@router.get(
    "/v1/reports/{name}",
    summary="A report's answer, as JSON, CSV or Parquet",
    response_model=ReportAnswer,
    responses={
        200: {
            "description": "The answer. Its ETag stays the same while the log does.",
            "headers": {
                CUT: {
                    "description": "Only where the parameter `limit` was reached, so that there may be more rows: `limit=1000`.",
                    "schema": {"type": "string"},
                }
            },
            "content": {
                MEDIA_TYPES[Form.CSV]: {"schema": {"type": "string"}},
                MEDIA_TYPES[Form.PARQUET]: {"schema": {"type": "string", "format": "binary"}},
            },
        },
        304: {"description": "The answer is the one with the ETag that If-None-Match named."},
        400: {"description": "A parameter that the report has not, or a value that it does not take.", **PROBLEM},
        404: {"description": "There is no such report.", **PROBLEM},
        503: {"description": "Too many ask, or the lake needs longer to be brought up to the log.", **PROBLEM},
    },
    openapi_extra={
        "parameters": [
            {
                "name": "parameters",
                "in": "query",
                "style": "form",
                "explode": True,
                "schema": {"type": "object", "additionalProperties": {"type": "string"}},
                "description": "The report's own parameters by their names, as in `since=2026-09-01`; `/v1/reports` tells them.",
            }
        ]
    },
)
async def report(
    request: Request,
    here: Here,
    token: Reader,
    name: Annotated[str, Path(description="The report's name, as in `usage-per-coupon`.")],
    site: Annotated[str | None, Query(pattern=NO_NUL, description="Only this site.")] = None,
    form: Annotated[
        Form | None, Query(alias="format", description="Goes before what the Accept header says; without either: json.")
    ] = None,
    wait_for: Annotated[
        int | None,
        Query(ge=0, le=INT64_MAX, description="A position that the answer shows; it shows all that the log holds."),
    ] = None,
) -> Response:
    """Answer a question about the coupons from the lake, which is brought up to the log first.

    The answer shows at least what the log held when it was asked. With its ETag as If-None-Match, what has not changed is not
    sent again. A report that looks at the clock looks at it once a minute, and says so in the parameter `at`.
    """
    given = _given(request)
    restricted = site_asked(here, token, site)
    asked = _Asked(
        here.desk, name, given, restricted, form or _accepted(request), request.headers.get("if-none-match"), wait_for
    )
    found = await here.desk.quickly(asked.begin)
    if isinstance(found, Response):
        return found
    return await here.desk.patiently(request, found, lambda: asked.answered(found))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for an answer: what is done for it in threads."""

    desk: Desk
    name: str
    given: dict[str, str]
    site: str | None
    form: Form
    known: str | None
    wait_for: int | None

    def begin(self) -> Response | Question:
        """The response, if it can be given at once, and else the question to be answered."""
        question = self._question()
        answering = self.desk.answering
        moment = answering.moment(question)
        if self.wait_for is not None and self.wait_for > moment.position:
            raise InputError(f"wait_for={self.wait_for} is no position of the log, which ends at {moment.position}")
        tag = self._tag(question.version(moment))
        if _names(self.known, tag):
            answering.note_kept(question)
            return Response(status_code=304, headers={"ETag": tag, **CACHING})
        kept = answering.look(question, moment)
        if kept is None:
            return question
        answering.note_kept(question)
        return self._response(kept)

    def answered(self, question: Question) -> Response:
        """The response once the question is answered."""
        return self._response(self.desk.answering.answer(question))

    def _question(self) -> Question:
        from analytics import report, reports
        from analytics.answering import Question

        if self.name not in {each.name for each in reports()}:
            try:
                report(self.name)
            except ReportError as error:
                raise NotFound(str(error)) from None
        if self.site is None:
            return Question(self.name, self.given)
        if "site" not in {each.name for each in report(self.name).parameters}:
            raise NotAllowed(
                f"the report {self.name} tells of all sites and cannot be restricted to the site {self.site}; "
                "ask with a token that is bound to no site, without `site`"
            )
        return Question(self.name, {**self.given, "site": self.site})

    def _response(self, answer: KeptAnswer) -> Response:
        body = answer.rendered(self.form, RENDERERS[self.form])
        self.desk.answering.kept.trim()
        headers = {"ETag": self._tag(answer.version), **CACHING}
        if answer.result.cut:
            headers[CUT] = f"limit={answer.result.parameters['limit']}"
        if self.form is not Form.JSON:
            headers["Content-Disposition"] = f'attachment; filename="{self.name}.{self.form}"'
        media_type = MEDIA_TYPES[self.form]
        return Response(body, media_type=media_type, headers=headers)

    def _tag(self, version: str) -> str:
        return f'"{version}-{self.form}"'


def _list() -> ReportList:
    from analytics import reports

    return ReportList(
        reports=[
            ReportAbout(
                name=each.name,
                title=each.title,
                question=each.question,
                parameters=[
                    ReportParameter(
                        name=parameter.name,
                        type=parameter.type,
                        default=_plain(parameter.default),
                        choices=list(parameter.choices),
                        expected=parameter.expected,
                        doc=parameter.doc,
                    )
                    for parameter in each.parameters
                ],
                columns=[ReportColumn(name=column.name, unit=column.unit, doc=column.doc) for column in each.columns],
            )
            for each in reports()
        ]
    )


def _plain(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value, option=orjson.OPT_UTC_Z))


def _given(request: Request) -> dict[str, str]:
    """The report's own parameters. Raises InputError for one that is given twice."""
    given: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if key in given:
            raise InputError(f"the parameter {key} is given twice; give it once")
        given[key] = value
    return {key: value for key, value in given.items() if key not in ("site", "format", "wait_for")}


def _accepted(request: Request) -> Form:
    """The form that the Accept header prefers (RFC 9110, 12.5.1); JSON where it prefers none, or one that there is not."""
    best, quality = Form.JSON, 0.0
    for part in request.headers.get("accept", "").split(","):
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        found = next((form for form, media_type in MEDIA_TYPES.items() if media_type == name), None)
        if found is None and name in ("*/*", "application/*"):
            found = Form.JSON
        wish = _quality(parameters)
        if found is not None and wish > quality:
            best, quality = found, wish
    return best


def _quality(parameters: list[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _names(header: str | None, tag: str) -> bool:
    """Whether an If-None-Match names this ETag."""
    known = [each.strip().removeprefix("W/") for each in (header or "").split(",")]
    return tag in known or "*" in known


def _pieces(result: ReportResult) -> Iterator[ReportResult]:
    for start in range(0, len(result.rows), PIECE_ROWS):
        yield replace(result, rows=result.rows[start : start + PIECE_ROWS])


def to_json(result: ReportResult) -> bytes:
    """The answer as one JSON object; its rows are those of `ReportResult.to_json`."""
    head = {
        "report": result.name,
        "title": result.title,
        "parameters": result.parameters,
        "position": result.position,
        "cut": result.cut,
        "columns": [{"name": each.name, "unit": each.unit, "doc": each.doc} for each in result.columns],
    }
    rows = b",".join(piece.to_json()[1:-1] for piece in _pieces(result))
    return orjson.dumps(head, option=orjson.OPT_UTC_Z)[:-1] + b',"rows":[' + rows + b"]}"


def to_csv(result: ReportResult) -> bytes:
    """The answer as `ReportResult.to_csv` writes it."""
    heading = replace(result, rows=()).to_csv()
    return "".join([heading, *(piece.to_csv().removeprefix(heading) for piece in _pieces(result))]).encode()


RENDERERS: dict[Form, Callable[[ReportResult], bytes]] = {
    Form.JSON: to_json,
    Form.CSV: to_csv,
    Form.PARQUET: lambda result: result.to_parquet(),
}
