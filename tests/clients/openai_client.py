"""The official `openai` package against the demo: what its users see is what they would see of OpenAI.

Starts `keymeter demo` itself, from the path in KEYMETER, else from PATH, else from target/debug.
The last line is `N passed, M failed`; the exit code is 1 if any failed.
"""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
import urllib.request

import openai

MODEL = "qwen3-8b"
LABEL = "qwen3-*"
MESSAGES = [{"role": "user", "content": "How do tides work?"}]
PATIENCE = 20


class Demo:
    """A running demo, and what its introduction says."""

    def __init__(self):
        command = [program(), "demo", "--port", "0", "--admin-port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        introduction = self.read_introduction()
        self.key = re.search(r"API key +(sk-\w+)", introduction)[1]
        self.key_id = re.search(r"its id +(key_\w+)", introduction)[1]
        self.url = re.search(r"API +(http://\S+)", introduction)[1]
        self.metrics_url = re.search(r"metrics +(http://\S+)", introduction)[1]
        # What follows is the access log, which nobody reads here: without a reader it would fill its pipe.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def read_introduction(self):
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("The key may"):
                return "".join(lines)
        sys.exit("the demo did not start: it said\n" + "".join(lines))

    def client(self, **options):
        return openai.OpenAI(**{"base_url": self.url, "api_key": self.key, "timeout": PATIENCE, **options})

    def metric(self, series):
        with urllib.request.urlopen(self.metrics_url, timeout=PATIENCE) as response:
            for line in response.read().decode().splitlines():
                name, _, value = line.rpartition(" ")
                if name == series:
                    return float(value)
        return 0

    def tokens(self, kind, model=LABEL):
        return self.metric(f'keymeter_tokens_total{{key_id="{self.key_id}",model="{model}",type="{kind}"}}')

    def running(self):
        return self.metric(f'keymeter_requests_in_flight{{key_id="{self.key_id}"}}')

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


def program():
    built = pathlib.Path(__file__).parents[2] / "target" / "debug" / "keymeter"
    return os.environ.get("KEYMETER") or shutil.which("keymeter") or str(built)


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def counted(demo, model=LABEL):
    """Holds the caller's `usage` entry against what the metrics have grown by."""
    before = demo.tokens("input", model), demo.tokens("output", model)
    stated = {}
    yield stated
    usage = stated["usage"]
    expected = before[0] + usage.prompt_tokens, before[1] + getattr(usage, "completion_tokens", 0)
    grown = lambda: (demo.tokens("input", model), demo.tokens("output", model)) == expected
    until(grown, f"the metrics show {expected}")


def whole_completion(demo):
    with counted(demo) as stated:
        completion = demo.client().chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=12)
        stated["usage"] = completion.usage
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 12, completion.usage


def text_completion(demo):
    with counted(demo) as stated:
        completion = demo.client().completions.create(model=MODEL, prompt="Tides", max_tokens=5)
        stated["usage"] = completion.usage
    assert completion.choices[0].text


def stream_with_usage(demo):
    with counted(demo) as stated:
        options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 12}
        chunks = list(demo.client().chat.completions.create(model=MODEL, messages=MESSAGES, **options))
        stated["usage"] = chunks[-1].usage
    assert chunks[-1].choices == [], chunks[-1]
    assert chunks[-1].usage.completion_tokens == 12, chunks[-1].usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])


def stream_without_usage(demo):
    told = stream_with_usage(demo)
    before = demo.tokens("output")
    stream = demo.client().chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, max_tokens=12)
    chunks = list(stream)
    assert all(chunk.usage is None for chunk in chunks), "usage that nobody asked for"
    assert all(len(chunk.choices) == 1 for chunk in chunks), "an event that nobody asked for"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == told
    until(lambda: demo.tokens("output") == before + 12, "the stream is counted all the same")


def streams_arrive_piece_by_piece(demo):
    stream = demo.client().chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, max_tokens=60)
    next(iter(stream))
    assert demo.running() == 1, "the first piece came when the last had been sent"
    assert len(list(stream)) > 20


