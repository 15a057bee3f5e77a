"""The page for keys in Chromium: the whole life of a key as the operator and as a member of a team, wide and narrow.

What people see and press is Debian's `chromium`, driven by `chromedriver`; nothing but Python's standard library is
needed. Screenshots go to the directory that the argument names, if there is one. Starts `keymeter` from the path in
KEYMETER, else from target/debug. The last line is `N passed, M failed`; the exit code is 1 if any failed.
"""

import base64
import contextlib
import datetime
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]
KEYMETER = os.environ.get("KEYMETER") or str(ROOT / "target" / "debug" / "keymeter")
OPERATOR, GATEWAYS = "operator-token-of-the-page-0123456789", "gateway-token-of-the-page-0123456789"
PATIENCE = 30
SCREENS = {"wide": (1280, 900), "narrow": (360, 740)}
SECRET = re.compile(r"sk-[0-9A-Za-z]{48}")
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


class Plane:
    """A process with a control plane."""

    def __init__(self, directory):
        port = free_port()
        self.url = f"http://localhost:{port}"
        path = directory / "keymeter.yaml"
        keys = f"http://127.0.0.1:{port}/v1/keys/{{hash}}"
        path.write_text(
            f"""
server: {{listen: ["127.0.0.1:0"]}}
admin: {{listen: "127.0.0.1:0"}}
upstreams: [{{name: none, url: "http://127.0.0.1:1"}}]
keys: {{http: {{url: "{keys}", token: {GATEWAYS}}}}}
control: {{listen: "127.0.0.1:{port}", token: {OPERATOR}, gateway_token: {GATEWAYS}, database: "sqlite://keymeter.db"}}
"""
        )
        command = [KEYMETER, "serve", "--config", str(path)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("the control plane", self.answers)

    def answers(self):
        if self.process.poll() is not None:
            sys.exit("keymeter did not start")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(self.url.split(":")[-1])), 1):
            return True

    def call(self, method, path, body=None, token=OPERATOR):
        return ask(method, f"{self.url}/api/v1{path}", body, token)

    def use(self, key, team):
        """Usage of a month, more of it on some days than on others."""
        now = datetime.datetime.now(datetime.timezone.utc)
        records = [
            {
                "id": f"{key}-{day}-{weight}", "gateway": "0123456789abcdef", "key_id": key, "key_name": "Some key",
                "time": (now - datetime.timedelta(days=day)).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "team": team, "wallet": team, "model": model, "input_tokens": 1200 * weight,
                "cached_input_tokens": 300, "cache_write_tokens": 0, "output_tokens": 400 * weight, "reasoning_tokens": 0,
                "cost_usd": f"0.{(day * 37) % 90 + 10}", "status": 200, "usage_source": "upstream",
            }
            for day in range(28)
            if day % 7 not in (2, 3)
            for weight, model in ((1, "llama-3.1-8b-instruct"), (3, "qwen2.5-72b-instruct"))
        ]
        ask("POST", f"{self.url}/v1/usage/records", {"gateway": "0123456789abcdef", "records": records}, GATEWAYS)


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


def by_keyboard(browser, plane):
    """Signs in and makes a key without a pointer, and leaves the secret's page."""
    browser.open(plane.url)
    browser.looks_well("sign-in")
    browser.tab_to(".skip")
    browser.tab_to("#field-token")
    browser.keys("wrong")
    browser.leave(lambda: browser.keys(ENTER))
    browser.check("a wrong token is told at its field", "neither the operator" in browser.text and browser.has("[aria-invalid]"))
    browser.looks_well("sign-in-refused")
    browser.tab_to("#field-token")
    browser.keys(OPERATOR)
    browser.leave(lambda: browser.keys(ENTER))
    browser.check("the operator is signed in", browser.address == "/" and "operator" in browser.text)
    browser.tab_to("a[href='/keys/new']")
    browser.leave(lambda: browser.keys(ENTER))
    browser.looks_well("make")
    browser.tab_to("#field-name")
    browser.keys("ab")
    browser.leave(lambda: browser.keys(ENTER))
    browser.check("a short name is told at its field", browser.has("#field-name[aria-invalid]") and browser.has("#field-name-fault"))
    browser.check("and stands out", browser.script("return getComputedStyle(document.getElementById('field-name-fault')).fontWeight") == "600")
    browser.looks_well("make-refused")
    browser.tab_to("#field-name")
    browser.keys("Production API")
    browser.tab_to("#field-team")
    browser.keys("research")
    browser.tab_to("#field-models")
    browser.keys("llama-3*")
    browser.tab_to("#field-limits-requests_per_minute")
    browser.keys("600")
    browser.tab_to("main button[type=submit]")
    browser.leave(lambda: browser.keys(ENTER))
    return secret_is_shown_once(browser, "made")


