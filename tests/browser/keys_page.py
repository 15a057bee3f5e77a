"""The page for keys in Chromium: all that the operator, a team's owner and a member do there, wide and narrow.

What people see and press is Debian's `chromium`, driven by `chromedriver`; nothing but Python's standard library is
needed. Screenshots go to the directory that the argument names, if there is one. Starts `keymeter` from the path in
KEYMETER, else from target/debug. The last line is `N passed, M failed`; the exit code is 1 if any failed.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

from browser import ENTER, SCREENS, Browser, free_port, listens, until
from plane import MODEL, OPERATOR, Plane

SECRET = re.compile(r"sk-[0-9A-Za-z]{48}")


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
    browser.check("the current page is marked", browser.texts(".bar [aria-current=page]") == ["Keys"])
    browser.tab_to("a[href='/keys/new']")
    browser.leave(lambda: browser.keys(ENTER))
    browser.check("whoever has an empty wallet cannot be chosen", "its wallet is empty" in browser.text
                  and browser.has("#field-owner option[value=bob][disabled]"))
    browser.looks_well("make")
    browser.tab_to("#field-name")
    browser.keys("ab")
    browser.leave(lambda: browser.keys(ENTER))
    browser.check("a short name is told at its field", browser.has("#field-name[aria-invalid]") and browser.has("#field-name-fault"))
    browser.check("and stands out", browser.script("return getComputedStyle(document.getElementById('field-name-fault')).fontWeight") == "600")
    browser.looks_well("make-refused")
    browser.tab_to("#field-name")
    browser.script("document.activeElement.select()")
    browser.keys("Production API")
    browser.tab_to("#field-owner")
    browser.keys("Research")
    browser.tab_to("#field-models")
    browser.keys("llama-3*")
    browser.tab_to("#field-limits-requests_per_minute")
    browser.keys("600")
    browser.tab_to("main button[type=submit]")
    browser.leave(lambda: browser.keys(ENTER))
    the_command_works(browser, plane)
    return shown_once(browser, "made", SECRET)


def the_command_works(browser, plane):
    """What the secret's page says to try is tried, as it is."""
    browser.check("the base URL is told", f"{plane.gateway}/v1" in browser.text)
    command = browser.script("return document.getElementById('curl').textContent")
    browser.check("the command is of a model that the key may call", MODEL in command)
    plane.command = command.replace("curl ", "curl -sS ", 1)
    told = run(plane.command)
    browser.check(f"the command works {told[:200]}", "Hello, too!" in told)


def run(command):
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def shown_once(browser, name, form, reload=False):
    """A secret or a token is shown, copied, and never seen again."""
    secret = browser.script("return document.getElementById('secret').textContent")
    browser.check(f"{name}: it is shown", bool(form.fullmatch(secret)))
    browser.looks_well(f"secret-{name}")
    browser.do("POST", "goog/cdp/execute", {"cmd": "Browser.grantPermissions", "params": {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}})
    browser.click("[data-copy=secret]")
    until("the word that it is copied", lambda: "Copied." in browser.text)
    browser.check(f"{name}: it is copied", clipboard(browser) == secret)
    if reload:
        browser.do("POST", "refresh", {})
        until("the page again", lambda: browser.script("return document.readyState === 'complete'"))
        told = "was made before" in browser.text
        browser.check(f"{name}: loaded again the page says so and shows none", told and not form.search(browser.whole()))
    browser.open(browser.home)
    browser.check(f"{name}: nothing is left of it", not form.search(browser.whole()))
    for step in ("back", "refresh", "back", "forward"):
        browser.do("POST", step, {})
        until("a page", lambda: browser.script("return document.readyState === 'complete'"))
        browser.check(f"{name}: the way {step} shows none", not form.search(browser.whole()))
    browser.open(browser.home)
    return secret


def clipboard(browser):
    script = "navigator.clipboard.readText().then(arguments[0], (e) => arguments[0](String(e)))"
    return browser.do("POST", "execute/async", {"script": script, "args": []})


