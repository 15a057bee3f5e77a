"""A page of another origin in Chromium: it asks the gateway by `fetch`, reads a stream as it comes, and what refusals say.

The page is served by a server of its own, which is one of `cors.origins`; the same page by another name of this machine is
not. Chromium is driven as for the page of keys. Starts `keymeter` from the path in KEYMETER, else from target/debug. The
last line is `N passed, M failed`; the exit code is 1 if any failed.
"""

import hashlib
import http.server
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

from browser import KEYMETER, Browser, free_port, listens, until

FREE, LIMITED = "sk-page-free", "sk-page-limited"
PAUSE = 0.6

# Asks as a page would, and tells what the page may know of the answer. Pieces are told with the time at which they came.
ASK = """
const [url, secret, body, done] = arguments;
const began = performance.now();
const headers = {"authorization": "Bearer " + secret, "content-type": "application/json", "x-stainless-lang": "js"};
(async () => {
  try {
    const answer = await fetch(url, {method: "POST", headers, body: JSON.stringify(body)});
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const pieces = [];
    for (let piece; !(piece = await reader.read()).done; ) pieces.push([performance.now() - began, piece.value]);
    done({status: answer.status, headers: Object.fromEntries(answer.headers), pieces});
  } catch (error) {
    done({failed: String(error)});
  }
})();
"""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = b"<!doctype html><html lang=en><title>A page</title><h1>A page</h1>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Upstream(http.server.BaseHTTPRequestHandler):
    """Three words, with a pause before each but the first."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, word in enumerate(["one ", "two ", "three"]):
            time.sleep(PAUSE if number else 0)
            self.chunk(f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': word}}]})}\n\n")
        self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def chunk(self, piece):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece.encode()))

    def log_message(self, *_):
        pass


def start(directory, upstream, origin):
    (directory / "keymeter.yaml").write_text(f"""
server: {{listen: ["127.0.0.1:0"], cors: {{origins: ["{origin}"], max_age: 10m}}}}
admin: {{listen: "127.0.0.1:0"}}
keys: {{yaml: {{path: keys.yaml}}}}
upstreams: [{{name: scripted, url: "http://127.0.0.1:{upstream.port}", apis: [openai, anthropic]}}]
""")
    keys = [(FREE, "{}"), (LIMITED, "{requests_per_minute: 1}")]
    lines = [f'- {{id: key_{number}, name: A key, hash: "sha256:{hashlib.sha256(secret.encode()).hexdigest()}", limits: {limits}}}\n'
             for number, (secret, limits) in enumerate(keys)]
    (directory / "keys.yaml").write_text("keys:\n" + "".join(lines))
    log = directory / "log"
    process = subprocess.Popen([KEYMETER, "serve", "--config", str(directory / "keymeter.yaml")],
                               stdout=subprocess.DEVNULL, stderr=log.open("w"))
    found = until("the gateway", lambda: re.search(r"listening on (\S+) .*admin address (\S+)", log.read_text()))
    return process, f"http://{found[1]}"


def scene(browser, gateway, page, check):
    chat, messages = f"{gateway}/v1/chat/completions", f"{gateway}/v1/messages"
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 9}

    def ask(url, secret):
        return browser.do("POST", "execute/async", {"script": ASK, "args": [url, secret, body]})

    browser.open(f"http://127.0.0.1:{page.port}/")
    answer = ask(chat, FREE)
    check("a page may ask", answer.get("status") == 200, answer)
    pieces = answer.get("pieces", [])
    text = "".join(piece for _, piece in pieces)
    check("it reads the whole stream", all(f'"{word}"' in text for word in ("one ", "two ", "three")) and "[DONE]" in text, text)
    came = [at for at, piece in pieces if "content" in piece]
    check("piece by piece as it comes", len(came) == 3 and came[2] - came[0] > 1000 * PAUSE, came)
    check("it reads the request's id", answer["headers"].get("x-request-id", "").startswith("req_"), answer["headers"])

    for url, code in [(chat, "invalid_api_key"), (messages, "authentication_error")]:
        answer = ask(url, "sk-wrong")
        said = "".join(piece for _, piece in answer.get("pieces", []))
        check(f"it reads a 401 at {url}", answer.get("status") == 401 and code in said, answer)

    ask(chat, LIMITED)
    answer = ask(chat, LIMITED)
    headers = answer.get("headers", {})
    check("it reads a 429", answer.get("status") == 429 and "rate_limit_exceeded" in str(answer["pieces"]), answer)
    check("and when to come again", 1 <= int(headers.get("retry-after", 0)) <= 60 and int(headers.get("retry-after-ms", 0)) > 0, headers)
    check("and what is left", headers.get("x-ratelimit-remaining-requests") == "0", headers)

    browser.open(f"http://localhost:{page.port}/")
    answer = ask(chat, FREE)
    check("a page of an origin that is not named may not", "Failed to fetch" in answer.get("failed", ""), answer)


def main():
    passed, failed = [], []

    def check(name, holds, details=""):
        (passed if holds else failed).append(name)
        print(f"{'ok  ' if holds else 'FAIL'} {name}{'' if holds else f': {details}'}", flush=True)

    page, upstream, port = Server(Page), Server(Upstream), free_port()
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as directory:
        process, gateway = start(pathlib.Path(directory), upstream, f"http://127.0.0.1:{page.port}")
        try:
            until("chromedriver", lambda: listens(port))
            browser = Browser(f"http://127.0.0.1:{port}", gateway, "wide", None, check)
            try:
                scene(browser, gateway, page, check)
            finally:
                browser.close()
        finally:
            process.kill()
            driver.terminate()
    print(f"{len(passed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