def secret_is_shown_once(browser, name, reload=False):
    secret = browser.script("return document.getElementById('secret').textContent")
    browser.check(f"{name}: the secret is shown", bool(SECRET.fullmatch(secret)))
    browser.looks_well(f"secret-{name}")
    browser.do("POST", "goog/cdp/execute", {"cmd": "Browser.grantPermissions", "params": {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}})
    browser.do("POST", f"element/{browser.find('[data-copy]')}/click", {})
    until("the word that it is copied", lambda: "Copied." in browser.text)
    copied = browser.do("POST", "execute/async", {"script": "navigator.clipboard.readText().then(arguments[0], (e) => arguments[0](String(e)))", "args": []})
    browser.check(f"{name}: the secret is copied", copied == secret)
    if reload:
        browser.do("POST", "refresh", {})
        until("the page again", lambda: browser.script("return document.readyState === 'complete'"))
        told = "was made before" in browser.text
        browser.check(f"{name}: loaded again the page says so and shows no secret", told and not SECRET.search(browser.whole()))
    browser.open(browser.home)
    browser.check(f"{name}: nothing is left of the secret", not SECRET.search(browser.whole()))
    for step in ("back", "refresh", "back", "forward"):
        browser.do("POST", step, {})
        until("a page", lambda: browser.script("return document.readyState === 'complete'"))
        browser.check(f"{name}: the way {step} shows no secret", not SECRET.search(browser.whole()))
    browser.open(browser.home)
    return secret
    return secret


def operator(browser, plane):
    secret = by_keyboard(browser, plane)
    keys = [key for key in plane.call("GET", "/keys?team=research")["data"] if key["name"] == "Production API"]
    browser.check("one key is made", len(keys) == 1)
    key = keys[0]
    browser.check("the key is as it was asked for", (key["models"], key["limits"]) == (["llama-3*"], {"requests_per_minute": 600}))
    plane.use(key["id"], "research")
    browser.open(plane.url)
    browser.looks_well("keys")
    browser.press(f"a[href='/keys/{key['id']}']")
    browser.looks_well("key")
    browser.do("POST", f"element/{browser.find('section[aria-labelledby=usage] summary')}/click", {})
    browser.check("usage is a table too", browser.has("details[open] tbody tr"))
    browser.press("button[name=enabled]")
    browser.check("the key is disabled", plane.call("GET", f"/keys/{key['id']}")["state"] == "disabled" and "Enable" in browser.text)
    browser.press("button[name=enabled]")
    browser.check("the key is enabled", plane.call("GET", f"/keys/{key['id']}")["state"] == "active")
    browser.fill("#field-priority", "500")
    browser.press("form[action$='/priority'] button")
    browser.check("a priority that is none is told at its field", browser.has("#field-priority[aria-invalid]"))
    browser.looks_well("priority-refused")
    browser.fill("#field-priority", "-10")
    browser.press("form[action$='/priority'] button")
    browser.check("the priority is set", plane.call("GET", f"/keys/{key['id']}")["priority"] == -10 and "is set." in browser.text)
    limits(browser, plane, f"/keys/{key['id']}", "month", {"requests_per_minute": 600})
    browser.press("main a[href$='/secret']")
    browser.looks_well("regenerate")
    browser.fill("#field-grace", "1h")
    browser.press("main button[type=submit]")
    second = secret_is_shown_once(browser, "regenerated")
    browser.check("the new secret is another", second != secret)
    browser.open(f"{plane.url}/keys/{key['id']}")
    browser.check("the old secret still works for a while", "Old secret" in browser.text)
    browser.open(f"{plane.url}/wallets")
    browser.looks_well("wallets")
    browser.press("a[href='/wallets/research']")
    browser.looks_well("wallet")
    browser.fill("#field-usd", "12.50")
    browser.fill("#field-idempotency_key", f"order-{browser.screen}")
    before = plane.call("GET", "/wallets/research")["balance_usd"]
    browser.press("main button[type=submit]")
    after = plane.call("GET", "/wallets/research")["balance_usd"]
    browser.check("the wallet is credited", round(float(after) - float(before), 9) == 12.5 and "The credit is in" in browser.text)
    browser.open(f"{plane.url}/teams")
    browser.looks_well("teams")
    browser.press("a[href='/teams/research']")
    browser.looks_well("team")
    limits(browser, plane, "/teams/research", "week", {})
    browser.press(".bar a[href='/users']")
    browser.looks_well("users")
    browser.press("a[href='/users/ada']")
    limits(browser, plane, "/users/ada", "day", {})
    short_team(browser, plane)
    browser.open(f"{plane.url}/keys/{key['id']}")
    browser.press("main a[href$='/delete']")
    browser.looks_well("delete")
    browser.press("button.danger")
    browser.check("the key is deleted", plane.call("GET", f"/keys/{key['id']}")["state"] == "deleted" and "is deleted" in browser.text)
    browser.press(".out button")
    browser.check("the operator is signed out", browser.address == "/sign-in")