def operator(browser, plane):
    secret = by_keyboard(browser, plane)
    key = plane.key("Production API")
    browser.check("the key is as it was asked for", (key["team"], key["models"], key["limits"]) == ("research", ["llama-3*"], {"requests_per_minute": 600}))
    plane.use(key["id"], "research")
    the_list(browser, plane, key["id"])
    one_key(browser, plane, key["id"])
    browser.press("main a[href$='/secret']")
    browser.looks_well("regenerate")
    browser.fill("#field-grace", "1h")
    browser.press("main button[type=submit]")
    second = shown_once(browser, "regenerated", SECRET)
    browser.check("the new secret is another", second != secret)
    browser.open(f"{plane.url}/keys/{key['id']}")
    browser.check("the old secret still works for a while", "Old secret" in browser.text)
    overview(browser, plane)
    wallets(browser, plane)
    people(browser, plane)
    short_team(browser, plane)
    browser.open(f"{plane.url}/keys/{key['id']}")
    browser.press("main a[href$='/delete']")
    browser.looks_well("delete")
    browser.press("button.danger")
    browser.check("the key is deleted", plane.call("GET", f"/keys/{key['id']}")["state"] == "deleted" and "is deleted" in browser.text)
    browser.open(f"{plane.url}/nothing/here")
    browser.check("where there is nothing the ways to others stay", "Not found" in browser.text and browser.has(".bar a[href='/overview']"))
    browser.looks_well("missing")
    browser.press(".out button")
    browser.check("the operator is signed out", browser.address == "/sign-in")


def the_list(browser, plane, id):
    """Keys are searched, filtered, sorted and switched, in the database, by addresses that can be kept."""
    names = lambda: browser.texts("tbody th > a")
    browser.open(plane.url)
    browser.check("a key tells whose it is, and that nobody is charged", "charged to nobody" in browser.text and "Owner" in browser.whole())
    if browser.screen == "wide":
        browser.check("a key without a quota tells its limit", "600 requests a minute" in browser.text)
    browser.looks_well("keys")
    browser.fill("#field-q", "PRODUCTION")
    browser.press(".filters button")
    browser.check("a search finds a key by its name", names() == ["Production API"])
    browser.fill("#field-q", id)
    browser.press(".filters button")
    browser.check("and by its id", names() == ["Production API"])
    browser.looks_well("keys-found")
    browser.fill("#field-q", "no such key")
    browser.press(".filters button")
    browser.check("where no key is found there is a way back", "No key is like that." in browser.text and browser.has(".empty a[href='/']"))
    browser.looks_well("keys-none-found")
    browser.press(".empty a")
    browser.choose("#field-owner", "research")
    browser.press(".filters button")
    browser.check("a team's keys are shown alone", names() == ["Production API"])
    browser.open(f"{plane.url}/?sort=-cost")
    browser.check("the list is sorted by what keys cost", names()[0] == "Production API")
    browser.press(f"tr[id='{id}'] button[name=enabled]")
    browser.check("a key is disabled in the list", plane.call("GET", f"/keys/{id}")["state"] == "disabled")
    browser.check("and the list is as it was", browser.script("return location.search + location.hash") == f"?sort=-cost&done=disabled#{id}")
    browser.looks_well("keys-switched")
    browser.choose("#field-state", "disabled")
    browser.press(".filters button")
    browser.check("disabled keys are shown alone", names() == ["Production API"])
    browser.press(f"tr[id='{id}'] button[name=enabled]")
    browser.check("a key is enabled in the list", plane.call("GET", f"/keys/{id}")["state"] == "active")
    browser.open(f"{plane.url}/?sort=-name")
    if browser.screen == "wide":
        browser.check("the list is turned round", names() == sorted(names(), reverse=True))
        browser.press("th[aria-sort=descending] a")
        browser.check("and back by its heading", names() == sorted(names()))


