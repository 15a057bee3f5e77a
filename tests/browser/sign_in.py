"""Signing in to the page by an issuer, in Chromium: the page and the issuer are different sites, and the issuer is a real one.

`sign_in.py FOLDER [PICTURES]`: the issuer runs in Node, with the packages in FOLDER. Starts `keymeter` from the path in KEYMETER,
else from target/debug. The last line is `N passed, M failed`; the exit code is 1 if any failed.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

from browser import SCREENS, Browser, free_port, listens, until
from plane import OPERATOR, Plane

PROVIDER = pathlib.Path(__file__).parent / "provider" / "provider.mjs"
SECRET = "client-secret/of+the:tests%25"
BUTTON = "main a[href$='/sign-in/oidc']"


class Issuer:
    """The process."""

    def __init__(self, packages):
        self.packages, self.port, self.process = packages, free_port(), None
        # An address, where the page has a name: to a browser these are two sites.
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, callback):
        command = ["node", str(PROVIDER), str(self.packages), str(self.port), callback, SECRET]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("the issuer", lambda: listens(self.port))

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()


def at_issuer(browser, issuer, name):
    """Says at the issuer who it is, and agrees that the page may know."""
    browser.check("the browser is at the issuer", browser.script("return location.origin") == issuer.url)
    browser.fill("input[name=login]", name)
    browser.fill("input[name=password]", "any")
    browser.press("button[type=submit]")
    browser.press("button[type=submit]")


def is_signed_in(browser, plane):
    """The browser is led on to the keys, and has a session there."""
    until("the page behind", lambda: browser.script("return location.pathname + location.search") == "/")
    return browser.script("return location.origin") == plane.url and "Sign out" in browser.text


def cookies(browser):
    return {cookie["name"]: cookie for cookie in browser.do("GET", "cookie")}


def forget(browser, *urls):
    """Whoever comes is nobody yet, here and at the issuer."""
    for url in urls:
        browser.open(url)
        browser.do("DELETE", "cookie")


def users(browser, plane, issuer):
    browser.open(plane.url)
    browser.check("the issuer is offered", browser.texts(BUTTON) == [f"Sign in with 127.0.0.1:{issuer.port}"])
    browser.looks_well("sign-in-by-issuer")
    browser.press(BUTTON)
    at_issuer(browser, issuer, "ada")
    browser.check("the user is signed in", is_signed_in(browser, plane) and browser.has(".bar a[href='/users/ada']"))
    kept = cookies(browser)
    browser.check(f"one cookie is left, for this site alone {list(kept)}", list(kept) == ["keymeter"]
                  and kept["keymeter"]["sameSite"] == "Strict" and kept["keymeter"]["httpOnly"])
    browser.open(f"{plane.url}/users/ada")
    browser.check("the user sees by what they sign in", "Ada@example.com" in browser.text)
    browser.press(".out button")
    browser.check("the user is signed out", browser.address == "/sign-in")
    browser.do("POST", "back", {})
    time.sleep(0.5)
    browser.open(f"{plane.url}/keys/new")
    browser.check("and stays so on the way back", browser.address == "/sign-in")
    # The issuer knows them still: no form stands between.
    browser.press(BUTTON)
    browser.check("signed in again without a word", is_signed_in(browser, plane))


def others(browser, plane, issuer):
    forget(browser, plane.url, issuer.url)
    browser.open(f"{plane.url}/sign-in")
    browser.press(BUTTON)
    at_issuer(browser, issuer, "ops")
    browser.check("the operator is signed in", is_signed_in(browser, plane) and browser.has(".bar a[href='/users']"))
    forget(browser, plane.url, issuer.url)
    for name, words in (("eve", "Nobody here signs in as “eve@example.com”"), ("ops-unverified", "is not verified")):
        browser.open(f"{plane.url}/sign-in")
        browser.press(BUTTON)
        at_issuer(browser, issuer, name)
        browser.check(f"{name} is refused, and told why", words in browser.text and browser.has("main a[href='/sign-in']"))
        browser.looks_well(f"sign-in-{name}")
        forget(browser, plane.url, issuer.url)
    browser.open(f"{plane.url}/sign-in")
    browser.press(BUTTON)
    browser.press("a[href*='/abort']")
    browser.check("whoever leaves the issuer is told", "did not let you sign in" in browser.text)
    # The issuer's list of programs leads to the page, as a link in a message does: whoever is signed in stays so.
    browser.sign_in(f"{plane.url}/sign-in", OPERATOR)
    browser.open(issuer.url)
    browser.leave(lambda: browser.script("location.href = arguments[0]", f"{plane.url}/users"))
    until("the page behind", lambda: browser.address == "/")
    browser.check("a link of another site ends no session", "Sign out" in browser.text)
    browser.leave(lambda: browser.script("location.href = arguments[0]", f"{plane.url}/sign-in/callback?code=a&state=b"))
    browser.open(plane.url)
    browser.check("nor does an answer that was another's", "Sign out" in browser.text)
    browser.press(".out button")
    # A stranger's answer, in a browser that began nothing.
    browser.open(f"{plane.url}/sign-in/callback?code=stolen&state=stolen")
    browser.check("an answer that was another's is none", "did not begin in this browser" in browser.text)


def away(browser, plane, issuer, callback):
    issuer.stop()
    try:
        browser.open(f"{plane.url}/sign-in")
        browser.fill("#field-token", OPERATOR)
        browser.press("main button")
        browser.check("tokens sign in without the issuer", browser.address == "/" and "operator" in browser.text)
        browser.press(".out button")
    finally:
        issuer.start(callback)


def scene(driver, plane, issuer, callback, screen, pictures, check):
    browser = Browser(driver, plane.url, screen, pictures, check)
    try:
        users(browser, plane, issuer)
        others(browser, plane, issuer)
        away(browser, plane, issuer, callback)
        complaints = [text for text in browser.complaints() if plane.url in text]
        browser.check(f"the browser complains of nothing {complaints or ''}", not complaints)
    finally:
        browser.close()


def main():
    passed, failed = [], []
    packages = pathlib.Path(sys.argv[1]).resolve()
    pictures = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)

    def check(name, holds):
        (passed if holds else failed).append(name)
        print(f"{'ok  ' if holds else 'FAIL'} {name}", flush=True)

    port, issuer = free_port(), Issuer(packages)
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as directory:
        oidc = f'{{issuer: "{issuer.url}", client_id: keymeter, client_secret: "{SECRET}", operators: ["Ops@example.com", ops-unverified@example.com]}}'
        # The process starts although nobody is at the issuer's address yet.
        plane = Plane(pathlib.Path(directory), lambda url: f', page_url: "{url}", oidc: {oidc}')
        callback = f"{plane.url}/sign-in/callback"
        try:
            issuer.start(callback)
            until("chromedriver", lambda: listens(port))
            plane.call("POST", "/users", {"id": "ada", "name": "User ada", "sign_in": "Ada@example.com"})
            for screen in SCREENS:
                scene(f"http://127.0.0.1:{port}", plane, issuer, callback, screen, pictures, check)
        finally:
            plane.process.kill()
            issuer.stop()
            driver.terminate()
    print(f"{len(passed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