def limits(browser, plane, path, span, before):
    """Somebody's limits are set on their page: a wrong line is told, a right one becomes a bar."""
    name = path.split("/")[1]
    browser.do("POST", f"element/{browser.find('main details:has(textarea) summary')}/click", {})
    browser.fill("#field-limits-quotas", f"usd=0.01/{span}@Europe/Berlin\ntokens=5/fortnight")
    browser.press("form[action$='/limits'] button")
    browser.check(f"{name}: a line that is no quota is told at its field", browser.has("#field-limits-quotas[aria-invalid]"))
    browser.check(f"{name}: and which it is", "Line 2: " in browser.text)
    browser.looks_well(f"{name}-limits-refused")
    browser.fill("#field-limits-quotas", f"usd=0.01/{span}@Europe/Berlin\ntokens=50000000/5h")
    browser.press("form[action$='/limits'] button")
    quotas = [{"usd": "0.01", "per": span, "zone": "Europe/Berlin"}, {"tokens": 50_000_000, "per": "5h"}]
    browser.check(f"{name}: the limits are set", plane.call("GET", path)["limits"] == {**before, "quotas": quotas})
    browser.check(f"{name}: each quota has a bar", browser.script("return document.querySelectorAll('meter').length") == 2)
    browser.looks_well(f"{name}-limits")


def short_team(browser, plane):
    """A team that the operator gives to another and deletes."""
    plane.call("POST", "/teams", {"id": f"short_{browser.screen}", "name": "Short-lived", "owner": "bob"})
    browser.open(f"{plane.url}/teams/short_{browser.screen}")
    browser.press("a[href$='/bob/remove']")
    browser.check("the operator is told what comes of it", "has no owner then" in browser.text)
    browser.press("button.danger")
    browser.check("the operator takes an owner off", plane.call("GET", f"/teams/short_{browser.screen}")["members"] == [])
    browser.press("main a[href$='/delete']")
    browser.looks_well("team-delete")
    browser.fill("#field-refund_to", "nobody")
    browser.press("button.danger")
    browser.check("a refund to nobody is told at its field", browser.has("#field-refund_to[aria-invalid]"))
    browser.looks_well("team-delete-refused")
    browser.fill("#field-refund_to", "research")
    browser.press("button.danger")
    browser.check("the team is deleted", "The team is deleted." in browser.text and "Short-lived" not in browser.text)