def one_key(browser, plane, id):
    """Everything of a key is seen and changed."""
    browser.open(f"{plane.url}/keys/{id}")
    browser.looks_well("key")
    browser.click("[data-copy=key-id]")
    until("the word that it is copied", lambda: "Copied." in browser.text)
    browser.check("the id is copied", clipboard(browser) == id)
    browser.check("usage is told by model", MODEL in browser.text)
    browser.check("money has cents, and all digits for a pointer", browser.script(
        "return [...document.querySelectorAll('.money')].every((e) => /^(−|< )?\\$[\\d,]+\\.\\d\\d$/.test(e.textContent))"
        " && [...document.querySelectorAll('.money[title]')].some((e) => /\\.\\d{3,}$/.test(e.title))"))
    browser.click("section[aria-labelledby=usage] summary")
    browser.check("usage is a table too", browser.has("details[open] tbody tr"))
    browser.looks_well("key-by-day")
    days = lambda: browser.script("return document.querySelector('figure svg').querySelectorAll('rect').length")
    browser.press(".spans a[href$='span=7']")
    browser.check("a week is chosen", days() == 7 and browser.texts(".spans [aria-current]") == ["7 days"])
    browser.press(".spans a[href$='span=365']")
    browser.check("a year is chosen", days() == 365)
    browser.looks_well("key-year")
    browser.press("button[name=enabled]")
    browser.check("the key is disabled", plane.call("GET", f"/keys/{id}")["state"] == "disabled" and "Enable" in browser.text)
    browser.check("whoever uses it is refused", until("the refusal", lambda: "is disabled" in run(plane.command)))
    until("the gateway to tell of it", lambda: plane.call("GET", f"/keys/{id}/refusals")["rows"])
    browser.open(f"{plane.url}/keys/{id}")
    browser.check("the last refusals are told, and why", "The key was disabled" in browser.text)
    browser.looks_well("key-refusals")
    browser.press("button[name=enabled]")
    browser.check("the key is enabled", plane.call("GET", f"/keys/{id}")["state"] == "active")
    browser.press("main a[href$='/edit']")
    browser.looks_well("key-edit")
    browser.fill("#field-priority", "500")
    browser.press("main button[type=submit]")
    browser.check("a priority that is none is told at its field", browser.has("#field-priority[aria-invalid]"))
    browser.looks_well("key-edit-refused")
    browser.fill("#field-priority", "-10")
    browser.fill("#field-name", f"Renamed {browser.screen}")
    browser.fill("#field-models", f"{MODEL}\nqwen*")
    browser.script("document.getElementById('field-expires_at').value = '2099-12-01T10:00'")
    browser.press("main button[type=submit]")
    changed = plane.call("GET", f"/keys/{id}")
    browser.check("name, models, expiry and priority are changed at once", "are saved" in browser.text and (
        changed["name"], changed["models"], changed["expires_at"], changed["priority"], changed["limits"]
    ) == (f"Renamed {browser.screen}", [MODEL, "qwen*"], "2099-12-01T10:00:00Z", -10, {"requests_per_minute": 600}))
    limits(browser, plane, f"/keys/{id}", "month", {"requests_per_minute": 600})
    limits_of_models(browser, plane, f"/keys/{id}")
    browser.open(plane.url)
    browser.check("the tightest limit is a bar in the list", "100% of $0.01 a" in browser.text and browser.has(f"tr[id='{id}'] meter"))
    browser.looks_well("keys-with-bars")
    browser.open(f"{plane.url}/keys/{id}")


def overview(browser, plane):
    browser.press(".bar a[href='/overview']")
    browser.check("the overview has sums, models and a table by day", browser.has("figure") and MODEL in browser.text and "By day" in browser.text)
    browser.looks_well("overview")
    browser.choose("#field-team", "research")
    browser.press(".filters button")
    browser.check("the overview is of one team", "Usage of the team research" in browser.text)
    browser.press(".spans a[href$='span=90']")
    browser.check("the team stays when a span is chosen", browser.script("return location.search") == "?team=research&span=90")
    browser.looks_well("overview-team")


