"""Settings: the environment over the file over the defaults, and an error that names the setting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eventstore.config import CONFIG_FILE, DEFAULT_URL, Settings, load_settings
from eventstore.errors import InputError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and none of the caller's settings."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EVENTSTORE_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_any_set_up_a_sqlite_file_in_the_working_directory_is_served_to_this_machine() -> None:
    found = load_settings()
    assert found.url == DEFAULT_URL == "sqlite:///eventstore.db"
    assert (found.host, found.port, found.site) == ("127.0.0.1", 8787, "local")
    assert found.max_body_bytes == 1024 * 1024


def test_the_environment_goes_over_the_file_and_the_file_over_the_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / CONFIG_FILE).write_text('port = 1111\nsite = "from-file"\n')
    monkeypatch.setenv("EVENTSTORE_PORT", "2222")
    found = load_settings()
    assert (found.port, found.site, found.host) == (2222, "from-file", "127.0.0.1")


def test_what_the_caller_gives_goes_over_all_else_unless_it_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / CONFIG_FILE).write_text("port = 1111\nmax_body_bytes = 5000\n")
    monkeypatch.setenv("EVENTSTORE_PORT", "2222")
    found = load_settings(port=3333, max_body_bytes=None, host=None)
    assert (found.port, found.max_body_bytes, found.host) == (3333, 5000, "127.0.0.1")


def test_every_setting_can_be_given_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {"url": "sqlite:///x.db", "site": "s", "host": "::1", "port": 1, "queue_events": 2}
    given |= {"workers": 3, "max_body_bytes": 2048, "max_batch_bytes": 4096, "auth_failures_per_minute": 3}
    given |= {"report_seconds": 1.5, "report_memory": "1GB", "report_rows": 10, "max_streams": 4}
    given |= {"lake": "s3://shop/lake"}
    given |= {
        "handlers": "events.py",
        "handlers_name": "shop",
        "handlers_from": "beginning",
        "forward_secret": "whsec_x",
    }
    given |= {"projections": ["mine"], "project": False}
    given |= {"log_level": "debug", "log_format": "json", "apps": [{"name": "a", "key": "k", "instances": ["i"]}]}
    assert given.keys() == Settings.model_fields.keys()
    for name, value in given.items():
        monkeypatch.setenv(f"EVENTSTORE_{name.upper()}", json.dumps(value) if isinstance(value, list) else str(value))
    settings = load_settings()
    told = settings.model_dump(mode="json", exclude_unset=True)
    assert settings.forward_secret is not None
    assert settings.forward_secret.get_secret_value() == given["forward_secret"]
    # What is secret is not shown.
    assert {name: told[name] for name in given} == given | {"forward_secret": "**********"}


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "http"),
        ("port", ""),
        ("port", "-1"),
        ("port", "65536"),
        ("max_body_bytes", "1MB"),
        ("max_body_bytes", "1"),
        ("max_batch_bytes", "0"),
        ("queue_events", "0"),
        ("report_seconds", "0"),
        ("report_memory", "much"),
        ("report_memory", "2GB; SELECT 1"),
        ("report_rows", "0"),
    ],
)
def test_a_wrong_value_in_the_environment_is_an_error_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"EVENTSTORE_{name.upper()}", value)
    with pytest.raises(InputError, match=f"the setting {name} is wrong.*EVENTSTORE_{name.upper()}"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('port = "http"', "the setting port is wrong"),
        ("prot = 1111", "the setting prot is wrong"),
        ("[serve]\nport = 1111", "the setting serve is wrong"),
        ("port = ", f"{CONFIG_FILE} cannot be read"),
        ("port: 1111", f"{CONFIG_FILE} cannot be read"),
        ("port = 1\nport = 2", f"{CONFIG_FILE} cannot be read"),
        ("\ufeffport = 1111", f"{CONFIG_FILE} cannot be read"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_file(folder: Path, text: str, told: str) -> None:
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=told) as caught:
        load_settings()
    assert CONFIG_FILE in str(caught.value)


def test_a_file_that_is_not_utf8_is_an_error_that_names_it(folder: Path) -> None:
    (folder / CONFIG_FILE).write_bytes(b'site = "\xff"')
    with pytest.raises(InputError, match=f"{CONFIG_FILE} cannot be read"):
        load_settings()


def test_a_variable_that_is_no_setting_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSTORE_COLOUR", "blue")
    assert load_settings() == Settings()
