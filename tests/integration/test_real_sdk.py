"""Wix's own `@wix/sdk` between a signed webhook and the store: what it hands on is the event that the webhook tells.

Needs Node.js, npm and the registry that npm is set up with; the packages are pinned in `sdk/package-lock.json`.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from eventstore.demo.catalogue import PRODUCTS, Card
from eventstore.demo.spelling import ACCOUNT, Fact, iso, spell
from eventstore.event import Event
from eventstore.wix import decode, read_rest
from tests.serving import SITE, Serving, fixture, serving
from tests.signing import base64_of_pem, envelope, private_pem

SDK = Path(__file__).parent / "sdk"
PACKAGES = ("package.json", "package-lock.json")
NPM, NODE = shutil.which("npm"), shutil.which("node")
UNREACHABLE = {"EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ENOTCACHED", "ENOTFOUND", "ETIMEDOUT"} | {
    "E403",
    "E404",
    "E502",
    "E503",
    "ERR_SOCKET_TIMEOUT",
    "FETCH_ERROR",
}
"""npm's codes for a registry that cannot be asked, or does not have the packages."""
NPM_SECONDS, NODE_SECONDS = 120, 120
OF_EACH_FAMILY = 36
JWT_FIRST = ("jwt", "handler", "process")
Odd = dict[str, tuple[list[str], list[str]]]
ORDERS = (JWT_FIRST, ("handler", "jwt", "process"), ("process", "jwt", "handler"), ("handler", "process", "jwt"))
MEMBER = "1b0e7a53-7f44-4d0c-9a86-8f2f6f0f7a70"
MARKETING, LOYALTY = "wix.ecommerce.coupons.v2.coupon", "wix.loyalty.v1.coupon"
FAMILIES = [f"{MARKETING}_{slug}" for slug in ("created", "updated", "deleted", "applied")] + [
    f"{LOYALTY}_{slug}" for slug in ("created", "updated", "deleted")
]

pytestmark = pytest.mark.skipif(NPM is None or NODE is None, reason="Node.js and npm are not on the PATH: no @wix/sdk")


@pytest.fixture(scope="module")
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages and the app; the packages are kept in pytest's cache for the next time."""
    wanted = sha256(b"".join((SDK / name).read_bytes() for name in PACKAGES)).hexdigest()[:12]
    cache = getattr(request.config, "cache", None)
    home = tmp_path_factory.mktemp("npm") if cache is None else cache.mkdir("wix-sdk")
    installed = home / wanted
    if not installed.exists():
        _install(home, installed)
    folder = tmp_path_factory.mktemp("sdk-app")
    (folder / "node_modules").symlink_to(installed / "node_modules", target_is_directory=True)
    for name in ("package.json", "relay.mjs"):
        shutil.copyfile(SDK / name, folder / name)
    return folder