def wallets(browser, plane):
    browser.open(f"{plane.url}/wallets")
    browser.check("an empty wallet says so", "empty" in browser.text)
    browser.looks_well("wallets")
    browser.press("a[href='/wallets/research']")
    browser.check("charges and credits are a list", "Charges of the day" in browser.text and "first" in browser.text)
    browser.looks_well("wallet")
    browser.fill("#field-usd", "much")
    browser.press("main button[type=submit]")
    browser.check("what is no amount is told at its field", browser.has("#field-usd[aria-invalid]"))
    browser.looks_well("wallet-refused")
    browser.fill("#field-usd", "12.50")
    browser.fill("#field-idempotency_key", f"order-{browser.screen}")
    before = plane.call("GET", "/wallets/research")["balance_usd"]
    browser.press("main button[type=submit]")
    after = plane.call("GET", "/wallets/research")["balance_usd"]
    browser.check("the wallet is credited", round(float(after) - float(before), 9) == 12.5 and "The credit is in" in browser.text)
    browser.check("the credit is in the list", f"order-{browser.screen}" in browser.text)
    browser.open(f"{plane.url}/wallets/bob")
    browser.check("a wallet without entries says what they would be", "Nothing was credited" in browser.text)
    browser.looks_well("wallet-empty")


def limits(browser, plane, path, span, before):
    """Somebody's limits are set: a wrong line is told, a right one becomes a bar."""
    name = path.split("/")[1]
    browser.open(f"{plane.url}{path}/edit")
    browser.fill("#field-limits-quotas", f"usd=0.01/{span}@Europe/Berlin\ntokens=5/fortnight")
    browser.press("main button[type=submit]")
    browser.check(f"{name}: a line that is no quota is told at its field", browser.has("#field-limits-quotas[aria-invalid]"))
    browser.check(f"{name}: and which it is", "Line 2: " in browser.text)
    browser.looks_well(f"{name}-limits-refused")
    browser.fill("#field-limits-quotas", f"usd=0.01/{span}@Europe/Berlin\ntokens=50000000/5h")
    browser.press("main button[type=submit]")
    quotas = [{"usd": "0.01", "per": span, "zone": "Europe/Berlin"}, {"tokens": 50_000_000, "per": "5h"}]
    browser.check(f"{name}: the limits are set", plane.call("GET", path)["limits"] == {**before, "quotas": quotas})
    own = browser.script("return [...document.querySelectorAll('.quotas li')].filter((e) => !e.innerText.includes(', team ')).length")
    browser.check(f"{name}: each quota has a bar", own == 2)
    browser.looks_well(f"{name}-limits")


