"""The README says what is so: every test, command, setting and route that it names exists, and none is left out."""

from __future__ import annotations

import re
from pathlib import Path

from eventstore.cli.main import COMMANDS
from eventstore.config import Settings
from eventstore.wix import HANDLERS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))


def test_every_guarantee_names_a_test_that_exists() -> None:
    section = README.split("## Guarantees")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| what holds")]
    assert lines
    for line in lines:
        named = re.search(r"`(test_\w+)` \|$", line)
        assert named, f"names no test: {line}"
        assert f"def {named[1]}(" in TESTS, named[1]


def test_every_command_that_the_readme_shows_exists() -> None:
    shown = set(re.findall(r"(?:^|[`$/] ?)eventstore (?:--store \S+ )?([a-z][a-z-]+)", README, re.MULTILINE))
    assert shown
    assert shown <= set(COMMANDS), shown - set(COMMANDS)


def test_every_setting_is_documented_with_its_variable() -> None:
    for name in Settings.model_fields:
        assert f"`{name}`" in README, name
        assert f"`EVENTSTORE_{name.upper()}`" in README, name


def test_every_route_is_documented() -> None:
    from eventstore.api import coupons, deliveries, health, metrics

    for resource in (coupons, deliveries, health, metrics):
        for route in resource.router.routes:
            path = getattr(route, "path", "").replace("coupon_id", "id").replace("/{handler}", "")
            assert path in README, path


def test_the_handlers_of_the_relay_are_the_ones_that_are_known() -> None:
    relay = (ROOT / "eventstore" / "relay" / "events.js").read_text(encoding="utf-8")
    assert set(re.findall(r"export function (\w+)\(", relay)) == set(HANDLERS)


def test_nothing_was_left_to_be_filled_in() -> None:
    assert "@@" not in README
