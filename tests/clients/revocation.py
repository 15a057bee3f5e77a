"""Revocation with real processes: a key service, a gateway, an inference server, and 200 streams on 100 keys.

One key is disabled at the service: its streams are cut and its next request is refused, and the others go on. Then the
service is killed, and everything known is still served. Starts `keymeter` and the example `key_source`, from the paths in
KEYMETER and KEY_SOURCE, else from target/debug. The last line is `N passed, M failed`; the exit code is 1 if any failed.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]
KEYS, STREAMS_EACH = 100, 2
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
PATIENCE = 20


def program(variable, name):
    return os.environ.get(variable) or str(ROOT / "target" / "debug" / name)


def secret(number):
    return f"sk-revocation-{number:03}"


def write_keys(path, disabled=()):
    lines = ["keys:"]
    for number in range(KEYS):
        digest = hashlib.sha256(secret(number).encode()).hexdigest()
        enabled = "false" if number in disabled else "true"
        lines.append(f'  - {{id: key_{number}, name: Key {number}, hash: "sha256:{digest}", enabled: {enabled}}}')
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    new.rename(path)


async def inference_server():
    """Streams a word every 50 ms until whoever listens is gone."""

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(re.search(rb"content-length: (\d+)", head.lower())[1]))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                while not reader.at_eof():
                    writer.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
                    await writer.drain()
                    await asyncio.sleep(0.05)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    return server, server.sockets[0].getsockname()[1]


class Stream:
    """A running stream: when it last had a word, and how it ended."""

    def __init__(self, number):
        self.number, self.words, self.ended, self.text = number, 0, None, b""

    async def run(self, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(secret(self.number)))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.text = (self.text + data)[-2000:]
                self.words += data.count(b"word")
                if b'"error"' in data:
                    break
        self.ended = time.perf_counter()
        writer.close()


def request(key):
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "Go on."}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def status(port, key):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(key))
    line = await asyncio.wait_for(reader.readline(), PATIENCE)
    writer.close()
    return int(line.split()[1])


def started(command, pattern, stream, **options):
    process = subprocess.Popen(command, text=True, **{stream: subprocess.PIPE}, **options)
    for line in getattr(process, stream):
        if found := re.search(pattern, line):
            return process, found
    sys.exit(f"{command[0]} did not start")


def metric(port, series):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE).read().decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(series))


async def until(what, holds):
    start = time.perf_counter()
    while not holds():
        if time.perf_counter() - start > PATIENCE:
            raise AssertionError(f"waited in vain for {what}")
        await asyncio.sleep(0.005)


async def scene(directory, check):
    server, upstream = await inference_server()
    keys = directory / "keys.yaml"
    write_keys(keys)
    environment = {**os.environ, "KEYMETER_SOURCE_TOKEN": "source-token"}
    command = [program("KEY_SOURCE", "examples/key_source"), "--listen", "127.0.0.1:0", "--keys", str(keys)]
    source, found = started(command, r"listening on \S+:(\d+)", "stdout", env=environment)
    config = directory / "keymeter.yaml"
    url = f"http://127.0.0.1:{found[1]}/v1/keys"
    config.write_text(
        f"""
server: {{listen: ["127.0.0.1:0"]}}
admin: {{listen: "127.0.0.1:0"}}
upstreams: [{{name: scripted, url: "http://127.0.0.1:{upstream}"}}]
keys: {{http: {{url: "{url}/{{hash}}", events_url: "{url}/events", token: source-token}}}}
"""
    )
    command = [program("KEYMETER", "keymeter"), "serve", "--config", str(config)]
    pattern = r"listening on \S+:(\d+).*admin address \S+:(\d+)"
    gateway, found = started(command, pattern, "stderr", stdout=subprocess.DEVNULL)
    port, admin = int(found[1]), int(found[2])
    try:
        await until("the events", lambda: metric(admin, "keymeter_key_events_connected") == 1)
        streams = [Stream(number) for number in range(KEYS) for _ in range(STREAMS_EACH)]
        tasks = [asyncio.create_task(stream.run(port)) for stream in streams]
        await until("all streams", lambda: all(stream.words > 2 for stream in streams))
        check("200 streams run on 100 keys", metric(admin, "keymeter_requests_in_flight") == len(streams))

        write_keys(keys, disabled={7})
        told = time.perf_counter()
        revoked = [stream for stream in streams if stream.number == 7]
        await until("the cut", lambda: all(stream.ended for stream in revoked))
        lag = max(stream.ended for stream in revoked) - told
        print(f"the streams of the disabled key ended {lag * 1000:.0f} ms after its file was written at the service")
        check("they end with an error event", all(b"api_key_disabled" in stream.text for stream in revoked))
        check("the next request is refused", await status(port, secret(7)) == 401)
        before = [stream.words for stream in streams]
        await asyncio.sleep(0.5)
        others = [(stream, words) for stream, words in zip(streams, before) if stream.number != 7]
        check("the others go on", all(stream.ended is None and stream.words > words for stream, words in others))
        check("two are fewer", metric(admin, "keymeter_requests_in_flight") == len(streams) - STREAMS_EACH)

        source.kill()
        await until("the loss of the events", lambda: metric(admin, "keymeter_key_events_connected") == 0)
        answers = await asyncio.gather(*(status(port, secret(number)) for number in range(KEYS)))
        expected = [401 if number == 7 else 200 for number in range(KEYS)]
        check("with the service gone, all that is known is served", answers == expected)
        check("what is not known gets 503", await status(port, "sk-never-seen") == 503)
        check("no stream was lost", all(stream.ended is None for stream, _ in others))
        for task in tasks:
            task.cancel()
    finally:
        gateway.kill()
        source.kill()
        server.close()


def main():
    passed, failed = [], []

    def check(name, holds):
        (passed if holds else failed).append(name)
        print(f"{'ok  ' if holds else 'FAIL'} {name}")

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(scene(pathlib.Path(directory), check))
    print(f"{len(passed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
