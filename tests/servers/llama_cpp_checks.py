"""What holds of llama.cpp's server: all that it states is counted, and all its own counter has."""

import concurrent.futures

import model
from scene import Watch, until
from wire import ask

MESSAGES = [{"role": "user", "content": "how do the moon and the sea go on"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
STREAM = {"stream": True}
ASKS = {"stream": True, "stream_options": {"include_usage": True}}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
# Whoever must call a tool does so with the first token, and ends as soon as it may.
CALLS = {str(model.FIRST_TOKENS.index(token)): bias for token, bias in [(model.CALL, 100), (model.END, 150)]}
FUNCTION = {"name": "weather", "description": "the weather of a city", "parameters": CITY}
TOOL = {
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "required", "logit_bias": CALLS, "max_tokens": 100,
}
ANTHROPIC_TOOL = {
    "tools": [{"name": "weather", "description": "the weather of a city", "input_schema": CITY}],
    "tool_choice": {"type": "any"}, "logit_bias": CALLS, "max_tokens": 100,
}


def request(path, **options):
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": MESSAGES[0]["content"]}
    return {"model": "tiny", "temperature": 0, "max_tokens": 12, **prompt, **options}


def passes(scene, path, name="tiny", **options):
    """An answer through the gateway is what the server sent, less the usage events that the client did not ask for."""
    watch = Watch(scene, name)
    answer = ask(scene.gateway.url, path, request(path, **options))
    sent = watch.sent()
    assert (answer.status, answer.content_type) == (200, sent.content_type), answer
    unasked = "stream" in options and "stream_options" not in options
    assert answer.body == (without_usage_events(sent.body) if unasked else sent.body), (answer, sent)
    return watch, sent


def without_usage_events(body):
    """llama.cpp sends its `choices` first."""
    events = body.split(b"\n\n")
    return b"\n\n".join(event for event in events if not event.startswith(b'data: {"choices":[],'))


def statements(answer):
    """Each usage that is stated: the prompt's tokens, those of them that were cached, the output's."""
    usages = [document["usage"] for document in answer.documents() if document.get("usage")]
    return [
        (usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], usage["completion_tokens"])
        for usage in usages
    ]


def is_counted_as_stated(scene, path, **options):
    watch, sent = passes(scene, path, **options)
    [(prompt, cached, output)] = statements(sent)
    watch.holds(prompt - cached, cached, output)
    asked = request(path, **{**options, **(ASKS if "stream" in options else {})})
    [(prompt_itself, _, output_itself)] = statements(ask(watch.url, path, asked))
    assert (prompt, output) == (prompt_itself, output_itself), "asked itself, the server says otherwise"
    return f"{prompt} tokens in, {output} out"


def a_chat(scene):
    return is_counted_as_stated(scene, CHAT)


def a_chat_stream(scene):
    watch, sent = passes(scene, CHAT, **STREAM)
    assert without_usage_events(sent.body) != sent.body, "the gateway did not ask for the usage"
    watch.settled()
    return is_counted_as_stated(scene, CHAT, **STREAM)


def a_chat_stream_whose_client_asks_for_usage(scene):
    return is_counted_as_stated(scene, CHAT, **ASKS)


def a_chat_stream_with_timings_on_every_event(scene):
    return is_counted_as_stated(scene, CHAT, timings_per_token=True, **STREAM)


def a_completion(scene):
    return is_counted_as_stated(scene, COMPLETIONS)


def a_completion_stream(scene):
    return is_counted_as_stated(scene, COMPLETIONS, **STREAM)


def a_completion_stream_whose_client_asks_for_usage(scene):
    return is_counted_as_stated(scene, COMPLETIONS, **ASKS)


def streams_on_connections_that_close(scene):
    """The server says that it keeps its connections, and closes each after a stream: maybe just as the next one comes."""
    watch = Watch(scene)
    stream = lambda _: ask(scene.gateway.url, CHAT, request(CHAT, max_tokens=1, **STREAM))
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(stream, range(200)))
    assert [answer.status for answer in answers] == 200 * [200]
    assert all(line["output_tokens"] == 1 for line in watch.settled(requests=200))
    until(lambda: watch.generated() == 200, "the server has generated 200 tokens")


