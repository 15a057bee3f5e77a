"""nginx and HAProxy in front of the gateway, as Debian brings them: silent streams, HTTP/1.0 and bodies of unknown length.

A stream is silent for longer than either proxy waits for a read (nginx 60 s, HAProxy 50 s). With `heartbeat: 15s` it comes
whole through both; without, both cut it, which shows that they would. The waits run beside one another, so that all of it
takes as long as one. Starts `keymeter` from the path in KEYMETER, else from target/debug. The last line is
`N passed, M failed`; the exit code is 1 if any failed.
"""

import hashlib
import http.client
import http.server
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).parents[2]
KEYMETER = os.environ.get("KEYMETER") or str(ROOT / "target" / "debug" / "keymeter")
SECRET = "sk-proxies"
SILENCE, PATIENCE = 90, 150
BEATS = {"with": "15s", "without": "off"}
CHAT = "/v1/chat/completions"
# Larger than what Pingora replays, and than what a proxy buffers of a body.
BODY_BYTES, PIECE = 5_000_000, 50_000

# What is not written is nginx's default: HTTP/1.0 towards the gateway, buffered answers, and 60 s for a read.
NGINX = """
{user}
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 64m;
    server {{ listen 127.0.0.1:{nginx}; location / {{ proxy_pass http://{gateway}; }} }}
    server {{
        listen 127.0.0.1:{nginx_unbuffered};
        location / {{
            proxy_pass http://{gateway};
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
    }}
}}
"""
# The section `defaults` is that of Debian's haproxy.cfg.
HAPROXY = """
defaults
    mode http
    option dontlognull
    timeout connect 5000
    timeout client 50000
    timeout server 50000
frontend all
    bind 127.0.0.1:{haproxy}
    default_backend gateway
backend gateway
    server one {gateway}
"""
PROXIES = ["nginx", "nginx_unbuffered", "haproxy"]


class Upstream(http.server.ThreadingHTTPServer):
    """Answers a chat with a stream that is silent in its middle for as long as its model is named, or with one answer."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.bodies = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        """What a proxy cuts cannot be written any more, and is looked at from the other side."""

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(hashlib.sha256(body).hexdigest())
        asked = json.loads(body)
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "one two"}
            return self.whole({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.event({"choices": [{"index": 0, "delta": {"content": "one "}}]})
        time.sleep(float(asked["model"]))
        self.event({"choices": [{"index": 0, "delta": {"content": "two"}, "finish_reason": "stop"}]})
        self.event({"choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def whole(self, answer):
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def event(self, said):
        self.chunk(f"data: {json.dumps(said)}\n\n".encode())

    def chunk(self, piece):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.flush()

    def log_message(self, *_):
        pass


class Gateway:
    """A running gateway, and the proxies in front of it."""

    def __init__(self, directory, upstream, heartbeat):
        self.directory = directory
        directory.mkdir()
        (directory / "keymeter.yaml").write_text(f"""
