"""A working day in a quarter of an hour: what the dashboard is pictured with.

Two gateways that share limits, two upstreams, four teams and a trial, whose keys are used more before and after noon than at
it. Once an upstream fails for a while, once Redis stops answering, a burst goes over its limit, a key is disabled and a
balance is used up.
"""

import concurrent.futures
import contextlib
import http.client
import json
import math
import pathlib
import random
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import scene  # noqa: E402

WORKERS = 120
# Of each model: to the first token and from token to token (seconds), and tokens of the prompt, cached ones, of the answer, of
# reasoning, on average.
MODELS = {
    "llama-3.1-8b-instruct": (0.06, 0.008, 900, 400, 70, 0),
    "qwen3-32b": (0.18, 0.016, 1800, 700, 110, 60),
    "gpt-4o-mini": (0.35, 0.011, 2400, 1200, 80, 0),
    "in-house-7b": (0.08, 0.010, 500, 0, 50, 0),
}
LLAMA, QWEN, GPT, OWN = MODELS
# Of each key: its team, its models, its requests a second at the busiest, which of them are streams, how often the client
# hangs up, and its limits.
KEYS = {
    "Search": ("search", (LLAMA, LLAMA, GPT), 5, 0.1, 0, {}),
    "Search staging": ("search", (LLAMA,), 0.5, 0.1, 0, {}),
    "Support chat": ("support", (QWEN, GPT), 3, 1, 0.06, {}),
    "Ticket triage": ("support", (QWEN,), 1.5, 0, 0, {}),
    "Mobile app": ("mobile", (GPT,), 4, 1, 0.03, {}),
    "Mobile beta": ("mobile", (GPT, QWEN), 0.8, 1, 0.05, {"concurrent_requests": 2}),
    "Notebooks": ("research", (QWEN, LLAMA, OWN), 0.7, 0.5, 0, {"tokens_per_minute": 40000}),
    "Evaluation": ("research", (LLAMA, QWEN), 2, 0, 0, {"requests_per_minute": 90}),
    "Old importer": ("research", (LLAMA,), 0.6, 0, 0, {}),
    "Nightly report": (None, (QWEN,), 0.4, 0, 0, {}),
    "Trial of Acme": ("trial", (GPT, LLAMA), 0.8, 0.5, 0, {}),
}
CREDITS = {"search": "500", "support": "500", "mobile": "500", "research": "500", "trial": "0.1"}


def about(mean):
    """A number that is mostly near the mean, and sometimes several times that."""
    return mean * random.lognormvariate(-0.15, 0.55)


