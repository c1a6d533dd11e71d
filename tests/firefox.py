"""A Firefox for the tests of the page's engine, driven by WebDriver BiDi, which it speaks itself.

Playwright drives no stable Firefox older than its newest commands, and Selenium needs a program beside it.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from threading import Thread

import pytest

NAMES = ("firefox", "firefox-esr")
STARTED = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")
SCREEN = re.compile(rb"(\d+)\n")
PREFERENCES = (
    'user_pref("webgl.force-enabled", true);\nuser_pref("datareporting.policy.dataSubmissionEnabled", false);\n'
)


class Session:
    """Commands over a socket, and their answers."""

    def __init__(self, socket):
        self._socket = socket
        self._number = 0
        self.call("session.new", capabilities={})

    def call(self, method, **params):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=120))
            if answer.get("id") == self._number:
                break
        if answer["type"] == "error":
            raise RuntimeError(f"{method}: {answer['message']}")
        return answer["result"]


class Tab:
    """An empty page, with what the tests ask of a playwright Page."""

    def __init__(self, session):
        self._session = session
        self._context = session.call("browsingContext.create", type="tab")["context"]

    def another(self):
        return Tab(self._session)

    def goto(self, url):
        self._session.call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def _run(self, expression):
        target = {"context": self._context}
        found = self._session.call("script.evaluate", expression=expression, target=target, awaitPromise=True)
        if found["type"] == "exception":
            raise RuntimeError(found["exceptionDetails"]["text"])
        return found["result"].get("value")

    def add_script_tag(self, content):
        text = json.dumps(content)
        self._run(f"document.head.append(Object.assign(document.createElement('script'), {{ textContent: {text} }}))")

    def evaluate(self, function, argument=None):
        return json.loads(self._run(f"(async () => JSON.stringify(await ({function})({json.dumps(argument)})))()"))


@contextmanager
def firefox_tab():
    """Yields a Tab; skips the test where there is no Firefox, or no screen to be had for it."""
    client = pytest.importorskip("websockets.sync.client", reason="Firefox's tests need pip install websockets")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None or shutil.which("Xvfb") is None:
        pytest.skip("Firefox's tests need apt-get install firefox-esr xvfb")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, _screen() as display:
        with open(os.path.join(profile, "user.js"), "w", encoding="utf-8") as file:
            file.write(PREFERENCES)
        command = [program, "--profile", profile, "--no-remote", "--remote-debugging-port", "0"]
        environment = os.environ | {"DISPLAY": display, "HOME": profile, "LIBGL_ALWAYS_SOFTWARE": "1"}
        with _running(command, env=environment, stderr=subprocess.PIPE) as process:
            address = _said(process.stderr, STARTED).decode()
            Thread(target=process.stderr.read, daemon=True).start()  # what nobody reads would stop it
            with client.connect(f"{address}/session", max_size=None) as socket:
                yield Tab(Session(socket))


@contextmanager
def _screen():
    """A screen that nobody sees: without one Firefox has no WebGL, in its headless mode neither."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24"]
    with _running(command, pass_fds=(write,), stderr=subprocess.DEVNULL), os.fdopen(read, "rb") as numbers:
        os.close(write)
        yield f":{_said(numbers, SCREEN).decode()}"


@contextmanager
def _running(command, **how):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **how)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def _said(stream, pattern):
    """The first group of the first line that fits."""
    for line in stream:
        if found := pattern.search(line):
            return found[1]
    raise RuntimeError(f"nothing that it said fits {pattern.pattern!r}")
