"""A headless Chromium for tests of pages, driven by its debugging protocol over a pipe."""

import base64
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

# JavaScript that computes the lowest contrast between a text of the page and its background.
CONTRAST = """
(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { const c = getComputedStyle(e).backgroundColor;
    return c === "rgba(0, 0, 0, 0)" ? ground(e.parentElement) : c; };
  const read = (e) => getComputedStyle(e)[e instanceof SVGElement ? "fill" : "color"];
  const kinds = "h1, h2, h3, p, th, td, label, button, select, strong, figcaption, li, .chart text";
  const texts = [...document.querySelectorAll(kinds)];
  return Math.min(...texts.map(e => { const [a, b] = [light(read(e)), light(ground(e))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }));
})()
"""

TIMEOUT = 60  # Seconds to wait for an answer; Chromium starts slowly on a busy machine.


class Browser:
    """One page in one browser.

    Args:
        executable: The program.
        profile: A directory for its settings.
        local: Whether pages may come from servers of this machine; otherwise from files only.

    Attributes:
        problems: The errors in the console.
        requests: The addresses that the page requested.
    """

    def __init__(self, executable: str, profile: Path, *, local: bool = False):
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._loaded, self._count, self._buffer, self._session = False, 0, b"", ""
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ]
        quiet = [
            "--no-first-run",
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND" + (", EXCLUDE 127.0.0.1" if local else ""),
        ]
        # Chromium uses the file descriptors 3 and 4. Only bash redirects descriptors with several
        # digits.
        shell = f'exec "$@" 3<&{commands} 4>&{answers}'
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                shell,
                "bash",
                executable,
                *flags,
                *quiet,
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        pages = [t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        target = (
            pages[0]["targetId"]
            if pages
            else self.send("Target.createTarget", url="about:blank")["targetId"]
        )
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send(
            "Network.emulateNetworkConditions",
            offline=not local,
            latency=0,
            downloadThroughput=-1 if local else 0,
            uploadThroughput=-1 if local else 0,
        )

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command of the protocol, and returns its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError(f"no answer from the browser in {TIMEOUT} seconds")
            received = os.read(self._read, 1 << 20)
            if not received:
                raise RuntimeError(f"the browser ended, exit code {self._process.wait()}")
            self._buffer += received
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.problems.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def open(self, path: Path, fragment: str = "") -> None:
        """Loads a page from disk, and waits until the page is complete."""
        if fragment:  # A new fragment alone would not reload the page.
            self._navigate("about:blank")
        self.problems.clear()
        self.requests.clear()
        self._navigate(path.absolute().as_uri() + fragment)

    def visit(self, address: str) -> None:
        """Loads a page from an address, and waits until the page is complete."""
        self.problems.clear()
        self.requests.clear()
        self._navigate(address)

    def _navigate(self, address: str) -> None:
        self._loaded = False
        self.send("Page.navigate", url=address)
        while not self._loaded:
            self._note(self._receive())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, as a JSON value."""
        result = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"].get("description"))
        return result["result"].get("value")

    def click(self, selector: str) -> None:
        """Scrolls to an element, and clicks in its middle."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', inline: 'center'});"
            " const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Replaces the content of a field as typing does."""
        self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.focus(); e.select(); })()"
        )
        if text:
            self.send("Input.insertText", text=text)
        else:
            for kind in ("keyDown", "keyUp"):
                self.send(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key="Backspace",
                    code="Backspace",
                    windowsVirtualKeyCode=8,
                )

    def choose_file(self, selector: str, path: Path) -> None:
        """Chooses a file in a field for files."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def wait(self, expression: str) -> None:
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + TIMEOUT
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never true in {TIMEOUT} seconds: {expression}")
            time.sleep(0.02)

    def select(self, selector: str, value: str) -> None:
        """Chooses an option of a menu."""
        self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            f" e.value = {json.dumps(value)};"
            " e.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def appear(self, width: int, height: int, scheme: str) -> None:
        """Sets the size of the window in pixels, and the colour scheme, "light" or "dark"."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Writes a PNG file of the window, or of the whole page."""
        content = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)[
            "data"
        ]
        path.write_bytes(base64.b64decode(content))

    def close(self) -> None:
        """Ends the browser."""
        os.close(self._write)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
