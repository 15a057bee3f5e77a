"""A `keymeter` with a control plane and a gateway before a small inference server, for the tests of the page."""

import contextlib
import datetime
import http.server
import json
import socket
import subprocess
import sys
import threading

from browser import KEYMETER, ask, free_port, until

OPERATOR, GATEWAYS = "operator-token-of-the-page-0123456789", "gateway-token-of-the-page-0123456789"
MODEL = "llama-3.1-8b-instruct"


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers every chat."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hello, too!"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice], "usage": usage}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Plane:
    """The process."""

    def __init__(self, directory, control=lambda url: ""):
        """`control` says what more stands in its section, of the URL at which the page is."""
        port, gateway = free_port(), free_port()
        upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        self.url, self.gateway = f"http://localhost:{port}", f"http://127.0.0.1:{gateway}"
        path = directory / "keymeter.yaml"
        keys = f"http://127.0.0.1:{port}/v1/keys"
        path.write_text(
            f"""
server: {{listen: ["127.0.0.1:{gateway}"]}}
admin: {{listen: "127.0.0.1:0"}}
upstreams: [{{name: small, url: "http://127.0.0.1:{upstream.server_address[1]}", models: [{MODEL}]}}]
keys: {{http: {{url: "{keys}/{{hash}}", events_url: "{keys}/events", usage_url: "http://127.0.0.1:{port}/v1/usage/records", token: {GATEWAYS}}}}}
control: {{listen: "127.0.0.1:{port}", token: {OPERATOR}, gateway_token: {GATEWAYS}, database: "sqlite://keymeter.db"{control(self.url)}}}
"""
        )
        command = [KEYMETER, "serve", "--config", str(path)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("the control plane", lambda: self.answers(port) and self.answers(gateway))

    def answers(self, port):
        if self.process.poll() is not None:
            sys.exit("keymeter did not start")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True

    def call(self, method, path, body=None, token=OPERATOR):
        return ask(method, f"{self.url}/api/v1{path}", body, token)

    def key(self, name):
        """The key of this name."""
        found = [key for key in self.call("GET", "/keys?limit=1000")["data"] if key["name"] == name]
        assert len(found) == 1, f"{len(found)} keys are called {name}"
        return found[0]

    def use(self, key, team):
        """Usage of a month, more of it on some days than on others."""
        now = datetime.datetime.now(datetime.timezone.utc)
        records = [
            {
                "id": f"{key}-{day}-{weight}", "gateway": "0123456789abcdef", "key_id": key, "key_name": "Some key",
                "time": (now - datetime.timedelta(days=day)).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "model": model, "input_tokens": 1200 * weight, "cached_input_tokens": 300, "cache_write_tokens": 0,
                "output_tokens": 400 * weight, "reasoning_tokens": 0, "cost_usd": f"0.{(day * 37) % 90 + 10}4321",
                "status": 200, "usage_source": "upstream",
            } | ({"team": team, "wallet": team} if team else {})
            for day in range(28)
            if day % 7 not in (2, 3)
            for weight, model in ((1, MODEL), (3, "qwen2.5-72b-instruct"))
        ]
        ask("POST", f"{self.url}/v1/usage/records", {"gateway": "0123456789abcdef", "records": records}, GATEWAYS)