def limits_of_models(browser, plane, path):
    """A key's limits of models are set, shown and changed, and so is what was used of a quota elsewhere."""
    limits = lambda: plane.call("GET", path)["limits"]
    save = lambda: browser.press("main button[type=submit]")
    browser.open(f"{plane.url}{path}/edit")
    browser.fill("#field-limits-models", f"{MODEL}: requests_per_minute=60\nqwen*: coins=5/day")
    save()
    browser.check("models: a line that is no limit is told at its field", browser.has("#field-limits-models[aria-invalid]"))
    browser.check("models: and which it is", "Line 2: " in browser.text)
    browser.looks_well("key-models-refused")
    elsewhere = {"carried": "0.5", "until": "2099-01-01T00:00:00Z"}
    browser.fill("#field-limits-models", f"{MODEL}: requests_per_minute=60\nqwen*: usd=5/day,carried=0.50,until=2099-01-01")
    save()
    qwen = {"quotas": [{"usd": "5", "per": "day", **elsewhere}]}
    browser.check("models: their limits are set", limits()["models"] == {MODEL: {"requests_per_minute": 60}, "qwen*": qwen})
    browser.check("models: and shown", all(words in browser.text for words in (f"Of {MODEL}", "requests_per_minute=60", "usd=5/day,carried=0.5,")))
    browser.looks_well("key-models")
    browser.open(f"{plane.url}{path}/edit")
    filled = browser.script("return document.getElementById('field-limits-models').value")
    browser.fill("#field-limits-models", filled.replace("usd=5/day", "usd=6/day").replace("=60", "=70"))
    save()
    qwen = {"quotas": [{"usd": "6", "per": "day", **elsewhere}]}
    browser.check("models: their limits are changed", limits()["models"] == {MODEL: {"requests_per_minute": 70}, "qwen*": qwen})
    before = limits()["quotas"]
    browser.open(f"{plane.url}{path}/edit")
    quotas = browser.script("return document.getElementById('field-limits-quotas').value")
    browser.fill("#field-limits-quotas", quotas.replace("@Europe/Berlin", "@Europe/Berlin,carried=0.50,until=2099-01-01"))
    save()
    browser.check("quotas: what was used elsewhere is set", limits()["quotas"] == [{**before[0], **elsewhere}, *before[1:]])
    browser.open(f"{plane.url}{path}/edit")
    browser.fill("#field-limits-models", "")
    browser.fill("#field-limits-quotas", quotas.replace("@Europe/Berlin", "@Europe/Berlin,carried=0,until=2099-01-01"))
    save()
    browser.check("models: their limits are taken away", "models" not in limits() and limits()["quotas"][0]["carried"] == "0")


def people(browser, plane):
    """Teams and users: lists, limits, a user who is made, given another token and deleted."""
    browser.open(f"{plane.url}/teams")
    browser.looks_well("teams")
    browser.press("a[href='/teams/research']")
    browser.looks_well("team")
    limits(browser, plane, "/teams/research", "week", {})
    browser.press(".bar a[href='/users']")
    browser.looks_well("users")
    browser.press("a[href='/users/ada']")
    limits(browser, plane, "/users/ada", "day", {})
    browser.open(f"{plane.url}/users/new")
    browser.fill("#field-name", "Carol")
    browser.fill("#field-id", "No Id")
    browser.press("main button[type=submit]")
    browser.check("what is no id is told at its field", browser.has("#field-id[aria-invalid]"))
    browser.looks_well("user-make-refused")
    id, token = f"carol_{browser.screen}", re.compile(r"kmu-[0-9A-Za-z]{48}")
    browser.fill("#field-id", id)
    browser.press("main button[type=submit]")
    first = shown_once(browser, "user", token)
    browser.check("the user's token is theirs", plane.call("GET", f"/users/{id}", token=first)["name"] == "Carol")
    browser.open(f"{plane.url}/users/{id}")
    browser.check("a user who used nothing is told so", "Nothing was used." in browser.text)
    browser.looks_well("user-new")
    browser.press("main a[href$='/token']")
    browser.looks_well("token")
    browser.press("main button[type=submit]")
    second = shown_once(browser, "token", token)
    browser.check("the new token is another", second != first and plane.call("GET", f"/users/{id}", token=second)["id"] == id)
    browser.open(f"{plane.url}/users/{id}/delete")
    browser.looks_well("user-delete")
    browser.press("button.danger")
    browser.check("the user is deleted", "The user is deleted." in browser.text and id not in browser.text)


def short_team(browser, plane):
    """A team that the operator makes, gives to another and deletes."""
    id = f"short_{browser.screen}"
    browser.open(f"{plane.url}/teams/new")
    browser.fill("#field-name", "Short-lived")
    browser.fill("#field-id", id)
    browser.choose("#field-owner", "bob")
    browser.looks_well("team-make")
    browser.press("main button[type=submit]")
    browser.check("the team is made", browser.address == f"/teams/{id}" and "The team is made." in browser.text)
    browser.looks_well("team-new")
    browser.press("a[href$='/bob/remove']")
    browser.check("the operator is told what comes of it", "has no owner then" in browser.text)
    browser.looks_well("member-remove")
    browser.press("button.danger")
    browser.check("the operator takes an owner off", plane.call("GET", f"/teams/{id}")["members"] == [])
    browser.choose("#field-user", "bob")
    browser.choose("#field-role", "owner")
    browser.press("section[aria-labelledby=bring-in] button")
    browser.check("the operator gives it another owner", plane.call("GET", f"/teams/{id}")["members"] == [{"user": "bob", "role": "owner"}])
    browser.press("main a[href$='/delete']")
    browser.looks_well("team-delete")
    browser.choose("#field-refund_to", "research")
    browser.press("button.danger")
    browser.check("the team is deleted", "The team is deleted." in browser.text and "Short-lived" not in browser.text)