def what_ends_by_itself(scene):
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    for options in ({"response_format": form, "max_tokens": 100}, {"stop": [" sea"], "max_tokens": 3000}):
        watch, sent = passes(scene, CHAT, **options, **STREAM)
        assert b'"finish_reason":"stop"' in sent.body, sent
        [(prompt, cached, output)] = statements(sent)
        watch.holds(prompt - cached, cached, output)


def two_choices_of_a_stream(scene):
    """Each is stated apart: of a chat in an event of its own, of a completion in its last event."""
    for path in (CHAT, COMPLETIONS):
        for options in (STREAM, ASKS):
            watch, sent = passes(scene, path, n=2, **options)
            [(prompt, _, first), (_, cached, second)] = statements(sent)
            assert first == second == 12, sent
            watch.holds(prompt - cached, cached, 24)


def two_choices_of_an_answer(scene):
    """Only the first is stated. Of the other, its words are counted."""
    for path in (CHAT, COMPLETIONS):
        watch, sent = passes(scene, path, n=2)
        [(prompt, cached, output)] = statements(sent)
        assert (output, len(sent.documents()[0]["choices"])) == (12, 2), sent
        watch.holds(prompt - cached, cached, 24, "estimated")


def two_prompts_of_a_stream(scene):
    """Each is stated with its own choices."""
    for choices in (1, 2):
        watch, sent = passes(scene, COMPLETIONS, prompt=["two and two are", "the moon"], n=choices, **STREAM)
        stated = statements(sent)
        assert len(stated) == 2 * choices and len({prompt for prompt, _, _ in stated}) == 2, sent
        prompts = sum(prompt for prompt, _, _ in stated) // choices
        cached = sum(cached for _, cached, _ in stated) // choices
        watch.holds(prompts - cached, cached, 24 * choices)


def calls_of_tools(scene):
    for options in ({}, STREAM, ASKS):
        watch, sent = passes(scene, CHAT, **TOOL, **options)
        assert b'"finish_reason":"tool_calls"' in sent.body, sent
        [(prompt, cached, output)] = statements(sent)
        watch.holds(prompt - cached, cached, output)


def the_openai_package_streams_a_chat(scene):
    watch = Watch(scene)
    chunks = list(scene.openai().chat.completions.create(**request(CHAT, **STREAM)))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert len(text.split()) == 12 and not any(chunk.usage for chunk in chunks), chunks
    [(prompt, cached, output)] = statements(watch.sent())
    watch.holds(prompt - cached, cached, output)


def the_openai_package_calls_a_tool(scene):
    watch = Watch(scene)
    completion = scene.openai().chat.completions.create(**request(CHAT, **TOOL))
    assert completion.choices[0].message.tool_calls[0].function.name == "weather", completion
    usage, cached = completion.usage, completion.usage.prompt_tokens_details.cached_tokens
    watch.holds(usage.prompt_tokens - cached, cached, usage.completion_tokens)


def responses(scene):
    body = {"model": "tiny", "input": MESSAGES[0]["content"], "temperature": 0, "max_output_tokens": 12}
    for options in ({}, STREAM):
        watch = Watch(scene)
        answer = ask(scene.gateway.url, "/v1/responses", {**body, **options})
        assert answer == watch.sent() and answer.status == 200, answer
        last = answer.documents()[-1]
        usage = last.get("response", last)["usage"]
        cached = usage["input_tokens_details"]["cached_tokens"]
        watch.holds(usage["input_tokens"] - cached, cached, usage["output_tokens"])


def the_openai_package_streams_a_response(scene):
    watch = Watch(scene)
    options = {"model": "tiny", "input": MESSAGES[0]["content"], "temperature": 0, "max_output_tokens": 12}
    *_, last = scene.openai().responses.create(**options, stream=True)
    usage, cached = last.response.usage, last.response.usage.input_tokens_details.cached_tokens
    assert (last.type, usage.output_tokens) == ("response.completed", 12), last
    watch.holds(usage.input_tokens - cached, cached, usage.output_tokens)


