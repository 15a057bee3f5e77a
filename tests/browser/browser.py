"""Chromium as a person uses it, for the tests of pages: driven by `chromedriver`, with what holds of every page that looks well.

Nothing but Python's standard library is needed.
"""

import base64
import contextlib
import json
import os
import pathlib
import socket
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]
KEYMETER = os.environ.get("KEYMETER") or str(ROOT / "target" / "debug" / "keymeter")
PATIENCE = 30
SCREENS = {"wide": (1280, 900), "narrow": (360, 740)}
TAB, ENTER, SHIFT = "\ue004", "\ue007", "\ue008"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]

# Text that stands out from its ground by less than 4.5 to 1, and is no large text.
CONTRAST = """
const parts = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const colour = parts(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const faint = [];
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility() || e.closest("svg")) continue;
  const [a, b] = [light(parts(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(e.textContent.trim().slice(0, 40));
}
return faint;
"""

# What a screen reader would miss.
UNNAMED = """
const bad = [];
for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
  if (!e.labels.length && !e.getAttribute("aria-label")) bad.push("no label: " + e.name);
for (const e of document.querySelectorAll("a, button:not([hidden])")) if (!e.textContent.trim()) bad.push("no words: " + e.outerHTML);
for (const e of document.querySelectorAll("table")) if (!e.caption) bad.push("no caption");
for (const e of document.querySelectorAll("th")) if (!e.scope) bad.push("no scope: " + e.textContent);
for (const e of document.querySelectorAll("[aria-describedby], [aria-labelledby]"))
  for (const id of [e.getAttribute("aria-describedby"), e.getAttribute("aria-labelledby")].join(" ").trim().split(/\\s+/))
    if (!document.getElementById(id)) bad.push("nothing has the id " + id);
const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
if (new Set(ids).size !== ids.length) bad.push("an id twice");
if (document.querySelectorAll("h1").length !== 1) bad.push("not one h1");
if (document.querySelectorAll("main").length !== 1) bad.push("not one main");
if (!document.documentElement.lang) bad.push("no language");
if (!document.title) bad.push("no title");
return bad;
"""

