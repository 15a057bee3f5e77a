"""The official `anthropic` package against a gateway before an upstream that speaks Anthropic's API.

Runs `keymeter serve` itself, from the path in KEYMETER, else from PATH, else from target/debug, with an
upstream of canned answers. The last line is `N passed, M failed`; the exit code is 1 if any failed.
"""

import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
import urllib.request

import anthropic

PATIENCE = 20
SECRET = "sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef2P40Ol"
LIMITED = "sk-limited"
MESSAGES = [{"role": "user", "content": "How do tides work?"}]
USAGE = {"input_tokens": 25, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 15}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "stop_reason": "end_turn",
           "stop_sequence": None, "content": [{"type": "text", "text": "The moon pulls."}], "usage": USAGE}
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None,
                                          "usage": {**USAGE, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "The moon pulls."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
     "usage": {"output_tokens": 15}},
    {"type": "message_stop"},
]


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers as Anthropic's API does, and keeps the headers that it got."""

    protocol_version = "HTTP/1.1"
    seen = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        Upstream.seen.append(dict(self.headers))
        if self.path.endswith("/count_tokens"):
            self.answer("application/json", json.dumps({"input_tokens": 14}))
        elif body.get("stream"):
            events = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in EVENTS)
            self.answer("text/event-stream", events)
        else:
            self.answer("application/json", json.dumps(MESSAGE))

    def answer(self, content_type, text):
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class Gateway:
    """A running gateway, in a directory of its own."""

    def __init__(self, directory):
        self.upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        threading.Thread(target=self.upstream.serve_forever, daemon=True).start()
        keys = [("key_test", SECRET, ""), ("key_limited", LIMITED, ", limits: {requests_per_minute: 1}")]
        lines = [
            f'  - {{id: {id}, name: A key, hash: "sha256:{hashlib.sha256(secret.encode()).hexdigest()}"{rest}}}'
            for id, secret, rest in keys
        ]
        (directory / "keys.yaml").write_text("keys:\n" + "\n".join(lines) + "\n")
        (directory / "keymeter.yaml").write_text(
            'server: {listen: ["127.0.0.1:0"]}\nadmin: {listen: "127.0.0.1:0"}\nkeys: {yaml: {path: keys.yaml}}\n'
            f'upstreams: [{{name: a, url: "http://127.0.0.1:{self.upstream.server_port}", apis: [anthropic], '
            'models: ["claude-*"], api_key: sk-of-the-upstream, api_key_header: x-api-key}]\n'
        )
        command = [program(), "serve", "--config", str(directory / "keymeter.yaml")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listening on (\S+) .*admin address (\S+)", line):
                self.url, self.metrics_url = f"http://{found[1]}", f"http://{found[2]}/metrics"
                break
        else:
            sys.exit("the gateway did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def client(self, **options):
        return anthropic.Anthropic(**{"base_url": self.url, "api_key": SECRET, "timeout": PATIENCE,
                                      "max_retries": 0, **options})

    def tokens(self):
        with urllib.request.urlopen(self.metrics_url, timeout=PATIENCE) as response:
            text = response.read().decode()
        series = r'keymeter_tokens_total{key_id="key_test",model="other",type="(\w+)"} (\d+)'
        return {kind: int(value) for kind, value in re.findall(series, text)}

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.upstream.shutdown()


def program():
    built = pathlib.Path(__file__).parents[2] / "target" / "debug" / "keymeter"
    return os.environ.get("KEYMETER") or shutil.which("keymeter") or str(built)


def ask(client, **options):
    return client.messages.create(**{"model": "claude-x", "max_tokens": 64, "messages": MESSAGES, **options})


def counted(gateway, act):
    """The tokens that an act costs, by type."""
    before = gateway.tokens()
    act()
    for _ in range(1000):
        after = gateway.tokens()
        if after != before:
            break
    return {kind: value - before.get(kind, 0) for kind, value in after.items()}


EXPECTED = {"input": 25, "cached_input": 3, "cache_write": 7, "output": 15}


def a_message_is_counted(gateway):
    assert counted(gateway, lambda: ask(gateway.client())) == EXPECTED


def a_stream_is_counted_and_its_last_message_whole(gateway):
    def stream():
        with gateway.client().messages.stream(model="claude-x", max_tokens=64, messages=MESSAGES) as events:
            assert events.get_final_text() == "The moon pulls."
            assert events.get_final_message().usage.output_tokens == 15

    assert counted(gateway, stream) == EXPECTED


def counting_tokens_is_free(gateway):
    before = gateway.tokens()
    counted_tokens = gateway.client().messages.count_tokens(model="claude-x", messages=MESSAGES)
    assert counted_tokens.input_tokens == 14
    assert gateway.tokens() == before


def the_upstream_gets_our_credential_and_the_clients_version(gateway):
    ask(gateway.client())
    headers = {name.lower(): value for name, value in Upstream.seen[-1].items()}
    assert headers["x-api-key"] == "sk-of-the-upstream"
    assert headers["anthropic-version"]
    assert SECRET not in str(headers)


def a_wrong_key_is_an_authentication_error(gateway):
    error = raised(anthropic.AuthenticationError, lambda: ask(gateway.client(api_key="sk-wrong")))
    assert error.body["error"]["type"] == "authentication_error"
    assert error.request_id == error.response.headers["x-request-id"]


def an_unknown_model_is_a_not_found_error(gateway):
    error = raised(anthropic.NotFoundError, lambda: ask(gateway.client(), model="unknown"))
    assert error.body["error"]["type"] == "not_found_error"


def over_the_limit_is_a_rate_limit_error(gateway):
    client = gateway.client(api_key=LIMITED)
    ask(client)
    error = raised(anthropic.RateLimitError, lambda: ask(client))
    assert 0 < int(error.response.headers["retry-after"]) <= 60
    assert error.response.headers["anthropic-ratelimit-requests-limit"] == "1"


def raised(kind, act):
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


CHECKS = [
    a_message_is_counted,
    a_stream_is_counted_and_its_last_message_whole,
    counting_tokens_is_free,
    the_upstream_gets_our_credential_and_the_clients_version,
    a_wrong_key_is_an_authentication_error,
    an_unknown_model_is_a_not_found_error,
    over_the_limit_is_a_rate_limit_error,
]


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        gateway = Gateway(pathlib.Path(directory))
        try:
            for check in CHECKS:
                try:
                    check(gateway)
                    print(f"ok      {check.__name__}")
                except Exception:
                    failed += 1
                    print(f"FAILED  {check.__name__}")
                    traceback.print_exc()
        finally:
            gateway.stop()
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
