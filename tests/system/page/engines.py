"""Browsers of other engines: Firefox over WebDriver BiDi, and WebKitGTK's MiniBrowser over WebDriver.

Playwright has browsers of its own for both; these are the distribution's.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.support import need, skip_or_fail
from tests.support.mongo import free_port
from tests.system.live.clients import Program, program, until

COMMAND_TIMEOUT_S = 60
INSTALLER = "tests/support/tools.sh soak"

# Without them Firefox asks Mozilla's servers for experiments, updates and blocklists.
PREFERENCES = """
user_pref("app.normandy.enabled", false);
user_pref("app.update.disabledForTesting", true);
user_pref("browser.safebrowsing.update.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("services.settings.server", "data:,#remote-settings-dummy/v1");
"""


class Engine(Protocol):
    """A browser with one page."""

    def open(self, url: str) -> None:
        """Open a URL, and wait until the page is loaded."""

    def evaluate(self, body: str) -> Any:
        """Return what the body of an asynchronous function returns, as JSON has it."""

    def choose_file(self, selector: str, file: Path) -> None:
        """Choose a file in a file input."""

    def complaints(self) -> list[str]:
        """Return the errors and warnings of all pages so far."""


class Firefox:
    """A Firefox that a WebSocket controls (https://w3c.github.io/webdriver-bidi/)."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._sent = 0
        self._complaints: list[str] = []
        self.version = self._send("session.new", capabilities={})["capabilities"]["browserVersion"]
        self._send("session.subscribe", events=["log.entryAdded"])
        self._context = self._send("browsingContext.getTree")["contexts"][0]["context"]

    def open(self, url: str) -> None:
        self._send("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def evaluate(self, body: str) -> Any:
        result = self._send(
            "script.callFunction",
            functionDeclaration=f"async () => JSON.stringify(await (async () => {{ {body} }})() ?? null)",
            target={"context": self._context},
            awaitPromise=True,
            userActivation=True,
        )
        assert result["type"] == "success", result
        return json.loads(result["result"]["value"])

    def choose_file(self, selector: str, file: Path) -> None:
        locator = {"type": "css", "value": selector}
        nodes = self._send("browsingContext.locateNodes", context=self._context, locator=locator)["nodes"]
        element = {"sharedId": nodes[0]["sharedId"]}
        self._send("input.setFiles", context=self._context, element=element, files=[str(file)])

    def complaints(self) -> list[str]:
        self._send("session.status")  # events that Firefox sent before are then received
        return self._complaints

    def _send(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command, and return its result."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(COMMAND_TIMEOUT_S))
            if message.get("id") == self._sent:
                assert message["type"] == "success", message
                result: dict[str, Any] = message["result"]
                return result
            self._receive_event(message)

    def _receive_event(self, event: dict[str, Any]) -> None:
        details = event.get("params", {})
        if details.get("level") in ("error", "warn"):
            self._complaints.append(str(details["text"]))


@contextmanager
def firefox(folder: Path) -> Iterator[Firefox]:
    """Run Firefox without a window."""
    need("firefox-esr", installer=INSTALLER)
    profile = folder / "profile"
    profile.mkdir(parents=True)
    (profile / "user.js").write_text(PREFERENCES)
    # fmt: off
    command = (
        "firefox-esr", "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0",
        "about:blank",
    )
    # fmt: on
    with program(folder, *command, HOME=str(folder)) as started:
        address = started.wait_for(r"BiDi listening on (ws://\S+)")[1]
        with connect(f"{address}/session", max_size=None, proxy=None, compression=None) as socket:
            yield Firefox(socket)


# The key of an element's identifier (https://www.w3.org/TR/webdriver2/#elements).
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"

# The driver reports no console. These listeners miss the messages of the load: see minibrowser().
RECORD_COMPLAINTS = """
    window.complaints = [];
    const keep = text => window.complaints.push(String(text));
    addEventListener("securitypolicyviolation", violation =>
        keep(`CSP: ${violation.effectiveDirective} blocked ${violation.blockedURI}`));
    addEventListener("error", ({message, target}) => keep(message ?? target.outerHTML), true);
    addEventListener("unhandledrejection", ({reason}) => keep(reason));
    for (const name of ["error", "warn"]) console[name] = keep;
"""


class WebKit:
    """A MiniBrowser that WebKitWebDriver controls (https://www.w3.org/TR/webdriver2/)."""

    def __init__(self, http: httpx.Client, options: dict[str, object]) -> None:
        self._http = http
        self._complaints: list[str] = []
        self._path = "/session"
        always = {"webkitgtk:browserOptions": options, "timeouts": {"script": COMMAND_TIMEOUT_S * 1000}}
        session = self._send("", capabilities={"alwaysMatch": always})
        self.version = session["capabilities"]["browserVersion"]
        self._path += f"/{session['sessionId']}"

    def open(self, url: str) -> None:
        self._collect()
        self._send("/url", url=url)
        self.evaluate(RECORD_COMPLAINTS)

    def evaluate(self, body: str) -> Any:
        script = f"""const done = arguments[arguments.length - 1];
            const run = async () => {{ {body} }};
            run().then(value => done({{value}}), error => done({{error: String(error)}}));"""
        result = self._send("/execute/async", script=script, args=[])
        assert "error" not in result, result
        return result.get("value")

    def choose_file(self, selector: str, file: Path) -> None:
        element = self._send("/element", using="css selector", value=selector)[ELEMENT]
        self._send(f"/element/{element}/value", text=str(file))

    def complaints(self) -> list[str]:
        self._collect()
        return self._complaints

    def _collect(self) -> None:
        self._complaints += self.evaluate("return window.complaints?.splice(0) ?? []")

    def close(self) -> None:
        self._http.delete(self._path)

    def _send(self, path: str, **body: object) -> Any:
        response = self._http.post(f"{self._path}{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()["value"]


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/status").status_code == 200
    except httpx.ConnectError:
        return False


@contextmanager
def webkit(folder: Path) -> Iterator[WebKit]:
    """Run WebKitWebDriver and MiniBrowser."""
    need("WebKitWebDriver", installer=INSTALLER)
    with ExitStack() as stack:
        environment = stack.enter_context(display(folder))
        port = free_port()
        stack.enter_context(program(folder, "WebKitWebDriver", f"--port={port}", **environment))
        options = {"base_url": f"http://127.0.0.1:{port}", "timeout": COMMAND_TIMEOUT_S, "trust_env": False}
        http = stack.enter_context(httpx.Client(**options))  # type: ignore[arg-type]
        until(lambda: is_ready(http), "WebKitWebDriver")
        browser = WebKit(http, {"binary": str(find_minibrowser()), "args": ["--automation"]})
        stack.callback(browser.close)
        yield browser


@contextmanager
def minibrowser(folder: Path, *urls: str) -> Iterator[Program]:
    """Run MiniBrowser with a tab for each URL, and without its driver, which would silence its console.

    It prints each message of a console as "URL:LINE:COLUMN: CONSOLE …".
    """
    need("stdbuf")
    with display(folder) as environment:
        unbuffered = ("stdbuf", "-oL", find_minibrowser())
        with program(
            folder, *unbuffered, "--enable-write-console-messages-to-stdout=true", *urls, **environment
        ) as started:
            yield started


def find_minibrowser() -> Path:
    found = sorted(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"))
    if not found:
        skip_or_fail(f"needs MiniBrowser: run {INSTALLER}")
    return found[-1]


@contextmanager
def display(folder: Path) -> Iterator[dict[str, str]]:
    """Run an X server without a screen. Yields the environment of a WebKit that draws there by software."""
    need("Xvfb", installer=INSTALLER)
    home = folder / "home"
    home.mkdir(parents=True)
    with program(home, "Xvfb", "-displayfd", "1", "-nolisten", "tcp") as xvfb:
        number = xvfb.wait_for(r"(?m)^(\d+)$")[1]
        yield {
            "HOME": str(home),
            "DISPLAY": f":{number}",
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "WEBKIT_DISABLE_DMABUF_RENDERER": "1",
        }


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Engine]]] = {"firefox": firefox, "webkit": webkit}