# What is not of one kind: corners of several radii, a table that is none of cards on a telephone, a message said twice, no current page.
UNEVEN = """
const bad = [];
const narrow = innerWidth < 600;
const radii = new Set();
for (const e of document.querySelectorAll("body *")) {
  const style = getComputedStyle(e);
  for (const side of ["TopLeft", "TopRight", "BottomLeft", "BottomRight"]) radii.add(style["border" + side + "Radius"]);
}
radii.delete("0px");
if (radii.size > 1) bad.push("corners of " + [...radii]);
for (const e of document.querySelectorAll("tbody tr"))
  if ((getComputedStyle(e).display === "block") !== narrow && e.checkVisibility()) bad.push("a row is no card: " + e.innerText);
const told = [...document.querySelectorAll("[role=alert]")].map((e) => e.innerText);
if (told.length > 1) bad.push("told twice: " + told);
for (const e of document.querySelectorAll("[role=alert].fault"))
  if (!document.activeElement.getAttribute("aria-describedby")?.includes(e.id)) bad.push("no focus on what is wrong");
const current = document.querySelectorAll(".bar [aria-current=page]").length;
if (document.querySelector(".bar nav") && current > 1) bad.push("several current pages");
for (const e of document.querySelectorAll("button, .button, input:not([type=hidden]), select, textarea"))
  if (narrow && e.checkVisibility() && e.getBoundingClientRect().height < 43) bad.push("too small to press: " + e.outerHTML);
return bad;
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, holds):
    start = time.perf_counter()
    while not (result := holds()):
        if time.perf_counter() - start > PATIENCE:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.02)
    return result


def ask(method, url, body=None, token=None):
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PATIENCE) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {url}: {error.read().decode()[:500]}") from None
    return json.loads(text) if text else None


class Browser:
    """Chromium with one screen, and what a person does with it."""

    def __init__(self, driver, home, screen, pictures, check):
        self.home = home
        width, height = SCREENS[screen]
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = {"args": [*FLAGS, f"--user-data-dir={self.profile.name}", f"--window-size={width},{height}"]}
        if screen == "narrow":
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2}}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"},
                  "unhandledPromptBehavior": "accept"}
        made = ask("POST", f"{driver}/session", {"capabilities": {"alwaysMatch": wanted}})["value"]
        self.at, self.screen, self.pictures, self.check_all = f"{driver}/session/{made['sessionId']}", screen, pictures, check
        # Without it a page that a key has led to has no focus, as if another window had it.
        self.do("POST", "goog/cdp/execute", {"cmd": "Emulation.setFocusEmulationEnabled", "params": {"enabled": True}})

    def close(self):
        ask("DELETE", self.at)
        self.profile.cleanup()

    def do(self, method, path, body=None):
        return ask(method, f"{self.at}/{path}", body)["value"]

    def script(self, text, *arguments):
        return self.do("POST", "execute/sync", {"script": text, "args": list(arguments)})

    def find(self, css):
        found = until(css, lambda: self.do("POST", "elements", {"using": "css selector", "value": css}))
        return found[0][ELEMENT]

    def has(self, css):
        return bool(self.do("POST", "elements", {"using": "css selector", "value": css}))

    def open(self, url):
        self.do("POST", "url", {"url": url})

    def press(self, css):
        self.leave(lambda: self.do("POST", f"element/{self.find(css)}/click", {}))

    def leave(self, action):
        """Does what leads to another page, and waits for that."""
        self.script("window.isBefore = true")
        action()
        until("another page", lambda: self.script("return document.readyState === 'complete' && !window.isBefore"))

    def fill(self, css, text):
        element = self.find(css)
        self.do("POST", f"element/{element}/clear", {})
        self.do("POST", f"element/{element}/value", {"text": text})

    def choose(self, css, value):
        self.script("const e = document.querySelector(arguments[0]); e.value = arguments[1]", css, value)
        self.check(f"{value} can be chosen", self.script("return document.querySelector(arguments[0]).value", css) == value)

    def click(self, css):
        """Clicks what leads to no other page."""
        self.do("POST", f"element/{self.find(css)}/click", {})

    def texts(self, css):
        return self.script("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", css)

    def keys(self, text, held=None):
        """Presses keys, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        if held:
            strokes = [{"type": "keyDown", "value": held}, *strokes, {"type": "keyUp", "value": held}]
        self.do("POST", "actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def tab_to(self, css):
        """Goes on with the tabulator until the focus is there, and is seen to be."""
        for _ in range(60):
            if self.script("return document.activeElement.matches(arguments[0])", css):
                ring = self.script("const s = getComputedStyle(document.activeElement); return s.outlineStyle + s.outlineWidth")
                self.check(f"the focus is seen on {css}", ring == "solid3px")
                return
            self.keys(TAB)
        raise AssertionError(f"no way to {css} by keyboard")

    @property
    def address(self):
        return self.script("return location.pathname")

    @property
    def text(self):
        return self.script("return document.body.innerText")

    def whole(self):
        """Everything in which a secret could be left: the document, with what is filled in, and what a site may store."""
        return self.script(
            "return document.documentElement.outerHTML + [...document.querySelectorAll('input, textarea')].map((e) => e.value)"
            " + (location.protocol.startsWith('http') ? JSON.stringify(localStorage) + JSON.stringify(sessionStorage) : '')"
            " + location.href + document.title"
        )

    def check(self, name, holds):
        self.check_all(f"{self.screen}: {name}", holds)

    def looks_well(self, name):
        """Checks what every page must be, by day and by night, and takes a picture of each."""
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            parameters = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
            self.do("POST", "goog/cdp/execute", parameters)
            faint = self.script(CONTRAST)
            self.check(f"{name} is well to be read by {scheme} {faint or ''}", not faint)
            if self.pictures:
                self.picture(f"{self.screen}-{name}-{scheme}")
        uneven = self.script(UNEVEN)
        self.check(f"{name} is of one kind {uneven or ''}", not uneven)
        unnamed = self.script(UNNAMED)
        self.check(f"{name} can be heard {unnamed or ''}", not unnamed)
        self.check(f"{name} fits", self.script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth"))

    def picture(self, name):
        # What scrolls by itself is painted when it is near the screen.
        self.script("scrollTo(0, document.body.scrollHeight)")
        self.do("POST", "execute/async", {"script": "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))", "args": []})
        parameters = {"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": True}}
        shown = self.do("POST", "goog/cdp/execute", parameters)["data"]
        (self.pictures / f"{name}.png").write_bytes(base64.b64decode(shown))

    def complaints(self):
        entries = self.do("POST", "se/log", {"type": "browser"})
        # A refused form is answered with its status, and the browser says so.
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE" and "Failed to load resource" not in entry["message"]]

    def sign_in(self, url, token):
        self.open(url)
        self.fill("#field-token", token)
        self.press("main button")


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