def team(browser, plane, tokens):
    """The owner invites somebody, who accepts, sees the team's key and can do nothing with it."""
    browser.sign_in(plane.url, tokens["ada"])
    browser.press(".bar a[href='/teams']")
    browser.fill("#field-user", "bob")
    browser.press("form.row button")
    members = lambda: [member["user"] for member in plane.call("GET", "/teams/research")["members"]]
    browser.check("whoever is invited is not on the team yet", members() == ["ada"] and "nothing changes until" in browser.text)
    browser.looks_well("team-led")
    browser.press(".out button")
    browser.sign_in(plane.url, tokens["bob"])
    browser.check("the invitation is on the first page", "You are invited" in browser.text)
    browser.looks_well("invited")
    browser.press(".bar a[href='/invitations']")
    browser.looks_well("invitations")
    browser.tab_to("button[name=accept][value=true]")
    browser.leave(lambda: browser.keys(ENTER))
    browser.check("whoever accepts is on the team", members() == ["ada", "bob"] and browser.address == "/teams/research")
    browser.press(".out button")
    browser.sign_in(plane.url, tokens["ada"])
    browser.press("a[href='/keys/new']")
    browser.fill("#field-name", "Team’s own key")
    browser.press("main button[type=submit]")
    secret_is_shown_once(browser, "team", reload=True)
    made = [key for key in plane.call("GET", "/keys?team=research")["data"] if key["name"] == "Team’s own key"]
    browser.check("a page loaded again made no second key", len(made) == 1)
    key = made[0]
    browser.press(".out button")
    browser.sign_in(plane.url, tokens["bob"])
    browser.check("a member sees the key and makes none", "Team’s own key" in browser.text and not browser.has("a[href='/keys/new']"))
    browser.looks_well("member-keys")
    browser.press(f"a[href='/keys/{key['id']}']")
    browser.check("a member sees its priority", "Priority" in browser.text)
    browser.check("a member changes no key", not browser.has("main form") and not browser.has("main a[href$='/delete']"))
    browser.looks_well("member-key")
    browser.press(".bar a[href='/teams']")
    browser.looks_well("member-team")
    browser.press("a[href$='/bob/remove']")
    browser.press("button.danger")
    browser.check("a member leaves", len(plane.call("GET", "/teams/research")["members"]) == 1)
    browser.open(f"{plane.url}/keys/{key['id']}")
    browser.check("whoever left sees the key no more", "There is no key" in browser.text)
    browser.looks_well("trouble")
    plane.call("DELETE", f"/keys/{key['id']}")


def scene(driver, plane, screen, pictures, check):
    browser = Browser(driver, plane.url, screen, pictures, check)
    try:
        operator(browser, plane)
        team(browser, plane, plane.tokens)
        complaints = browser.complaints()
        browser.check(f"the browser complains of nothing {complaints or ''}", not complaints)
    finally:
        browser.close()


def main():
    passed, failed = [], []
    pictures = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)

    def check(name, holds):
        (passed if holds else failed).append(name)
        print(f"{'ok  ' if holds else 'FAIL'} {name}", flush=True)

    port = free_port()
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as directory:
        plane = Plane(pathlib.Path(directory))
        try:
            url = f"http://127.0.0.1:{port}"
            until("chromedriver", lambda: listens(port))
            plane.tokens = {id: plane.call("POST", "/users", {"id": id, "name": f"User {id}"})["token"] for id in ("ada", "bob")}
            plane.call("POST", "/teams", {"id": "research", "name": "Research and development", "owner": "ada"})
            plane.call("POST", "/wallets/research/credits", {"usd": "250", "idempotency_key": "first"})
            for name in ("Batch jobs", "A name that is as long as the names of keys can be"):
                plane.call("POST", "/keys", {"name": name})
            for screen in SCREENS:
                scene(url, plane, screen, pictures, check)
        finally:
            plane.process.kill()
            driver.terminate()
    print(f"{len(passed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True


if __name__ == "__main__":
    main()
