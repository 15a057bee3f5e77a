"""What holds of llama-cpp-python's server, whose streams never state usage: it is found in what was delivered."""

from llama_cpp_checks import ASKS, CHAT, COMPLETIONS, FUNCTION, STREAM, passes, pays_for_what_was_delivered, request
from scene import Watch
from wire import ask

import model

NAME = "tiny-python"
TOOL = {
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}}, "max_tokens": 100,
}


def statement(answer):
    usage = answer.documents()[0]["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def answers(scene):
    for path in (CHAT, COMPLETIONS):
        watch, sent = passes(scene, path, NAME, model=NAME)
        prompt, output = statement(sent)
        watch.holds(prompt, 0, output)
        assert (prompt, output) == statement(ask(watch.url, path, request(path, model=NAME)))


def streams(scene):
    """What was found is what the server states where it states anything."""
    for path in (CHAT, COMPLETIONS):
        for options in (STREAM, ASKS):
            watch, sent = passes(scene, path, NAME, model=NAME, max_tokens=200, **options)
            assert b"usage" not in sent.body, "it states usage now: count on it"
            line = watch.settled()
            _, output = statement(ask(watch.url, path, request(path, model=NAME, max_tokens=200)))
            assert (line["output_tokens"], line["usage_source"]) == (output, "estimated"), (line, output)
    return f"{output} tokens out, found and stated"


def the_call_of_a_tool(scene):
    """Its name comes with every event, and all of it twice. What it is in `o200k_base` is fewer tokens."""
    watch, sent = passes(scene, CHAT, NAME, model=NAME, **TOOL, **STREAM)
    assert sent.body.count(b'"name": "weather"') > 10, sent
    line = watch.settled()
    _, output = statement(ask(watch.url, CHAT, request(CHAT, model=NAME, **TOOL)))
    assert 5 <= line["output_tokens"] <= output, (line, output)
    return f"{output} tokens out, found {line['output_tokens']}"


def embeddings(scene):
    watch = Watch(scene, NAME)
    answer = scene.openai().embeddings.create(model=NAME, input=["the moon", "two and two"])
    assert answer.usage.prompt_tokens > 0, answer
    watch.holds(answer.usage.prompt_tokens, 0, 0)


def a_prompt_that_is_too_long(scene):
    """An error, or a stream of nothing at all: both cost nothing."""
    for options, status in (({}, 400), (STREAM, 200)):
        watch = Watch(scene, NAME)
        long = [{"role": "user", "content": "moon " * model.CONTEXT}]
        answer = ask(scene.gateway.url, CHAT, request(CHAT, model=NAME, messages=long, **options))
        assert answer == watch.sent() and (answer.status, answer.body == b"") == (status, status == 200), answer
        watch.holds(0, 0, 0, "none")


def a_stream_that_another_request_ends(scene):
    """The server serves one request at a time, and ends a stream for the next one as if it were complete."""
    watch = Watch(scene, NAME)
    create = scene.openai().chat.completions.create
    with create(**request(CHAT, model=NAME, max_tokens=3000, **STREAM)) as stream:
        text = "".join(next(stream).choices[0].delta.content or "" for _ in range(5))
        create(**request(CHAT, model=NAME, max_tokens=3))
        text += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    short, long = sorted(watch.settled(requests=2), key=lambda line: line["output_tokens"])
    assert (short["output_tokens"], short["usage_source"]) == (3, "upstream"), short
    assert (long["output_tokens"], long["usage_source"]) == (len(text.split()), "estimated"), (long, len(text.split()))
    assert 4 <= long["output_tokens"] < 3000 and not long["client_aborted"], long
    return f"{long['output_tokens']} of 3000 tokens"


def a_client_that_hangs_up(scene):
    return pays_for_what_was_delivered(scene, NAME)


CHECKS = [
    answers,
    streams,
    the_call_of_a_tool,
    embeddings,
    a_prompt_that_is_too_long,
    a_stream_that_another_request_ends,
    a_client_that_hangs_up,
]
