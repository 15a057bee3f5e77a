"""Three replicas that are processes, under load: one is killed, one stands still, both come back, and clients notice nothing.

A round takes some 20 s: 50 requests a second, half of them streams. No answer is an error but of what already ran on the
killed replica, and the requests that the metrics count are those that were made. `replicas.py ROUNDS` does several. Starts
`keymeter` from the path in KEYMETER, else from target/debug. The last line is `N passed, M failed`; the exit code is 1 if any
failed.
"""

import collections
import hashlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]
KEYMETER = os.environ.get("KEYMETER") or str(ROOT / "target" / "debug" / "keymeter")
SECRET = "sk-replicas"
RATE, PATIENCE = 50, 20
INTERVAL, UP_AFTER = 0.5, 2

# A replica: streams four words over 80 ms, or answers them at once, and is well as long as it runs.
REPLICA = r'''
import http.server, json, sys, time
class Replica(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(b"{}")
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
        if not asked.get("stream"):
            return self.answer(json.dumps({"choices": [{"index": 0, "message": {"content": "one two three four"}}], "usage": usage}).encode())
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for word in ("one", "two", "three", "four"):
            self.event({"choices": [{"index": 0, "delta": {"content": word}}]})
            time.sleep(0.02)
        self.event({"choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")
    def event(self, said):
        self.chunk(f"data: {json.dumps(said)}\n\n".encode())
    def chunk(self, piece):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.flush()
    def answer(self, text):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 200
    daemon_threads = True
    def handle_error(self, *_):
        pass
Server(("127.0.0.1", int(sys.argv[1])), Replica).serve_forever()
'''


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, holds):
    deadline = time.monotonic() + PATIENCE
    while not (result := holds()):
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.02)
    return result


class Fleet:
    """Replicas by name, each on a port of its own."""

    def __init__(self, names):
        self.ports = {name: free_port() for name in names}
        self.processes = {}
        for name in names:
            self.start(name)

    def start(self, name):
        self.processes[name] = subprocess.Popen([sys.executable, "-c", REPLICA, str(self.ports[name])])

    def signal(self, name, number):
        self.processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self.processes[name].wait()

    def stop(self):
        for process in self.processes.values():
            process.kill()


class Gateway:
    def __init__(self, directory, fleet):
        replicas = ", ".join(f'{{name: {name}, url: "http://127.0.0.1:{port}"}}' for name, port in fleet.ports.items())
        (directory / "keymeter.yaml").write_text(f"""
server: {{listen: ["127.0.0.1:0"]}}
admin: {{listen: "127.0.0.1:0"}}
limits: {{requests_per_minute: unlimited, tokens_per_minute: unlimited, concurrent_requests: unlimited}}
keys: {{yaml: {{path: keys.yaml}}}}
upstreams:
  - name: fleet
    replicas: [{replicas}]
    health: {{path: /health, interval: {int(INTERVAL * 1000)}ms, timeout: 500ms, down_after: 2, up_after: {UP_AFTER}}}
""")
        digest = hashlib.sha256(SECRET.encode()).hexdigest()
        (directory / "keys.yaml").write_text(f'keys: [{{id: key_a, name: A key, hash: "sha256:{digest}"}}]\n')
        log = directory / "log"
        self.process = subprocess.Popen([KEYMETER, "serve", "--config", str(directory / "keymeter.yaml")],
                                        stdout=subprocess.DEVNULL, stderr=log.open("w"))
        found = until("the gateway", lambda: re.search(r"listening on (\S+) .*admin address (\S+)", log.read_text()))
        self.address, self.admin = found[1], f"http://{found[2]}"

    def told(self, path):
        with urllib.request.urlopen(self.admin + path, timeout=PATIENCE) as answer:
            return answer.read().decode()

    def state(self, name):
        replicas = json.loads(self.told("/-/upstreams"))["upstreams"][0]["replicas"]
        return next(replica["state"] for replica in replicas if replica["name"] == name)

    def counted(self):
        lines = self.told("/metrics").splitlines()
        return sum(int(line.rpartition(" ")[2]) for line in lines if line.startswith("keymeter_requests_total{"))