server: {{listen: ["127.0.0.1:0"], heartbeat: {heartbeat}}}
admin: {{listen: "127.0.0.1:0"}}
keys: {{yaml: {{path: keys.yaml}}}}
upstreams: [{{name: scripted, url: "http://{upstream.address}"}}]
""")
        digest = hashlib.sha256(SECRET.encode()).hexdigest()
        (directory / "keys.yaml").write_text(f'keys: [{{id: key_a, name: A key, hash: "sha256:{digest}"}}]\n')
        command = [KEYMETER, "serve", "--config", str(directory / "keymeter.yaml")]
        log = (directory / "gateway.log").open("w")
        self.processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)]
        self.address = until("the gateway", self.listening)
        self.ports = {name: free_port() for name in PROXIES}
        self.start("nginx", NGINX, ["-e", str(directory / "nginx.log"), "-p", str(directory), "-c"])
        self.start("haproxy", HAPROXY, ["-q", "-db", "-f"])
        for port in self.ports.values():
            until(f"the proxy on port {port}", lambda port=port: takes_connections(port))

    def listening(self):
        found = re.search(r"listening on (\S+)", (self.directory / "gateway.log").read_text())
        return found and found[1]

    def start(self, program, text, flags):
        path = self.directory / f"{program}.conf"
        # nginx of a superuser works as somebody else, who may not write into this directory.
        user = "user root;" if os.getuid() == 0 else ""
        path.write_text(text.format(directory=self.directory, gateway=self.address, user=user, **self.ports))
        self.processes.append(subprocess.Popen([program, *flags, str(path)]))

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(PATIENCE)

    def connect(self, proxy):
        """`None`: to the gateway itself."""
        port = self.ports[proxy] if proxy else int(self.address.rpartition(":")[2])
        return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def takes_connections(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(what, holds):
    deadline = time.monotonic() + 30
    while not (result := holds()):
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.02)
    return result


def ask(gateway, proxy, body, secret=SECRET, chunked=False):
    """Status, headers and body of an answer, as far as it came. What is `chunked` is sent without its length."""
    connection = gateway.connect(proxy)
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    pieces = (body[at:at + PIECE] for at in range(0, len(body), PIECE))
    connection.request("POST", CHAT, pieces if chunked else body, headers, encode_chunked=chunked)
    answer = connection.getresponse()
    try:
        text, is_whole = answer.read(), True
    except http.client.IncompleteRead as error:
        text, is_whole = error.partial, False
    connection.close()
    return answer, text, is_whole


def chat(model, stream, content="Hi!"):
    body = {"model": str(model), "stream": stream, "messages": [{"role": "user", "content": content}]}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode()


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, holds, details=""):
        if holds:
            self.passed += 1
            print(f"ok      {what}", flush=True)
        else:
            self.failed += 1
            print(f"FAILED  {what} {details}", flush=True)


def silent_streams(gateways, results):
    """Every stream through every proxy, beside one another."""
    def one(name, proxy):
        answer, text, is_whole = ask(gateways[name], proxy, chat(SILENCE, True))
        results[name, proxy] = (answer.status, text, is_whole)

    threads = [threading.Thread(target=one, args=(name, proxy)) for name in gateways for proxy in [None, *PROXIES]]
    for thread in threads:
        thread.start()
    return threads


def check_silent_streams(checks, results):
    beat = b": keep-alive\n\n"
    _, direct, _ = results["without", None]
    checks.check("a stream of a gateway without heartbeats has none", direct.endswith(b"data: [DONE]\n\n") and beat not in direct)
    for proxy in [None, *PROXIES]:
        status, text, is_whole = results["with", proxy]
        said = text.replace(beat, b"")
        checks.check(f"{proxy or 'nothing'} in front: a stream that is silent for {SILENCE} s comes whole",
                     (status, is_whole, said) == (200, True, direct), (status, is_whole, text))
        checks.check(f"{proxy or 'nothing'} in front: signs of life come in the meantime", text.count(beat) >= SILENCE // 15 - 1, text)
    for proxy in PROXIES:
        _, text, _ = results["without", proxy]
        checks.check(f"{proxy} in front: without signs of life it is cut", not text.endswith(b"data: [DONE]\n\n"), text)


def check_bodies(checks, upstream, gateway):
    body = chat("m", False, "word " * (BODY_BYTES // 5))
    digest = hashlib.sha256(body).hexdigest()
    for proxy in PROXIES:
        for chunked in [False, True]:
            upstream.bodies.clear()
            answer, text, is_whole = ask(gateway, proxy, body, chunked=chunked)
            what = f"{proxy} in front: a body of {BODY_BYTES} bytes, {'in chunks' if chunked else 'of stated length'}"
            checks.check(f"{what}, arrives as it is", (answer.status, is_whole, upstream.bodies) == (200, True, [digest]), (answer.status, text[:200]))
            checks.check(f"{what}, is answered whole", b'"completion_tokens": 5' in text, text[:200])
        answer, text, _ = ask(gateway, proxy, chat("0", True))
        checks.check(f"{proxy} in front: a stream ends with its end", text.endswith(b"data: [DONE]\n\n") and answer.status == 200, text)


def check_refusals(checks, gateway):
    body = chat("m", False, "word " * (BODY_BYTES // 5))
    for proxy in PROXIES:
        for chunked in [False, True]:
            answer, text, _ = ask(gateway, proxy, body, "sk-wrong", chunked)
            what = f"{proxy} in front: the refusal of a large body, {'in chunks' if chunked else 'of stated length'}, is readable"
            checks.check(what, answer.status == 401 and b'"invalid_api_key"' in text, (answer.status, text[:300]))


def main():
    checks, upstream, results = Checks(), Upstream(), {}
    with tempfile.TemporaryDirectory() as directory:
        gateways = {name: Gateway(pathlib.Path(directory) / name, upstream, beat) for name, beat in BEATS.items()}
        try:
            waiting = silent_streams(gateways, results)
            # The upstream keeps all bodies, and the silent streams' are there by now.
            until("the silent streams", lambda: len(upstream.bodies) >= len(waiting))
            check_bodies(checks, upstream, gateways["with"])
            check_refusals(checks, gateways["with"])
            for thread in waiting:
                thread.join()
        finally:
            for gateway in gateways.values():
                gateway.stop()
    check_silent_streams(checks, results)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