def embeddings(demo):
    with counted(demo, "demo-embedding") as stated:
        answer = demo.client().embeddings.create(model="demo-embedding", input=["one", "two words"])
        stated["usage"] = answer.usage
    assert [item.index for item in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == 8 and answer.data[0].embedding != answer.data[1].embedding


def models(demo):
    listed = [model.id for model in demo.client().models.list()]
    assert listed == ["demo-embedding", "llama-3.1-8b-instruct", MODEL], listed
    assert demo.client().models.retrieve(MODEL).id == MODEL
    expect(openai.NotFoundError, lambda: demo.client().models.retrieve("none"), "model_not_found")


def expect(kind, call, code):
    try:
        call()
    except kind as error:
        assert error.code == code, error.body
        assert set(error.body) >= {"message", "type", "param", "code"}, error.body
        assert error.request_id, error.response.headers
        return error
    raise AssertionError(f"no {kind.__name__}")


def wrong_key(demo):
    for key in ["sk-nobody", demo.key[:-1] + "_"]:
        call = lambda: demo.client(api_key=key).chat.completions.create(model=MODEL, messages=MESSAGES)
        error = expect(openai.AuthenticationError, call, "invalid_api_key")
        assert error.type == "invalid_request_error" and key not in str(error), error
        listing = lambda: demo.client(api_key=key).models.list()
        expect(openai.AuthenticationError, listing, "invalid_api_key")


def unknown_path(demo):
    call = lambda: demo.client().fine_tuning.jobs.list()
    expect(openai.NotFoundError, call, "unknown_url")


def bad_request(demo):
    call = lambda: demo.client().chat.completions.create(model=MODEL, messages=[])
    try:
        call()
    except openai.BadRequestError as error:
        assert error.param == "messages", error.body
    else:
        raise AssertionError("the upstream's own error did not come through")


@contextlib.contextmanager
def all_slots_taken(demo):
    """Four streams that run: as many as the demo's key may have."""
    create = demo.client().chat.completions.create
    streams = [create(model=MODEL, messages=MESSAGES, stream=True) for _ in range(4)]
    until(lambda: demo.running() == 4, "four streams run")
    try:
        yield streams
    finally:
        for stream in streams:
            stream.close()
        until(lambda: demo.running() == 0, "the streams have gone")


def too_many_at_once(demo):
    with all_slots_taken(demo):
        client = demo.client(max_retries=0)
        call = lambda: client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=1)
        error = expect(openai.RateLimitError, call, "rate_limit_exceeded")
    assert error.type == "requests" and demo.key_id in error.message, error.body
    headers = error.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "1000"), headers
    assert "x-should-retry" not in headers


def a_refusal_is_retried_when_it_says(demo):
    """By itself the package would try again within half a second."""
    attempts = []
    with all_slots_taken(demo) as streams:

        def note(response):
            attempts.append((response.status_code, time.monotonic()))
            for stream in streams:
                stream.close()

        client = demo.client(http_client=openai.DefaultHttpxClient(event_hooks={"response": [note]}))
        completion = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=1)
    assert completion.choices[0].message.content
    assert [status for status, _ in attempts] == [429, 200], attempts
    waited = attempts[1][1] - attempts[0][1]
    assert 1 <= waited < 5, f"it waited {waited:.3f} s"


def an_abandoned_stream_is_counted(demo):
    before = demo.metric("keymeter_client_aborts_total"), demo.tokens("output")
    with demo.client().chat.completions.create(model=MODEL, messages=MESSAGES, stream=True) as stream:
        for _ in range(5):
            next(stream)
    until(lambda: demo.metric("keymeter_client_aborts_total") == before[0] + 1, "the abort is counted")
    until(lambda: demo.tokens("output") > before[1], "what was delivered is counted")


def too_many_in_a_minute(demo):
    """Last, because it uses up the key's minute."""
    client = demo.client(max_retries=0)
    create = client.embeddings.with_raw_response.create
    left = None
    for _ in range(61):
        try:
            answer = create(model="demo-embedding", input="again")
        except openai.RateLimitError as refusal:
            error = refusal
            break
        now = int(answer.headers["x-ratelimit-remaining-requests"])
        assert left is None or now == left - 1, (left, now)
        left = now
    assert left == 0, left
    assert error.code == "rate_limit_exceeded" and "60 requests" in error.message, error.body
    assert 1 <= int(error.response.headers["retry-after"]) <= 60, error.response.headers


CHECKS = [
    whole_completion,
    text_completion,
    stream_without_usage,
    streams_arrive_piece_by_piece,
    embeddings,
    models,
    wrong_key,
    unknown_path,
    bad_request,
    too_many_at_once,
    a_refusal_is_retried_when_it_says,
    an_abandoned_stream_is_counted,
    too_many_in_a_minute,
]


def main():
    demo = Demo()
    failed = 0
    try:
        for check in CHECKS:
            name = check.__name__.replace("_", " ")
            try:
                check(demo)
                print(f"ok      {name}")
            except Exception:
                failed += 1
                print(f"FAILED  {name}\n{traceback.format_exc()}")
    finally:
        demo.stop()
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