class Load:
    """Requests at a steady rate, each in a thread of its own, and what came of them."""

    def __init__(self, address):
        self.address, self.results, self.threads, self.goes_on = address, [], [], True
        self.runner = threading.Thread(target=self.run)
        self.runner.start()

    def run(self):
        start, number = time.monotonic(), 0
        while self.goes_on:
            thread = threading.Thread(target=self.one, args=(number % 2 == 0,))
            thread.start()
            self.threads.append(thread)
            number += 1
            time.sleep(max(0, start + number / RATE - time.monotonic()))

    def one(self, stream):
        began = time.monotonic()
        first = None
        try:
            connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
            body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi!"}]})
            connection.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {SECRET}"})
            answer = connection.getresponse()
            first = time.monotonic() - began
            text = answer.read()
            is_whole = b"[DONE]" in text if stream else b"three" in text
            result = "whole" if answer.status == 200 and is_whole else f"{answer.status}, {'cut' if answer.status == 200 else text[:80]}"
        except (OSError, http.client.HTTPException) as error:
            result = f"failed: {error!r}"
        self.results.append((began, first, result))

    def end(self):
        self.goes_on = False
        self.runner.join()
        for thread in self.threads:
            thread.join()

    def slowest(self, since, until):
        """The 99th percentile of the time to the first byte, in seconds."""
        times = [first for began, first, _ in self.results if since <= began < until and first]
        return statistics.quantiles(times, n=100)[98] if len(times) > 1 else 0.0


def one_round(number, check):
    with tempfile.TemporaryDirectory() as directory:
        fleet = Fleet(["one", "two", "three"])
        for port in fleet.ports.values():
            until("a replica", lambda port=port: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        gateway = Gateway(pathlib.Path(directory), fleet)
        try:
            load = Load(gateway.address)
            began = time.monotonic()
            time.sleep(3)
            killed = time.monotonic()
            fleet.signal("one", signal.SIGKILL)
            time.sleep(2)
            fleet.signal("two", signal.SIGSTOP)
            until("one to be down", lambda: gateway.state("one") == "down")
            until("two to be down", lambda: gateway.state("two") == "down")
            verdict = time.monotonic()
            time.sleep(3)
            calm = time.monotonic()
            fleet.start("one")
            until("a replica", lambda: socket.socket().connect_ex(("127.0.0.1", fleet.ports["one"])) == 0)
            back = time.monotonic()
            fleet.signal("two", signal.SIGCONT)
            for name in ["one", "two"]:
                until(f"{name} to be up", lambda: gateway.state(name) == "up")
            took = time.monotonic() - back
            time.sleep(1)
            load.end()
            results = collections.Counter(result for _, _, result in load.results)
            # What streamed on the killed replica at that moment is cut, and told so.
            cut = [began for began, _, result in load.results if "cut" in result]
            check(f"round {number}: nothing fails but what ran on the killed replica",
                  set(results) <= {"whole", "200, cut"} and all(killed - 1 < began <= killed + 0.2 for began in cut), results)
            quiet, after = load.slowest(began, killed), load.slowest(verdict + 1, calm)
            check(f"round {number}: a second after the verdict the first byte comes as soon as before", after < quiet + 0.5,
                  f"{after:.3f} s after {quiet:.3f} s")
            check(f"round {number}: both serve again in time", took <= INTERVAL * UP_AFTER + 1 + 1, f"{took:.2f} s")
            until("all requests to be counted", lambda: gateway.counted() >= len(load.results))
            check(f"round {number}: each request counts once", gateway.counted() == len(load.results),
                  (gateway.counted(), len(load.results)))
        finally:
            gateway.process.kill()
            fleet.stop()


def main():
    passed, failed = [], []

    def check(name, holds, details=""):
        (passed if holds else failed).append(name)
        print(f"{'ok  ' if holds else 'FAIL'} {name}{'' if holds else f': {details}'}", flush=True)

    for number in range(1, 1 + int(sys.argv[1] if len(sys.argv) > 1 else 1)):
        one_round(number, check)
    print(f"{len(passed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
