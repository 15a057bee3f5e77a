"""What the clients meet: a gateway with three keys for each of them, before the scripted upstream."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
import urllib.request

import upstream

ROOT = pathlib.Path(__file__).parents[3]
PATIENCE = 20
KINDS = ["input", "cached_input", "cache_write", "output"]
# A key without limits, one for a single request a minute, one for a single request at a time.
LIMITS = {"free": "{}", "limited": "{requests_per_minute: 1}", "single": "{concurrent_requests: 1}"}


class Scene:
    """A running gateway. It ends with the block."""

    def __init__(self, names):
        self.names = names
        self.upstream = upstream.Upstream()
        self.directory = tempfile.TemporaryDirectory()

    def __enter__(self):
        path = pathlib.Path(self.directory.name)
        (path / "keymeter.yaml").write_text(self.configuration())
        (path / "keys.yaml").write_text(self.keys())
        command = [program(), "serve", "--config", str(path / "keymeter.yaml")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = []
        for line in self.process.stderr:
            said.append(line)
            if found := re.search(r"listening on (\S+) .*admin address (\S+)", line):
                self.url, self.metrics_url = f"http://{found[1]}", f"http://{found[2]}/metrics"
                # What follows is read by nobody: without a reader it would fill its pipe.
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return self
        sys.exit("the gateway did not start: it said\n" + "".join(said))

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.upstream.shutdown()
        self.directory.cleanup()

    def configuration(self):
        models = ", ".join(f'"{name}"' for name in [*upstream.MODELS, "endless"])
        return f"""
server: {{listen: ["127.0.0.1:0"]}}
admin: {{listen: "127.0.0.1:0"}}
keys: {{yaml: {{path: keys.yaml}}}}
upstreams:
  - {{name: scripted, url: "{self.upstream.url}", apis: [openai, anthropic, ollama, gemini], models: [{models}]}}
"""

    def keys(self):
        lines = ["keys:"]
        for name in self.names:
            for kind, limits in LIMITS.items():
                digest = hashlib.sha256(secret(name, kind).encode()).hexdigest()
                lines.append(f'  - {{id: key_{name}_{kind}, name: A key, hash: "sha256:{digest}", limits: {limits}}}')
        return "\n".join(lines) + "\n"


class Access:
    """What a client has of the scene: an address, its three secrets, and one that is wrong."""

    def __init__(self, scene, name):
        self.scene, self.name, self.url = scene, name, scene.url
        self.free, self.limited, self.single = (secret(name, kind) for kind in LIMITS)
        self.wrong = secret(name, "wrong")

    @contextlib.contextmanager
    def counted(self):
        """Holds what the metrics have grown by in the block against what the upstream stated. What is yielded has that afterwards."""
        usage, metered, stated = types.SimpleNamespace(), self.metered(), self.stated()
        yield usage
        for kind, value in grown(stated, self.stated()).items():
            setattr(usage, kind, value)
        assert usage.input > 0, "the upstream has stated nothing"
        grow = lambda: grown(metered, self.metered()) == vars(usage)
        until(grow, lambda: f"the upstream stated {vars(usage)}, and the metrics grew by {grown(metered, self.metered())}")

    @contextlib.contextmanager
    def uncounted(self):
        """The metrics do not grow in the block."""
        before = self.metered()
        yield
        assert self.metered() == before, grown(before, self.metered())

    @contextlib.contextmanager
    def retried(self):
        """The only place of the key `single` is taken until a request has been refused, which is then told to wait a second."""
        refusals = f'keymeter_rejections_total{{key_id="key_{self.name}_single"'
        before = self.metric(refusals)

        def free():
            until(lambda: self.metric(refusals) > before, lambda: "no request was refused")
            holding.close()

        holding = self.endless_stream()
        waiting, began = threading.Thread(target=free), time.monotonic()
        waiting.start()
        try:
            yield
        finally:
            took = time.monotonic() - began
            waiting.join()
        assert self.metric(refusals) == before + 1, "it did not wait for as long as it was told to"
        assert took >= 1, f"it tried again within {took:.3f} s"

    def endless_stream(self):
        body = json.dumps({"model": "endless", "stream": True, "messages": [{"role": "user", "content": "Go on."}]})
        headers = {"authorization": f"Bearer {self.single}", "content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", body.encode(), headers)
        response = urllib.request.urlopen(request, timeout=PATIENCE)
        response.readline()
        return response

    def stated(self):
        return {kind: self.scene.upstream.stated[kind] for kind in KINDS}

    def metered(self):
        key = f'keymeter_tokens_total{{key_id="key_{self.name}_free",'
        return {kind: self.metric(key, f'type="{kind}"') for kind in KINDS}

    def metric(self, *parts):
        """The sum of the series that have these parts."""
        with urllib.request.urlopen(self.scene.metrics_url, timeout=PATIENCE) as response:
            lines = response.read().decode().splitlines()
        return sum(int(line.rpartition(" ")[2]) for line in lines if all(part in line for part in parts))


def secret(name, kind):
    return f"{upstream.SECRETS}{name}-{kind}"


def grown(before, after):
    return {kind: after[kind] - before[kind] for kind in KINDS}


def until(condition, complaint):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(complaint())
        time.sleep(0.01)


def raised(kind, act):
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def waits(headers):
    """Whether a refusal says when its window has room again."""
    return 1 <= int(headers["retry-after"]) <= 60


def program():
    built = ROOT / "target" / "debug" / "keymeter"
    return os.environ.get("KEYMETER") or shutil.which("keymeter") or str(built)
