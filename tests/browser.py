"""A real Chromium, driven over its DevTools protocol: opens a page, clicks, waits, and takes pictures."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60.0
"""Seconds to wait for what a page should show, before that is a failure."""
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Browser:
    """One tab of a Chromium. `requested`: the address of everything it has asked for; `complaints`: errors of the page."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.requested: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, url: str, *, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
        """Go to the page, in a window of this size, as someone who likes it light or dark."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = "dark" if dark else "light"
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        told = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise AssertionError(f"{script}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def wait(self, script: str) -> Any:
        """Wait until the expression is true; its value."""
        deadline = time.monotonic() + PATIENCE
        while True:
            value = self.evaluate(script)
            if value:
                return value
            assert time.monotonic() < deadline, (
                f"{script} did not come true; the page says: {' '.join(self.text().split())[:1500]}"
            )
            time.sleep(0.1)

    def text(self) -> str:
        """What the page shows as text, that within marimo's own elements too."""
        return str(self.evaluate(_TEXT))

    def wait_text(self, wanted: str) -> None:
        """Wait until the page shows this text."""
        self.wait(f"({_TEXT}).includes({json.dumps(wanted)})")

    def click(self, script: str) -> None:
        """Click, as a mouse does, the middle of the element that the expression finds."""
        self.wait(f"!!({script})")
        self.evaluate(f"({script}).scrollIntoView({{block: 'center'}})")
        place = self.evaluate(
            f"(() => {{const box = ({script}).getBoundingClientRect();"
            "return {x: box.x + box.width / 2, y: box.y + box.height / 2}})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, script: str, key: str) -> None:
        """Press a key, such as ArrowUp, while the element that the expression finds has the focus."""
        self.wait(f"!!({script})")
        self.evaluate(f"({script}).focus()")
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key])

    def type(self, text: str) -> None:
        """Type into what has the focus, in place of what it holds, and press Enter."""
        self.evaluate(
            "(() => {let at = document.activeElement; while (at.shadowRoot) at = at.shadowRoot.activeElement; at.select()})()"
        )
        self._call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                windowsVirtualKeyCode=13,
                text="\r" if kind == "keyDown" else "",
            )

    def screenshot(self, path: Path) -> None:
        """A picture of the whole page, also of what one would have to scroll to."""
        told = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def hosts(self) -> set[str]:
        """The hosts that the page has asked anything of."""
        return {
            urlsplit(each).hostname or ""
            for each in self.requested
            if urlsplit(each).scheme in ("http", "https", "ws", "wss")
        }

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv(timeout=PATIENCE))
            self._note(told)
            if told.get("id") == number:
                if "error" in told:
                    raise AssertionError(f"{method}: {told['error']}")
                answer: dict[str, Any] = told["result"]
                return answer

    def _note(self, told: dict[str, Any]) -> None:
        match told.get("method"):
            case "Network.requestWillBeSent":
                self.requested.append(told["params"]["request"]["url"])
            case "Network.webSocketCreated":
                self.requested.append(told["params"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["params"]["exceptionDetails"])[:500])
            case "Log.entryAdded" if told["params"]["entry"]["level"] == "error":
                self.complaints.append(json.dumps(told["params"]["entry"])[:500])


_KEYS = {"ArrowUp": 38, "ArrowDown": 40}


def found(selector: str, place: int = 0) -> str:
    """An expression for the element at that place of those that fit the selector, also within other elements' shadow trees."""
    return (
        "(() => {const all = []; const walk = (root) => {"
        f"all.push(...root.querySelectorAll({json.dumps(selector)}));"
        "root.querySelectorAll('*').forEach((each) => each.shadowRoot && walk(each.shadowRoot))};"
        f"walk(document); return all[{place}]}})()"
    )


def count(selector: str) -> str:
    """An expression for how many there are."""
    return (
        "(() => {let all = 0; const walk = (root) => {"
        f"all += root.querySelectorAll({json.dumps(selector)}).length;"
        "root.querySelectorAll('*').forEach((each) => each.shadowRoot && walk(each.shadowRoot))};"
        "walk(document); return all})()"
    )


# The text of a page whose elements may have shadow trees.
_TEXT = """(() => {
  const parts = [];
  const walk = (node) => {
    if (node.nodeType === 3) parts.push(node.textContent);
    else if (node.nodeType === 1 || node.nodeType === 11) {
      if (['SCRIPT', 'STYLE'].includes(node.nodeName)) return;
      if (node.shadowRoot) walk(node.shadowRoot);
      node.childNodes.forEach(walk);
    }
  };
  if (document.body) walk(document.body);
  return parts.join(' ');
})()"""


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A Chromium with an empty profile in `folder`, always ended."""
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [CHROMIUM, *_OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(_tab(folder / "profile" / "DevToolsActivePort", process), max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tab(announced: Path, process: subprocess.Popen[bytes]) -> str:
    """The address of the tab's socket, once the browser has announced its port."""
    import httpx

    deadline = time.monotonic() + PATIENCE
    while not (announced.exists() and "\n" in announced.read_text(encoding="ascii")):
        assert process.poll() is None, "Chromium has ended"
        assert time.monotonic() < deadline, "Chromium does not announce its port"
        time.sleep(0.05)
    port = announced.read_text(encoding="ascii").splitlines()[0]
    while True:
        tabs = httpx.get(f"http://127.0.0.1:{port}/json", timeout=PATIENCE, trust_env=False).json()
        pages = [str(each["webSocketDebuggerUrl"]) for each in tabs if each["type"] == "page"]
        if pages:
            return pages[0]
        assert time.monotonic() < deadline, "Chromium opens no tab"
        time.sleep(0.05)
