"""Answers that are kept: as many as fit, those asked for last."""

from __future__ import annotations

from analytics.catalogue import ReportColumn
from analytics.kept import KeptAnswer, KeptAnswers
from analytics.results import ReportResult


def answer(text: str, rows: int = 1) -> KeptAnswer:
    column = ReportColumn("code", "text", "What the customer types.")
    return KeptAnswer(ReportResult("r", "R", {}, 1, (column,), tuple((f"{text}-{row}",) for row in range(rows))), text)


def test_an_answer_is_found_under_its_key_until_it_is_dropped() -> None:
    kept = KeptAnswers()
    one = answer("one")
    kept.put("a", one)
    assert kept.get("a") is one
    assert kept.get("b") is None
    kept.clear()
    assert (kept.get("a"), len(kept), kept.size) == (None, 0, 0)


def test_of_too_many_those_asked_for_longest_ago_are_dropped() -> None:
    kept = KeptAnswers(answers=2)
    for key in ("a", "b"):
        kept.put(key, answer(key))
    kept.get("a")
    kept.put("c", answer("c"))
    assert [kept.get(key) is not None for key in ("a", "b", "c")] == [True, False, True]


def test_what_is_kept_fits_into_its_memory_also_when_it_is_rendered() -> None:
    large, small = answer("large", 1_000), answer("small")
    kept = KeptAnswers(size=large.size + small.size)
    kept.put("large", large)
    kept.put("small", small)
    assert kept.size == large.size + small.size
    assert large.rendered("json", lambda result: result.to_json()).startswith(b'[{"code":"large-0"}')
    kept.trim()
    assert (kept.get("large"), kept.get("small")) == (None, small)
    assert kept.size == small.size


def test_an_answer_that_is_larger_than_all_the_memory_is_not_kept() -> None:
    kept = KeptAnswers(size=1_000)
    kept.put("a", answer("a", 1_000))
    assert len(kept) == 0


def test_an_answer_is_rendered_once_in_each_form() -> None:
    asked: list[str] = []
    one = answer("one")

    def render(form: str) -> bytes:
        return one.rendered(form, lambda result: asked.append(form) or result.to_json())  # type: ignore[func-returns-value]

    before = one.size
    assert render("json") is render("json")
    render("csv")
    assert asked == ["json", "csv"]
    assert one.size == before + 2 * len(render("json"))