class Model(scene.Inference):
    """Answers as an inference server under some load would; while `fails` is set, one model does not."""

    fails = threading.Event()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model = body["model"]
        first, each, *counts = MODELS[model]
        if model == GPT and self.fails.is_set() and random.random() < 0.5:
            return self.whole(503, {"error": {"message": "overloaded", "type": "server_error", "param": None, "code": None}})
        prompt, cached, output, reasoning = (round(about(count)) for count in counts)
        cached, reasoning = min(cached, prompt), min(reasoning, output)
        self.USAGE = {
            "prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
        time.sleep(about(first))
        with contextlib.suppress(OSError):
            self.answer(model, output, each, body.get("stream"))

    def answer(self, model, output, each, is_stream):
        if is_stream:
            return self.stream(model, max(output // 4, 1), 4 * each)
        time.sleep(output * each)
        choice = {"index": 0, "message": {"role": "assistant", "content": "word " * output}, "finish_reason": "stop"}
        common = {"id": "c", "object": "chat.completion", "created": 0, "model": model}
        self.whole(200, {**common, "choices": [choice], "usage": self.USAGE})


class Day(scene.World):
    inference = Model

    def start(self, processes, directory):
        self.gateways = []
        self.admins = []
        for number, config in enumerate((self.config, self.second_config(directory))):
            self.config = config
            super().start(processes, config.parent)
            self.gateways.append(self.port)
            self.admins.append(self.admin)

    def second_config(self, directory):
        """The first gateway's process has the control plane, the second one only asks it."""
        (directory / "second").mkdir()
        config = directory / "second" / "keymeter.yaml"
        lines = self.config.read_text().splitlines(keepends=True)
        config.write_text("".join(line for line in lines if not line.startswith("control:")))
        return config

    @staticmethod
    def configuration(upstream, control, redis):
        source = f"http://127.0.0.1:{control}/v1"
        return f"""
server: {{listen: ["127.0.0.1:0"]}}
admin: {{listen: "127.0.0.1:0"}}
upstreams:
  - {{name: openai, url: "http://127.0.0.1:{upstream}", models: ["gpt-*"]}}
  - {{name: vllm, url: "http://127.0.0.1:{upstream}"}}
keys:
  http:
    url: "{source}/keys/{{hash}}"
    events_url: "{source}/keys/events"
    usage_url: "{source}/usage/records"
    token: {scene.GATEWAYS}
key_cache: {{ttl: 20s, unknown_ttl: 5s}}
control: {{listen: "127.0.0.1:{control}", token: {scene.OPERATOR}, gateway_token: {scene.GATEWAYS}}}
limits:
  requests_per_minute: 1200
  tokens_per_minute: 2000000
  concurrent_requests: 100
  shared: {{url: "redis://127.0.0.1:{redis}"}}
models:
  - {{name: "llama-3*", input: "0.20", cached_input: "0.05", output: "0.60", max_output_tokens: 8192}}
  - {{name: "qwen3*", input: "0.40", cached_input: "0.10", output: "1.20", max_output_tokens: 8192}}
  - {{name: gpt-4o-mini, input: "0.15", cached_input: "0.075", output: "0.60", max_output_tokens: 8192}}
"""

    def make_keys(self):
        self.keys = {}
        for team, usd in CREDITS.items():
            self.operator("POST", "users", {"id": f"owner_{team}", "name": f"Owner of {team}"})
            self.operator("POST", "teams", {"id": team, "name": team.title(), "owner": f"owner_{team}"})
            self.operator("POST", f"wallets/{team}/credits", {"usd": usd, "idempotency_key": team})
        for name, (team, *_, limits) in KEYS.items():
            self.make_key(name, team, **({"limits": limits} if limits else {}))

    def open(self, secret, model, **more):
        self.port = random.choice(self.gateways)
        return super().open(secret, model, **more)

    def pass_by(self, seconds):
        """A day of so many seconds; says how many requests it had."""
        self.begin, self.seconds = time.time(), seconds
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as workers:
            threads = [threading.Thread(target=self.use, args=(name, workers)) for name in KEYS]
            threads += [threading.Thread(target=step) for step in (self.strangers, self.operate, self.trouble)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def passed(self):
        """How much of the day is over, from 0 to 1."""
        return (time.time() - self.begin) / self.seconds

    def wait_for(self, part):
        time.sleep(max(0, self.begin + part * self.seconds - time.time()))

    def busy(self, name):
        """How much of its most a key is used now: a morning, less at noon, and an afternoon that is not over at the end."""
        now = self.passed()
        if name == "Evaluation":
            return 1.5 if 0.15 < now < 0.25 or 0.6 < now < 0.75 else 0.05
        shift = 0.1 * (list(KEYS).index(name) % 3 - 1)
        morning, afternoon = ((now - 0.35 - shift / 2) / 0.15) ** 2, ((now - 0.85 - shift) / 0.19) ** 2
        humps = math.exp(-morning) + 0.9 * math.exp(-afternoon)
        return 0.12 + 0.88 * humps

    def use(self, name, workers):
        _, models, most, streams, aborts, _ = KEYS[name]
        while self.passed() < 1:
            time.sleep(random.expovariate(most * 1.5))
            if random.random() * 1.5 > self.busy(name):
                continue
            more = {"stream": True} if random.random() < streams else {}
            act = self.leave if more and random.random() < aborts else self.ask
            workers.submit(act, name, random.choice(models), **more)

    def leave(self, name, model, **more):
        with contextlib.suppress(http.client.HTTPException, OSError):
            connection, response = self.open(self.keys[name].secret, model, **more)
            response.read(300)
            response.close()
            connection.close()

    def strangers(self):
        """Callers without a key, or with one that is none."""
        while self.passed() < 1:
            time.sleep(random.expovariate(0.3))
            self.ask(random.choice(("", f"sk-{random.randrange(10**9)}", "sk-forgotten")), LLAMA)

    def operate(self):
        """A key is changed now and then; one is switched off for good."""
        for part in range(1, 20):
            self.wait_for(part / 20)
            name = random.choice(("Search staging", "Notebooks", "Mobile beta"))
            limits = {**KEYS[name][-1], "requests_per_minute": 600 + part}
            self.operator("PATCH", f"keys/{self.keys[name].id}", {"limits": limits})
            if part == 11:
                self.operator("PATCH", f"keys/{self.keys['Old importer'].id}", {"enabled": False})

    def trouble(self):
        self.wait_for(0.4)
        Model.fails.set()
        self.wait_for(0.45)
        Model.fails.clear()
        self.wait_for(0.55)
        self.redis.send_signal(signal.SIGSTOP)
        self.wait_for(0.57)
        self.redis.send_signal(signal.SIGCONT)