def _install(home: Path, installed: Path) -> None:
    """Install beside its final place, so that a run that is cut short leaves nothing half done there."""
    with tempfile.TemporaryDirectory(dir=home) as made:
        folder = Path(made) / "packages"
        folder.mkdir()
        for name in PACKAGES:
            shutil.copyfile(SDK / name, folder / name)
        assert NPM is not None
        install = [NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1"]
        try:
            done = subprocess.run(
                install, cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=NPM_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm could not install @wix/sdk within {NPM_SECONDS} s: the registry is slow or unreachable")
        if done.returncode != 0:
            codes = set(re.findall(r"^npm (?:ERR!|error) code (\S+)", done.stderr, flags=re.MULTILINE))
            if codes & UNREACHABLE:
                pytest.skip(f"npm cannot reach a registry that has @wix/sdk: {', '.join(sorted(codes))}")
            pytest.fail(f"npm could not install @wix/sdk: {', '.join(sorted(codes)) or done.stderr}")
        if not installed.exists():
            folder.rename(installed)


@contextmanager
def registered(folder: Path) -> Iterator[Serving]:
    """A server that knows the app."""
    with serving(folder) as running:
        added = running.run(
            *("app", "add", "--name", "shop", "--instance", SITE, "--key-file", "-"), given=base64_of_pem().encode()
        )
        assert added.returncode == 0, added.stderr
        yield running
        assert "ERROR" not in running.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with registered(tmp_path_factory.mktemp("sdk-store")) as running:
        yield running


def process(app: Path, server: Serving, webhooks: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, dict[str, Any]]:
    """Have the SDK process webhooks, given as the text that Wix signs and the order to post in: by event id, what it told."""
    token = server.new_token("--site", SITE)
    start = {"url": server.url, "token": token, "publicKey": base64_of_pem(), "privateKey": private_pem()}
    lines = [start, *({"data": data, "posts": posts} for data, posts in webhooks)]
    assert NODE is not None
    done = subprocess.run(
        [NODE, "relay.mjs"],
        cwd=app,
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=NODE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(webhooks)
    return {each["id"]: each for each in told}


def outcomes(told: dict[str, Any]) -> list[str]:
    assert [each["status"] for each in told["answers"]] == [200] * len(told["answers"]), told
    return [each["outcome"] for each in told["answers"]]


# Events


def made_id(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def card(rng: random.Random, number: int) -> Card:
    """A coupon of any kind, with any of the fields that Wix knows."""
    kind = rng.choice(("PERCENT_OFF", "MONEY_OFF", "FREE_SHIPPING", "FIXED_PRICE", "BUY_X_GET_Y"))
    value = {"FREE_SHIPPING": True, "BUY_X_GET_Y": (2, 1), "PERCENT_OFF": 12.5}.get(kind, rng.choice((5, 0.1, 12.99)))
    created = datetime(2026, 9, 1, tzinfo=UTC) + timedelta(milliseconds=rng.randrange(10**9))
    namespace = rng.choice((None, *PRODUCTS))
    group = None if namespace is None else rng.choice((None, "product", "ticket"))
    return Card(
        id=made_id(rng),
        code=f"CODE{number}",
        name=rng.choice(("Summer sale", "Été – 10 %", 'say "hi"', "\U0001d11e")),
        kind=kind,
        value=value,
        created=created,
        start=created,
        end=rng.choice((None, created + timedelta(days=30))),
        namespace=namespace,
        group=group,
        group_id=None if group is None else made_id(rng),
        limit=rng.choice((None, 100)),
        per_customer=rng.choice((None, 1)),
        minimum=None if namespace else rng.choice((None, 49.99)),
        one_item=rng.random() < 0.5,
        cycles=rng.choice((None, 3)),
        active=rng.random() < 0.8,
        usages=rng.choice((0, 264)),
    )


def coupon_event(rng: random.Random, slug: str, number: int, wire: str = "rest") -> dict[str, Any]:
    coupon = card(rng, number)
    _, _, body = spell(
        Fact(
            event_id=made_id(rng),
            what="restored" if slug == "created" and rng.random() < 0.2 else slug,
            time=coupon.created + timedelta(days=rng.randrange(60)),
            card=coupon,
            sequence=rng.choice((None, number, 2**53 + 1)),
            order_id=made_id(rng) if slug == "applied" else None,
            before=rng.choice(({}, {"active": False}, {"limit": 5, "active": True})) if slug == "updated" else None,
            deleted_at=coupon.created,
            entity_id=made_id(rng) if slug == "applied" and rng.random() < 0.3 else None,
        ),
        wire,
    )
    return body


def loyalty_event(rng: random.Random, slug: str, number: int) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(fixture("rest_loyalty_coupon_created.json"))
    entity = event["createdEvent"]["entity"]
    reference = entity["couponReference"]
    event |= {"id": made_id(rng), "slug": slug, "entityId": made_id(rng), "entityEventSequence": str(number)}
    event["eventTime"] = iso(datetime(2026, 9, 1, tzinfo=UTC) + timedelta(milliseconds=rng.randrange(10**9)))
    event["triggeredByAnonymizeRequest"] = slug == "deleted" and rng.random() < 0.5
    entity |= {"id": event["entityId"], "revision": str(number), "status": rng.choice(("ACTIVE", "APPLIED", "FAILED"))}
    reference |= {"couponId": made_id(rng), "code": f"LOYAL-{number}", "deleted": rng.random() < 0.5}
    reference["specification"] |= {"percentOffRate": rng.choice((10, 12.5)), "name": f"Reward {number}"}
    if rng.random() < 0.3:
        del reference["specification"]["scope"]
    if slug != "created":
        del event["createdEvent"]
        event |= {"deletedEvent": {}} if slug == "deleted" else {"updatedEvent": {"currentEntity": entity}}
    return event


def event_of(rng: random.Random, event_type: str, number: int) -> dict[str, Any]:
    fqdn, _, slug = event_type.rpartition("_")
    return (coupon_event if fqdn == MARKETING else loyalty_event)(rng, slug, number)


def data(event: dict[str, Any], *, anonymous: bool = False) -> str:
    """The text that Wix signs: the envelope around the event, and mostly who did it and whose site it is."""
    identity = {"identityType": "MEMBER", "memberId": MEMBER}
    more: dict[str, Any] = {} if anonymous else {"identity": json.dumps(identity), "accountInfo": ACCOUNT}
    return json.dumps(envelope(event, event_type=f"{event['entityFqdn']}_{event['slug']}", **more))


def sequence_of(event: dict[str, Any]) -> int | None:
    told = event.get("entityEventSequence")
    return None if told is None else int(told)


def kept(server: Serving, event_id: str) -> tuple[int, Event]:
    [(position, payload)] = server.rows("SELECT position, payload FROM events WHERE event_id = ?", event_id)
    return position, Event.from_payload(payload)


# Tests


def test_hundreds_of_events_that_the_real_sdk_hands_on_are_the_ones_that_its_webhooks_tell(
    app: Path, server: Serving
) -> None:
    rng = random.Random(11)
    events = [event_of(rng, kind, number) for number in range(OF_EACH_FAMILY) for kind in FAMILIES]
    rng.shuffle(events)
    # Half of them by Wix's own webhook first, half by the app; some say nothing of who did it.
    orders = [JWT_FIRST if number % 2 else rng.choice(ORDERS[1:]) for number in range(len(events))]
    anonymous = [rng.random() < 0.2 for _ in events]
    before = server.rows("SELECT count(*) FROM events")[0][0]
    webhooks = [
        (data(event, anonymous=nobody), order) for event, order, nobody in zip(events, orders, anonymous, strict=True)
    ]
    told = process(app, server, webhooks)
    for event, order, nobody in zip(events, orders, anonymous, strict=True):
        answers = told[event["id"]]
        assert outcomes(answers) == ["appended", "duplicate", "duplicate"], (event, answers["envelope"])
        assert len({(each["event_id"], each["position"]) for each in answers["answers"]}) == 1
        position, found = kept(server, event["id"])
        assert found.content_json() == read_rest(decode(json.dumps(event).encode()), site_id=SITE).content_json()
        assert (found.recognised, found.site_id, found.sequence) == (True, SITE, sequence_of(event))
        assert (found.actor and found.actor.id, found.account and found.account.site_id) == (
            (None, None) if nobody else (MEMBER, ACCOUNT["siteId"])
        )
        assert found.source == ("rest" if order[0] == "jwt" else "sdk")
        if order[0] == "jwt":
            assert server.original(position) == answers["jwt"].encode()
        elif order[0] == "handler":
            assert json.loads(server.original(position)) == answers["envelope"]
    families = Counter(f"{event['entityFqdn']}_{event['slug']}" for event in events)
    assert families == dict.fromkeys(FAMILIES, OF_EACH_FAMILY)
    assert server.rows("SELECT count(*) FROM events") == [(before + len(events),)]
    assert server.rows("SELECT count(*) FROM quarantine") == [(0,)]


@pytest.fixture(scope="module")
def odd(app: Path, tmp_path_factory: pytest.TempPathFactory) -> Odd:
    """What becomes of events that the SDK does not hand on whole: with the webhook first, and with the app first."""
    rng = random.Random(5)
    reward = json.loads(fixture("rest_unknown_family.json"))
    cases = {
        "AsJson created": [coupon_event(rng, "created", number, "rest_json") for number in (1, 2)],
        "AsJson applied": [coupon_event(rng, "applied", number, "rest_json") for number in (1, 2)],
        "another family": [
            reward | {"id": made_id(rng), "updatedEvent": {"currentEntity": {"id": "7", "name": "10% off"}}}
            for _ in range(2)
        ],
        "microseconds": [
            event_of(rng, FAMILIES[0], number) | {"eventTime": "2026-09-01T10:00:00.123456Z"} for number in (1, 2)
        ],
    }
    orders = (JWT_FIRST, ORDERS[1])
    with registered(tmp_path_factory.mktemp("odd")) as server:
        told = process(
            app,
            server,
            [(data(event), order) for pair in cases.values() for event, order in zip(pair, orders, strict=True)],
        )
        first, second = ({name: outcomes(told[pair[n]["id"]]) for name, pair in cases.items()} for n in (0, 1))
    return {name: (first[name], second[name]) for name in cases}


def test_an_event_of_another_family_is_one_event_by_either_road(odd: Odd) -> None:
    assert odd["another family"] == (["appended", "duplicate", "duplicate"],) * 2


def test_what_the_sdk_loses_of_a_body_written_as_json_is_kept_aside_and_never_replaces_the_webhook(odd: Odd) -> None:
    # Its handler gets no body at all, `process` the whole of it.
    assert odd["AsJson created"][0] == ["appended", "quarantined", "duplicate"]
    assert odd["AsJson created"][1] == ["quarantined", "appended", "duplicate"]
    assert odd["AsJson applied"][0] == ["appended", "conflict", "duplicate"]
    assert odd["AsJson applied"][1] == ["appended", "conflict", "conflict"]


def test_a_time_in_microseconds_of_which_the_sdk_keeps_milliseconds_is_one_event_by_either_road(odd: Odd) -> None:
    assert odd["microseconds"] == (["appended", "duplicate", "duplicate"],) * 2
