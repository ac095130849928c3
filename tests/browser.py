"""A real browser without a window, for pages: what a page becomes, what it says, and what it looks like.

One Chromium for all the tests of a file, driven through a pipe by its own protocol: a start takes a second.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SECONDS = 60.0


def find() -> str:
    """Find Chromium; without it skip the test, or fail it where the environment says CI."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        message = "Chromium is not installed (apt-get install chromium)"
        if os.environ.get("CI", "false").lower() not in ("", "0", "false"):
            pytest.fail(f"{message}, and CI may not skip pages")
        pytest.skip(message)
    return found


class Browser:
    """Chromium without a network, with a profile of its own."""

    def __init__(self, folder: Path) -> None:
        program = find()
        their_commands, self._commands = os.pipe()
        self._answers, their_answers = os.pipe()
        options = [
            "--headless",
            "--remote-debugging-pipe",  # commands come through file 3, answers go through file 4
            "--no-sandbox",  # tests run as root in containers, and the pages are ours
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder}",
        ]
        redirected = f'exec "$@" 3<&{their_commands} 4>&{their_answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirected, "bash", program, *options],
            pass_fds=(their_commands, their_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_commands)
        os.close(their_answers)
        self._rest, self._number = b"", 0
        self._events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End the browser."""
        self.send("Browser.close")
        self._process.wait(timeout=SECONDS)
        os.close(self._commands)
        os.close(self._answers)

    @contextlib.contextmanager
    def open(
        self, page: Path, fragment: str = "", *, size: tuple[int, int] = (1300, 900), dark: bool = False
    ) -> Iterator[Tab]:
        """Open a page in a tab of its own, until its scripts have run."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        self._events.clear()
        for domain in ("Page", "Runtime", "Log"):
            tab.send(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.send("Emulation.setEmulatedMedia", features=[scheme])
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        tab.send("Emulation.setDeviceMetricsOverride", **metrics)
        tab.send("Page.navigate", url=f"{page.as_uri()}{'#' + fragment if fragment else ''}")
        tab.wait_for("Page.loadEventFired")
        yield tab
        self.send("Target.closeTarget", targetId=target)

    def send(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Send a command and return what it answers."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def events(self, session: str) -> list[dict[str, Any]]:
        """Return what happened in a tab since it was opened."""
        return [event for event in self._events if event.get("sessionId") == session]

    def wait_for(self, session: str, method: str) -> None:
        """Wait until something has happened in a tab."""
        while not any(event["method"] == method for event in self.events(session)):
            self._receive()

    def _receive(self) -> dict[str, Any]:
        """Read a message; remember it if it is an event."""
        until = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"Chromium has not answered for {SECONDS:g} s"
            self._rest += os.read(self._answers, 2**20)
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self._events.append(message)
        return message


class Tab:
    """One page in the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def send(self, method: str, **parameters: Any) -> Any:
        """Send a command to this tab."""
        return self._browser.send(method, self._session, **parameters)

    def wait_for(self, method: str) -> None:
        """Wait until something has happened in this tab."""
        self._browser.wait_for(self._session, method)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def document(self) -> str:
        """Return the document as it is now."""
        return str(self.evaluate("document.documentElement.outerHTML"))

    def press(self, key: str) -> None:
        """Press a key, as a user does."""
        text = {"Enter": {"text": "\r"}, " ": {"text": " "}}.get(key, {})
        self.send(
            "Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=_CODES[key], **text
        )
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=_CODES[key])

    def messages(self) -> list[str]:
        """Return errors, what the page wrote to its console, and what its policy refused."""
        self.evaluate("0")  # everything before has arrived then
        kinds = (
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        )
        return [json.dumps(event) for event in self._browser.events(self._session) if event["method"] in kinds]

    def picture(self) -> np.ndarray[Any, Any]:
        """Return the pixels of what is seen, (height, width, 3), 0 to 255."""
        from matplotlib.image import imread

        data = base64.b64decode(self.send("Page.captureScreenshot")["data"])
        return np.round(np.asarray(imread(io.BytesIO(data)))[..., :3] * 255).astype(int)


_CODES = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
