"""What the dashboard is looked at with: a gateway with all that it has metrics for, and load of every kind.

A scripted inference server, Redis for shared limits, and `keymeter` with its control plane, which is the key source and takes
the ledger's records. Keys of teams and of nobody, one that runs out of balance, one that is disabled while it streams, and
more than there may be series for.
"""

import contextlib
import http.client
import http.server
import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]
KEYMETER = os.environ.get("KEYMETER") or str(ROOT / "target" / "debug" / "keymeter")
OPERATOR, GATEWAYS = "operator-token-0123456789-0123456789", "gateway-token-0123456789-0123456789"
PATIENCE = 15
SERIES = 5


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, holds, patience=PATIENCE):
    start = time.perf_counter()
    while not holds():
        if time.perf_counter() - start > patience:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.05)


class Processes:
    """Started processes, which end with the block."""

    def __init__(self):
        self.running = []

    def start(self, command, **options):
        self.running.append(subprocess.Popen(command, **options))
        return self.running[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            process.kill()
            process.wait()


class Inference(http.server.BaseHTTPRequestHandler):
    """Answers chat requests with usage, a part of it cached and a part reasoning; `user` says what goes wrong."""

    protocol_version = "HTTP/1.1"
    USAGE = {"prompt_tokens": 40, "completion_tokens": 12, "total_tokens": 52,
             "prompt_tokens_details": {"cached_tokens": 16}, "completion_tokens_details": {"reasoning_tokens": 4}}

    # An issuer's keys (the first of RFC 7517, appendix A.1): nobody here signs by it.
    KEYS = {"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "use": "sig", "alg": "ES256",
                      "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}

    def do_GET(self):
        self.whole(200, self.KEYS)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        user = body.get("user")
        if user == "fail":
            self.whole(500, {"error": {"message": "broken", "type": "server_error", "param": None, "code": None}})
        elif body.get("stream"):
            with contextlib.suppress(OSError):
                self.stream(body["model"], 12 if user != "long" else 10_000)
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "word " * 12}, "finish_reason": "stop"}
            common = {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"]}
            self.whole(200, {**common, "choices": [choice], "usage": self.USAGE})

    def whole(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def stream(self, model, words, pause=0.01):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        common = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": model}
        for _ in range(words):
            self.event(json.dumps({**common, "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}))
            time.sleep(pause)
        self.event(json.dumps({**common, "choices": [], "usage": self.USAGE}))
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, data):
        text = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.flush()

    def log_message(self, *_):
        pass


class Key:
    """A key that the control plane made."""

    def __init__(self, made, team):
        self.id, self.secret, self.team = made["id"], made["secret"], team


class World:
    """The running gateway, and what may be asked of it."""

    inference = Inference

    def __init__(self, processes, directory):
        upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.inference)
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        self.redis, redis = start_redis(processes, directory)
        control = free_port()
        self.control = f"http://127.0.0.1:{control}/api/v1"
        self.config = directory / "keymeter.yaml"
        self.config.write_text(self.configuration(upstream.server_address[1], control, redis))
        self.start(processes, directory)
        self.instance = f"127.0.0.1:{self.admin}"
        until("the key source's events", lambda: "keymeter_key_events_connected 1" in self.metrics())
        self.make_keys()

    def start(self, processes, directory):
        said = directory / "keymeter.log"
        with open(said, "w") as errors:
            command = [KEYMETER, "serve", "--config", str(self.config)]
            process = processes.start(command, stdout=subprocess.DEVNULL, stderr=errors)
        pattern = re.compile(r"listening on \S+:(\d+) .*admin address \S+:(\d+)")
        until("the gateway", lambda: process.poll() is not None or pattern.search(said.read_text()))
        if process.poll() is not None:
            sys.exit(f"the gateway did not start: {said.read_text()}")
        self.port, self.admin = map(int, pattern.search(said.read_text()).groups())

    @staticmethod
    def configuration(upstream, control, redis):
        return configuration(upstream, control, redis)

    def metrics(self):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=PATIENCE).read().decode()

    def operator(self, method, path, value):
        headers = {"authorization": f"Bearer {OPERATOR}", "content-type": "application/json"}
        request = urllib.request.Request(f"{self.control}/{path}", json.dumps(value).encode(), headers, method=method)
        return json.load(urllib.request.urlopen(request, timeout=PATIENCE))

    def make_keys(self):
        self.keys = {}
        for team, usd in (("research", "1000"), ("poor", "0.2")):
            self.operator("POST", "users", {"id": f"owner_{team}", "name": f"Owner of {team}"})
            self.operator("POST", "teams", {"id": team, "name": team.title(), "owner": f"owner_{team}"})
            self.operator("POST", f"wallets/{team}/credits", {"usd": usd, "idempotency_key": team})
        month = {"quotas": [{"usd": "500", "per": "month", "zone": "Europe/Berlin"}]}
        self.operator("PATCH", "teams/research", {"limits": {"requests_per_minute": 60000, **month}})
        self.make_key("Research's key", "research", models=["llama-*"], limits={"quotas": [{"tokens": 10**9, "per": "day"}]})
        self.make_key("Batch", "research", limits={"requests_per_minute": 10})
        self.make_key("Poor's key", "poor")
        self.make_key("Nobody's key", None, limits={"mode": "observe", "quotas": [{"requests": 5, "per": "12h"}]})
        for name in ("Disabled key", "One too many"):
            self.make_key(name, None)

    def make_key(self, name, team, **more):
        record = {"name": name, **({"team": team} if team else {}), **more}
        self.keys[name] = Key(self.operator("POST", "keys", record), team)

    def ask(self, name, model="llama-3", **more):
        """The status of a request that is read to its end; a name that is no key's is sent as a secret."""
        secret = self.keys[name].secret if name in self.keys else name
        connection, response = self.open(secret, model, **more)
        with contextlib.suppress(http.client.HTTPException, OSError):
            response.read()
        connection.close()
        return response.status

    def open(self, secret, model, **more):
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "How do tides work?"}], **more})
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {secret}"} if secret else {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("POST", "/v1/chat/completions", body, headers)
        return connection, connection.getresponse()

    def hang_up(self):
        connection, response = self.open(self.keys["Nobody's key"].secret, "llama-3", stream=True, user="long")
        response.read(100)
        response.close()
        connection.close()

    def load(self, seconds):
        """Puts every kind of request on the gateway for so long, and says how many there were."""
        # Keys have series in the order of their first requests.
        for name in list(self.keys):
            self.ask(name)
        end, asked = time.time() + seconds, itertools.count()
        steps = (self.steady, self.strange, self.starved)
        threads = [threading.Thread(target=self.repeat, args=(step, end, asked)) for step in steps]
        long = threading.Thread(target=self.ask, args=("Disabled key",), kwargs={"stream": True, "user": "long"})
        for thread in (*threads, long):
            thread.start()
        time.sleep(seconds / 3)
        self.operator("PATCH", f"keys/{self.keys['Disabled key'].id}", {"enabled": False})
        for thread in (*threads, long):
            thread.join()
        return next(asked)

    @staticmethod
    def repeat(step, end, asked):
        while time.time() < end:
            for request in step():
                request()
                next(asked)
            time.sleep(0.1)

    def steady(self):
        for more in ({}, {"stream": True}, {"user": "fail"}, {"model": "qwen3"}, {"stream": True}):
            yield lambda more=more: self.ask("Research's key", **more)

    def strange(self):
        yield lambda: self.ask("Nobody's key", model="mystery")
        yield lambda: self.ask("Nobody's key", model="qwen3", stream=True)
        yield lambda: self.ask("sk-unknown")
        yield lambda: self.ask("")
        yield self.hang_up

    def starved(self):
        for name in ("Batch", "Poor's key", "One too many", "Disabled key"):
            yield lambda name=name: self.ask(name)

    def break_configuration(self):
        self.config.write_text(self.config.read_text() + "limit: {}\n")
        until("the failed reload", lambda: "keymeter_config_last_reload_successful 0" in self.metrics())

    def lose_redis(self):
        self.redis.kill()
        until("the loss of Redis", lambda: "keymeter_shared_limits_reachable 0" in self.metrics())


