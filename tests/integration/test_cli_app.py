"""`eventstore app`, apps in the configuration of `serve`, and a running server that follows both."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventstore import apps
from eventstore.store import EventStore
from eventstore.webhooks import RELOAD_SECONDS
from tests.commands import Command, Done, run
from tests.outages import WEBHOOKS, register
from tests.serving import SITE, NewServer, cli, serving
from tests.signing import APP, OTHER_APP, STRANGER, base64_of_pem, coupon_event, private_pem, public_pem, webhook


@pytest.fixture
def app(eventstore: Command) -> Callable[..., Done]:
    """Calls `eventstore app …` on an empty store."""
    return lambda *arguments, given=b"": eventstore.run("app", *arguments, given=given)


def key_file(folder: Path, text: str | None = None, name: str = APP) -> str:
    """The path of a file with a key, or with this text."""
    file = folder / f"{name.replace(' ', '-')}.pem"
    file.write_text(public_pem(name) if text is None else text, encoding="utf-8")
    return str(file)


def listed(app: Callable[..., Done], *options: str) -> list[dict[str, Any]]:
    done = app("list", "--json", *options)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def assert_error(done: Done, *told: str, status: int = 1) -> None:
    """The command ended with one line that says so much, and nothing on standard output."""
    assert done.returncode == status, done
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    for text in told:
        assert text in line


# The commands


@pytest.mark.parametrize("spelling", ["PEM", "base64", "escaped"])
def test_an_app_is_added_with_its_key_from_a_file_in_any_spelling(
    app: Callable[..., Done], tmp_path: Path, spelling: str
) -> None:
    texts = {"PEM": public_pem(), "base64": base64_of_pem(), "escaped": public_pem().replace("\n", "\\n")}
    file = key_file(tmp_path, texts[spelling])
    done = app("add", "--name", APP, "--key-file", file, "--instance", "i-1", "--test-instance", "t-1")
    assert done.returncode == 0, done.stderr
    for shown in (APP, "i-1", "t-1", "test", "live", "refused", "/v1/webhooks/wix"):
        assert shown in done.stdout
    [made] = listed(app)
    assert [key["public_key"] for key in made["keys"]] == [public_pem()]
    assert [(each["instance_id"], each["test"]) for each in made["instances"]] == [("i-1", False), ("t-1", True)]


def test_a_key_is_read_from_standard_input(app: Callable[..., Done]) -> None:
    done = app("add", "--name", APP, "--key-file", "-", "--accept-new-instances", "--json", given=public_pem().encode())
    made = json.loads(done.stdout)
    assert (made["name"], made["accept_new_instances"], made["removed_at"]) == (APP, True, None)
    assert [made] == listed(app)


def test_to_add_an_app_again_changes_nothing_and_names_its_new_instances(
    app: Callable[..., Done], tmp_path: Path
) -> None:
    add = ("add", "--name", APP, "--key-file", key_file(tmp_path), "--instance", "i-1")
    assert app(*add).returncode == app(*add).returncode == 0
    assert app("add", "--name", APP, "--instance", "i-2").returncode == 0
    [made] = listed(app)
    assert [each["instance_id"] for each in made["instances"]] == ["i-1", "i-2"]
    assert len(made["keys"]) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (private_pem, "this is a private key"),
        (lambda: b64encode(private_pem().encode()).decode(), "this is a private key"),
        (lambda: public_pem("short", 1_024), "1024 bits"),
        (lambda: "garbage!", "not a key"),
        (lambda: "", "not a key"),
    ],
    ids=["a private key", "base64 of a private key", "a short key", "garbage", "an empty file"],
)
def test_a_wrong_key_is_one_line_that_says_what_it_is(
    app: Callable[..., Done], tmp_path: Path, text: Callable[[], str], told: str
) -> None:
    done = app("add", "--name", APP, "--key-file", key_file(tmp_path, text()))
    assert_error(done, told)
    assert "PRIVATE" not in done.stderr
    assert listed(app) == []


def test_a_key_file_that_cannot_be_read_is_named(app: Callable[..., Done], tmp_path: Path) -> None:
    missing = app("add", "--name", APP, "--key-file", str(tmp_path / "missing.pem"))
    assert missing.returncode == 2
    assert "missing.pem" in missing.stderr
    binary = tmp_path / "binary.pem"
    binary.write_bytes(b"\xff\xfe\x00key")
    assert_error(app("add", "--name", APP, "--key-file", str(binary)), "binary.pem", "cannot be read")


def test_what_cannot_be_added_is_refused_with_what_to_do(app: Callable[..., Done], tmp_path: Path) -> None:
    assert_error(app("add", "--name", APP), f"there is no app '{APP}' yet", "--key-file")
    app("add", "--name", APP, "--key-file", key_file(tmp_path), "--instance", "i-1")
    other_key = key_file(tmp_path, name=OTHER_APP)
    assert_error(app("add", "--name", APP, "--key-file", other_key), f"eventstore app rotate --name {APP}")
    assert_error(app("add", "--name", OTHER_APP, "--key-file", key_file(tmp_path)), f"belongs to the app {APP}")
    taken = app("add", "--name", OTHER_APP, "--key-file", other_key, "--instance", "i-1")
    assert_error(taken, "the instance i-1", f"belongs to the app {APP}")
    assert [each["name"] for each in listed(app)] == [APP]


def test_a_key_is_rotated_with_and_without_grace_and_the_old_ones_are_listed_for_ever(
    app: Callable[..., Done], tmp_path: Path
) -> None:
    app("add", "--name", APP, "--key-file", key_file(tmp_path))
    assert_error(app("rotate", "--name", APP, "--key-file", key_file(tmp_path)), "has already")
    done = app("rotate", "--name", APP, "--key-file", key_file(tmp_path, name=STRANGER))
    assert done.returncode == 0, done.stderr
    [made] = listed(app)
    old, new = made["keys"]
    assert new["retired_at"] is None
    rotated = datetime.fromisoformat(new["added_at"])
    assert datetime.fromisoformat(old["retired_at"]) - rotated == timedelta(hours=48)
    third = key_file(tmp_path, name=OTHER_APP)
    assert app("rotate", "--name", APP, "--key-file", third, "--grace", "0").returncode == 0
    [made] = listed(app)
    first, second, last = made["keys"]
    assert first["retired_at"] == second["retired_at"] == last["added_at"]
    assert last["retired_at"] is None
    too_long = app("rotate", "--name", APP, "--key-file", key_file(tmp_path), "--grace", "-1")
    assert too_long.returncode == 2
    assert "--grace" in too_long.stderr


def test_a_removed_app_is_listed_only_where_that_is_asked_for(app: Callable[..., Done], tmp_path: Path) -> None:
    app("add", "--name", APP, "--key-file", key_file(tmp_path), "--instance", "i-1")
    done = app("remove", "--name", APP)
    assert (done.returncode, done.stdout) == (0, f"removed {APP}; a running server follows within seconds\n")
    assert listed(app) == []
    [former] = listed(app, "--removed")
    assert former["removed_at"] == former["keys"][0]["retired_at"] == former["instances"][0]["removed_at"]
    assert APP in app("list", "--removed").stdout
    assert_error(app("remove", "--name", APP), f"there is no app '{APP}'", "eventstore app list", status=3)
    rotated = app("rotate", "--name", APP, "--key-file", key_file(tmp_path))
    assert_error(rotated, f"there is no app '{APP}'", status=3)


def test_listing_the_apps_of_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    file = tmp_path / "none.db"
    assert_error(run("--store", str(file), "app", "list"), "there is no store")
    assert not file.exists()


# In the configuration


def test_serve_registers_the_apps_of_the_file_and_rotates_to_the_keys_that_change_there(
    tmp_path: Path, store_url: str
) -> None:
    config = tmp_path / "eventstore.toml"
    key_file(tmp_path)
    config.write_text(
        f'[[apps]]\nname = "{APP}"\nkey_file = "app.pem"\ninstances = ["{SITE}"]\n'
        f'[[apps]]\nname = "{OTHER_APP}"\nkey = "{base64_of_pem(OTHER_APP)}"\naccept_new_instances = true\n'
    )
    with serving(tmp_path, url=store_url) as server:
        with server.client() as client:
            assert take(client, "e-1").json()["outcome"] == "appended"
            fresh = client.post(WEBHOOKS, content=webhook(coupon_event("e-2"), key=OTHER_APP, instance="new"))
            assert fresh.json()["outcome"] == "appended"
        assert server.stop()[0] == 0

        key_file(tmp_path, public_pem(STRANGER), APP)
        config.write_text(
            f'[[apps]]\nname = "{APP}"\nkey_file = "app.pem"\ninstances = ["i-2"]\ntest_instances = ["t-1"]\n'
        )
        server.start()
        with server.client() as client:
            assert take(client, "e-3", key=STRANGER).json()["outcome"] == "appended"
            assert take(client, "e-4").json()["outcome"] == "appended"  # signed just before the rotation
            assert take(client, "e-5", key=STRANGER, instance="t-1").json()["outcome"] == "appended"
    found = {each["name"]: each for each in listed(lambda *given: server.run("app", *given))}
    assert found.keys() == {APP, OTHER_APP}
    assert [key["retired_at"] is None for key in found[APP]["keys"]] == [False, True]
    assert [each["instance_id"] for each in found[APP]["instances"]] == [SITE, "i-2", "t-1"]


def test_serve_registers_the_apps_of_the_environment(new_server: NewServer) -> None:
    told = json.dumps([{"name": APP, "key": public_pem().replace("\n", "\\n"), "instances": [SITE]}])
    with new_server(EVENTSTORE_APPS=told) as server, server.client() as client:
        assert take(client, "e-1").json()["outcome"] == "appended"


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"name": APP}, ["apps", f"the app {APP} needs either key or key_file"]),
        ({"name": APP, "key_file": "missing.pem"}, ["missing.pem", f"the app {APP}", "cannot be read"]),
        ({"name": APP, "key": "garbage!"}, ["not a key"]),
    ],
    ids=["no key", "a missing file", "garbage"],
)
def test_serve_does_not_start_with_a_wrong_app_and_says_which(
    tmp_path: Path, entry: dict[str, str], told: list[str]
) -> None:
    done = cli("serve", "--port", "0", cwd=tmp_path, EVENTSTORE_APPS=json.dumps([entry]))
    assert_error(Done(done.returncode, done.stdout, done.stderr), *told)


# A running server


def take(client: httpx.Client, event_id: str, **how: Any) -> httpx.Response:
    """What the server says to a webhook; one that it asks to send again, for the machine is slow, is sent again."""
    while True:
        response = client.post(WEBHOOKS, content=webhook(coupon_event(event_id), **how))
        if response.status_code != 503:
            return response


def test_a_webhook_of_an_app_added_a_moment_ago_is_taken_at_once(new_server: NewServer) -> None:
    with new_server() as server, server.client() as client:
        # The server has looked at its apps, and has had a second for nothing to be new to it.
        assert take(client, "e-0").status_code == 401
        time.sleep(RELOAD_SECONDS)
        register(server)
        assert take(client, "e-1").json() == {"outcome": "appended", "event_id": "e-1", "position": 1}


def test_an_app_can_be_added_before_there_is_a_store(folder: Path) -> None:
    done = run("app", "add", "--name", APP, "--key-file", "-", given=public_pem().encode())
    assert done.returncode == 0, done.stderr
    with EventStore.open(folder / "eventstore.db", create=False) as store:
        assert [each.name for each in apps.list_apps(store.engine)] == [APP]
