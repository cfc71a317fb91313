"""A headless Chromium that opens one page: what it logs, asks for, looks like, and what a script in it answers.

The browser is spoken to over two pipes (--remote-debugging-pipe): JSON messages that end with a zero byte, commands on
its descriptor 3, answers and events on 4.  https://chromedevtools.github.io/devtools-protocol/ names them.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
MARGIN = 16  # pixels around an element in a picture
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)


class Browser:
    """One tab.  `logged` is what the page wrote or threw, `asked` every address it wanted beside its own."""

    def __init__(self, commands: int, answers: int):
        self._commands, self._answers = commands, os.fdopen(answers, "rb", buffering=0)
        self._rest, self._number, self._session = b"", 0, None
        self.logged: list[str] = []
        self.asked: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and return its result; events that come before it are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._keep(answer)

    def open(self, path: Path, *, width: int = 1400, dark: bool = False, scale: float = 1.0) -> float:
        """Show a page of the disk, and return the seconds until it was loaded and drawn."""
        self.logged.clear()
        self.asked.clear()
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=scale, mobile=phone)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        start = time.monotonic()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self.ask("document.readyState === 'complete'"):
            if time.monotonic() - start > 30:
                raise TimeoutError(f"{path}: the page is not drawn after 30 s; {self.logged}")
            time.sleep(0.05)
        return time.monotonic() - start

    def ask(self, script: str) -> Any:
        """The value of a script in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"].get("description", str(found)))
        return found["result"].get("value")

    def picture(self, path: Path, *, of: str = "html", most_height: int = 20_000) -> Path:
        """A PNG of the first element that the selector `of` finds, cut off at `most_height` pixels."""
        box = self.ask(
            f"(() => {{ const box = document.querySelector({json.dumps(of)}).getBoundingClientRect();"
            "return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height}; })()"
        )
        clip = {"x": max(0, box["x"] - MARGIN), "y": max(0, box["y"] - MARGIN), "scale": 1}
        clip["width"] = box["width"] + box["x"] - clip["x"] + MARGIN
        clip["height"] = min(box["height"], most_height) + box["y"] - clip["y"] + MARGIN
        shot = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def close(self) -> None:
        """End the browser."""
        self._session = None
        with suppress(OSError, RuntimeError):  # it is gone already
            self.call("Browser.close")
        self._answers.close()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._answers.read(1 << 16)
            if not more:
                raise RuntimeError("the browser is gone")
            self._rest += more
        first, self._rest = self._rest.split(b"\0", 1)
        return json.loads(first)

    def _keep(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.logged.append(json.dumps(params)[:500])
            case "Network.requestWillBeSent":
                address = params["request"]["url"]
                if not address.startswith(("file:", "data:", "blob:", "about:")):
                    self.asked.append(address)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with the block."""
    command_out, command_in = os.pipe()
    answer_out, answer_in = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        line = [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        shell = ["bash", "-c", f'exec "$@" 3<&{command_out} 4>&{answer_in}', "chromium", *line]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(shell, pass_fds=(command_out, answer_in), start_new_session=True, **quiet)
        os.close(command_out)
        os.close(answer_in)
        browser = None
        try:
            browser = Browser(command_in, answer_out)
            yield browser
        finally:
            if browser is not None:
                browser.close()
            os.close(command_in)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