def start_redis(processes, directory):
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    process = processes.start(command, stdout=subprocess.DEVNULL)

    def answers():
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), 1).close() is None

    until("Redis", answers)
    return process, port


def configuration(upstream, control, redis):
    source = f"http://127.0.0.1:{control}/v1"
    return f"""
server: {{listen: ["127.0.0.1:0"]}}
admin: {{listen: "127.0.0.1:0"}}
upstreams:
  - {{name: slow, url: "http://127.0.0.1:{upstream}", models: [qwen3]}}
  - {{name: fast, url: "http://127.0.0.1:{upstream}"}}
keys:
  http:
    url: "{source}/keys/{{hash}}"
    events_url: "{source}/keys/events"
    usage_url: "{source}/usage/records"
    token: {GATEWAYS}
  jwt:
    - {{issuer: "https://login.example", audience: keymeter, jwks: "http://127.0.0.1:{upstream}/jwks", algorithms: [ES256]}}
key_cache: {{ttl: 2s, unknown_ttl: 1s}}
control: {{listen: "127.0.0.1:{control}", token: {OPERATOR}, gateway_token: {GATEWAYS}}}
limits:
  requests_per_minute: 100000
  shared: {{url: "redis://127.0.0.1:{redis}", timeout: 1s}}
models:
  - {{name: "llama-*", input: "10", cached_input: "1", output: "1000"}}
  - {{name: qwen3, input: "10", cached_input: "1", output: "500"}}
metrics: {{max_key_series: {SERIES}}}
"""
