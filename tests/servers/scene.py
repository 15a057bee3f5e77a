"""Real servers, each behind a recorder, a gateway before them all, and what each of them says of a request."""

import contextlib
import hashlib
import json
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request

import anthropic
import openai

import model
from wire import PATIENCE, SECRET, Recorder

HERE = pathlib.Path(__file__).parent
FIELDS = {"input": "input_tokens", "cached_input": "cached_input_tokens", "output": "output_tokens"}


def until(condition, what):
    """Waits until the condition holds, and gives back what it said."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)
    return found


def read(url):
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        return response.read().decode()


class Server:
    """An inference server in a process of its own, which says where it listens in words that `says` matches."""

    def __init__(self, name, command, says, directory):
        self.name, log = name, directory / f"{name}.log"
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, cwd=HERE
            )
        try:
            self.url = until(lambda: self.find(says, log), f"{name} says where it listens")
        except AssertionError:
            self.stop()
            sys.exit(f"{name} did not start: it said\n{log.read_text(errors='replace')[-4000:]}")

    def find(self, says, log):
        assert self.process.poll() is None
        found = re.search(says, log.read_text(errors="replace"))
        return found and found[1]

    def stop(self):
        self.process.kill()
        self.process.wait(PATIENCE)


class Gateway:
    """`keymeter serve` before these upstreams: by the name of the model a URL, or those of several replicas."""

    def __init__(self, upstreams, directory):
        digest = hashlib.sha256(SECRET.encode()).hexdigest()
        (directory / "keys.yaml").write_text(f'keys:\n  - {{id: key_test, name: A key, hash: "sha256:{digest}"}}\n')
        lines = [
            f'  - {{name: {name}, {self.servers(to)}, models: ["{name}"], apis: [openai, anthropic]}}\n'
            for name, to in upstreams.items()
        ]
        (directory / "keymeter.yaml").write_text(
            'server: {listen: ["127.0.0.1:0"]}\nadmin: {listen: "127.0.0.1:0"}\nkeys: {yaml: {path: keys.yaml}}\n'
            'models: [{name: "tiny*", input: "1", cached_input: "0.5", output: "2"}]\nupstreams:\n' + "".join(lines)
        )
        command = [program(), "serve", "--config", str(directory / "keymeter.yaml")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        self.url, self.metrics_url = self.introduced()
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        threading.Thread(target=self.read_log, daemon=True).start()

    @staticmethod
    def servers(to):
        if isinstance(to, str):
            return f'url: "{to}"'
        replicas = json.dumps([{"url": url} for url in to])
        return f"replicas: {replicas}, health: {{path: /health, interval: 500ms}}"

    def introduced(self):
        said = []
        for line in self.process.stderr:
            said.append(line)
            if found := re.search(r"listening on (\S+) .*admin address (\S+)", line):
                return f"http://{found[1]}", f"http://{found[2]}/metrics"
        sys.exit("the gateway did not start: it said\n" + "".join(said))

    def read_log(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def forget(self):
        """Leaves out the log's lines that a failed check has not read."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.lines.get(timeout=1)

    def counted(self):
        """The key's tokens by type."""
        tokens = r'keymeter_tokens_total{key_id="key_test",model="tiny\*",type="(\w+)"} (\d+)'
        counted = {kind: int(count) for kind, count in re.findall(tokens, read(self.metrics_url))}
        return {kind: counted.get(kind, 0) for kind in FIELDS}

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


def program():
    built = HERE.parents[1] / "target" / "debug" / "keymeter"
    return os.environ.get("KEYMETER") or shutil.which("keymeter") or str(built)


class Scene:
    """All of it."""

    def __init__(self, directory):
        self.directory = directory
        path = self.model = directory / "tiny.gguf"
        model.write(path)
        self.servers = {}
        # What has started is stopped again, should the rest not start.
        with contextlib.ExitStack() as started:
            for name, what in [("tiny", "text"), ("tiny-embedding", "embeddings"), ("tiny-rerank", "rerank")]:
                command = ["serve_llama_cpp.py", str(path), name, what]
                self.start(started, Server(name, command, r"listens at (\S+)", directory))
            python = ["--model", str(path), "--model_alias", "tiny-python", "--host", "127.0.0.1", "--port", "0"]
            command = ["-m", "llama_cpp.server", *python, "--n_ctx", "4096", "--embedding", "true"]
            self.start(started, Server("tiny-python", command, r"Uvicorn running on (\S+)", directory))
            self.recorders = {name: Recorder(server.url) for name, server in self.servers.items()}
            self.gateway = Gateway({name: recorder.url for name, recorder in self.recorders.items()}, directory)
            started.callback(self.gateway.stop)
            self.started = started.pop_all()

    def start(self, started, server):
        self.servers[server.name] = server
        started.callback(server.stop)

    def openai(self):
        return openai.OpenAI(base_url=f"{self.gateway.url}/v1", api_key=SECRET, timeout=PATIENCE, max_retries=0)

    def anthropic(self):
        return anthropic.Anthropic(base_url=self.gateway.url, api_key=SECRET, timeout=PATIENCE, max_retries=0)

    def stop(self):
        self.started.close()


class Watch:
    """What requests to one server, through the gateway, make the log, the metrics and the server itself say."""

    def __init__(self, scene, name="tiny"):
        self.scene, self.url, self.recorder = scene, scene.servers[name].url, scene.recorders[name]
        self.has_counter = name != "tiny-python"
        self.counted_before, self.generated_before = scene.gateway.counted(), self.counter()

    def counter(self):
        """The tokens that llama.cpp generated since it was started, by its own counter."""
        if not self.has_counter:
            return 0
        return int(re.search(r"^llamacpp:tokens_predicted_total (\d+)", read(f"{self.url}/metrics"), re.MULTILINE)[1])

    def generated(self):
        return self.counter() - self.generated_before

    def sent(self):
        return self.recorder.answer()

    def settled(self, requests=1):
        """The log's lines, with which the metrics agree."""
        lines = [self.scene.gateway.lines.get(timeout=PATIENCE) for _ in range(requests)]
        expected = {
            kind: self.counted_before[kind] + sum(line[field] for line in lines) for kind, field in FIELDS.items()
        }
        until(lambda: self.scene.gateway.counted() == expected, f"the metrics show {expected}")
        for line in lines:
            micro_dollars = line["input_tokens"] + line["cached_input_tokens"] / 2 + line["output_tokens"] * 2
            assert abs(float(line["cost_usd"]) * 1e6 - micro_dollars) < 0.01, line
        return lines if requests > 1 else lines[0]

    def holds(self, input, cached, output, source="upstream"):
        """This was counted, and llama.cpp's own counter agrees."""
        line = self.settled()
        counted = [*(line[field] for field in FIELDS.values()), line["usage_source"]]
        assert counted == [input, cached, output, source], (line, [input, cached, output, source])
        if self.has_counter:
            until(lambda: self.generated() == output, f"the server has generated {output} tokens")
        return line