def team(browser, plane, tokens):
    """The owner invites somebody, who accepts, sees the team's key and can do nothing with it."""
    browser.sign_in(plane.url, tokens["ada"])
    browser.check("a team without keys is told what to do", "no keys yet" in browser.text and browser.has(".empty a[href='/keys/new']"))
    browser.looks_well("keys-empty")
    browser.press(".bar a[href='/teams']")
    browser.fill("#field-user", "nobody-here")
    browser.press("form.row button")
    browser.check("whoever is not there is told at the field", browser.has("#field-user[aria-invalid]"))
    browser.looks_well("team-invite-refused")
    browser.fill("#field-user", "bob")
    browser.press("form.row button")
    members = lambda: [member["user"] for member in plane.call("GET", "/teams/research")["members"]]
    browser.check("whoever is invited is not on the team yet", members() == ["ada"] and "nothing changes until" in browser.text)
    browser.looks_well("team-led")
    browser.press(".out button")
    browser.sign_in(plane.url, tokens["bob"])
    browser.check("the invitation is on the first page", "You are invited" in browser.text)
    browser.check("an empty wallet is told", "The wallet of bob is empty" in browser.text)
    browser.looks_well("invited")
    browser.open(f"{plane.url}/keys/new")
    browser.check("an empty wallet is told before anything is filled in", "is empty" in browser.text and not browser.has("#field-name"))
    browser.looks_well("make-without-money")
    browser.press(".bar a[href='/invitations']")
    browser.looks_well("invitations")
    browser.tab_to("button[name=accept][value=true]")
    browser.leave(lambda: browser.keys(ENTER))
    browser.check("whoever accepts is on the team", members() == ["ada", "bob"] and browser.address == "/teams/research")
    browser.press(".out button")
    browser.sign_in(plane.url, tokens["ada"])
    browser.press("a[href='/keys/new']")
    browser.check("a user chooses no owner", not browser.has("#field-owner"))
    browser.fill("#field-name", "Team’s own key")
    browser.press("main button[type=submit]")
    shown_once(browser, "team", SECRET, reload=True)
    key = plane.key("Team’s own key")
    browser.press(".out button")
    browser.sign_in(plane.url, tokens["bob"])
    browser.check("a member sees the key and makes none", "Team’s own key" in browser.text and not browser.has("a[href='/keys/new']"))
    browser.check("a member switches no key", not browser.has("button[name=enabled]"))
    browser.looks_well("member-keys")
    browser.press(f"a[href='/keys/{key['id']}']")
    browser.check("a member sees its priority", "Priority" in browser.text)
    browser.check("a member changes no key", not browser.has("main form") and not browser.has("main a[href$='/delete']"))
    browser.looks_well("member-key")
    browser.press(".bar a[href='/overview']")
    browser.looks_well("member-overview")
    browser.press(".bar a[href='/teams']")
    browser.looks_well("member-team")
    browser.press("a[href$='/bob/remove']")
    browser.press("button.danger")
    browser.check("a member leaves", len(plane.call("GET", "/teams/research")["members"]) == 1)
    browser.open(f"{plane.url}/keys/{key['id']}")
    browser.check("whoever left sees the key no more", "There is no key" in browser.text and browser.has(".bar a[href='/overview']"))
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


if __name__ == "__main__":
    main()