def messages(scene):
    for options in ({}, STREAM, ANTHROPIC_TOOL, {**STREAM, **ANTHROPIC_TOOL}):
        watch = Watch(scene)
        answer = ask(scene.gateway.url, "/v1/messages", request(CHAT, **options))
        assert answer == watch.sent() and answer.status == 200, answer
        usage = {}
        for document in answer.documents():
            usage |= document.get("message", {}).get("usage", {}) | document.get("usage", {})
        watch.holds(usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"])


def the_anthropic_package_streams_a_message(scene):
    watch, client = Watch(scene), scene.anthropic()
    options = {"model": "tiny", "messages": MESSAGES}
    with client.messages.stream(**options, max_tokens=12, extra_body={"temperature": 0}) as stream:
        message = stream.get_final_message()
    usage = message.usage
    assert len(message.content[0].text.split()) == usage.output_tokens == 12, message
    watch.holds(usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens)
    free = Watch(scene)
    counted = client.messages.count_tokens(**options)
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    free.holds(0, 0, 0, "none")


def embeddings(scene):
    watch = Watch(scene, "tiny-embedding")
    answer = scene.openai().embeddings.create(model="tiny-embedding", input=["the moon", "two and two"])
    assert len(answer.data[1].embedding) == model.WIDTH and answer.usage.prompt_tokens > 0, answer
    watch.holds(answer.usage.prompt_tokens, 0, 0)


def rerank(scene):
    watch = Watch(scene, "tiny-rerank")
    body = {"model": "tiny-rerank", "query": "the moon", "documents": ["the moon and the sea", "two and two"]}
    answer = ask(scene.gateway.url, "/v1/rerank", body)
    [document] = answer.documents()
    assert answer == watch.sent() and len(document["results"]) == 2, answer
    watch.holds(document["usage"]["prompt_tokens"], 0, 0)


def a_prompt_that_is_too_long(scene):
    """The server's own error passes, and costs nothing."""
    for path in (CHAT, "/v1/messages"):
        for options in ({}, STREAM):
            watch = Watch(scene)
            long = [{"role": "user", "content": "moon " * model.CONTEXT}]
            answer = ask(scene.gateway.url, path, request(CHAT, **options, messages=long))
            assert answer == watch.sent() and answer.status == 400, answer
            assert answer.documents()[0]["error"]["type"] == "exceed_context_size_error", answer
            watch.holds(0, 0, 0, "none")


def a_client_that_hangs_up(scene):
    return pays_for_what_was_delivered(scene, "tiny")


def pays_for_what_was_delivered(scene, name):
    """At least what it read, at most what the server had sent when it knew; each word is a token."""
    watch = Watch(scene, name)
    with scene.openai().chat.completions.create(**request(CHAT, model=name, max_tokens=3000, **STREAM)) as stream:
        got = "".join(next(stream).choices[0].delta.content or "" for _ in range(20))
    line = watch.settled()
    until(lambda: watch.recorder.last.is_closed, "the server's connection is closed")
    got, counted, sent = len(got.split()), line["output_tokens"], len(watch.sent().text().split())
    assert line["client_aborted"] and line["usage_source"] == "estimated" and line["input_tokens"] > 0, line
    # The last event that was sent may not have come whole.
    assert 19 <= got <= counted <= sent + 1, (got, counted, sent)
    if watch.has_counter:
        until(lambda: watch.generated() >= counted, "the server says what it generated")
        assert watch.generated() < 3000, "the server went on to the end"
    return f"it read {got} tokens, pays for {counted}; the server had sent {sent} of 3000"


CHECKS = [
    a_chat,
    a_chat_stream,
    a_chat_stream_whose_client_asks_for_usage,
    a_chat_stream_with_timings_on_every_event,
    a_completion,
    a_completion_stream,
    a_completion_stream_whose_client_asks_for_usage,
    streams_on_connections_that_close,
    what_ends_by_itself,
    two_choices_of_a_stream,
    two_choices_of_an_answer,
    two_prompts_of_a_stream,
    calls_of_tools,
    the_openai_package_streams_a_chat,
    the_openai_package_calls_a_tool,
    responses,
    the_openai_package_streams_a_response,
    messages,
    the_anthropic_package_streams_a_message,
    embeddings,
    rerank,
    a_prompt_that_is_too_long,
    a_client_that_hangs_up,
]
