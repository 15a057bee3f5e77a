"""The `litellm` package as a library: one call for four APIs."""

import os

# Otherwise it fetches a list of prices while it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

import scene
import upstream

MESSAGES = [{"role": "user", "content": "How do tides work?"}]
TOOL = {"type": "function", "function": {"name": upstream.TOOL, "description": "The tides of a port.", "parameters": {
    "type": "object", "properties": {"port": {"type": "string"}}, "required": ["port"]}}}
# The model, and what goes behind the gateway's address.
ROUTES = {
    "litellm_openai": ("openai/gpt-4o-mini", "/v1"),
    "litellm_anthropic": ("anthropic/claude-x", ""),
    "litellm_gemini": ("gemini/gemini-2.5-flash", "/v1beta"),
    "litellm_ollama": ("ollama_chat/llama3.2", ""),
}


def ask(access, key=None, **options):
    model, room = ROUTES[access.name]
    return litellm.completion(model=model, messages=options.pop("messages", MESSAGES), api_key=key or access.free,
                              api_base=access.url + room, timeout=scene.PATIENCE, **{"max_retries": 0, **options})


def is_stated(stated, usage):
    assert stated.prompt_tokens == usage.input + usage.cached_input + usage.cache_write, (stated, usage)
    assert stated.completion_tokens == usage.output, (stated, usage)


def a_chat_is_counted(access):
    with access.counted() as usage:
        answer = ask(access)
    assert answer.choices[0].message.content == "".join(upstream.TEXT)
    is_stated(answer.usage, usage)


def a_stream_is_counted(access):
    with access.counted() as usage:
        pieces = list(ask(access, stream=True, stream_options={"include_usage": True}))
    texts = [piece.choices[0].delta.content for piece in pieces if piece.choices and piece.choices[0].delta.content]
    assert "".join(texts) == "".join(upstream.TEXT)
    is_stated(pieces[-1].usage, usage)


def a_tool_is_called(access):
    for stream in [False, True]:
        with access.counted():
            answer = ask(access, tools=[TOOL], stream=stream)
            if stream:
                answer = litellm.stream_chunk_builder(list(answer))
        function = answer.choices[0].message.tool_calls[0].function
        assert function.name == upstream.TOOL and upstream.ARGUMENTS["port"] in function.arguments, function


def texts_are_embedded(access):
    model = {"litellm_openai": "openai/text-embedding-3-small", "litellm_ollama": "ollama/nomic-embed-text",
             "litellm_gemini": "gemini/gemini-embedding-001"}[access.name]
    _, room = ROUTES[access.name]
    with access.counted():
        answer = litellm.embedding(model=model, input=["one", "two"], api_key=access.free, api_base=access.url + room)
    assert [entry["embedding"] for entry in answer.data] == [upstream.VECTOR] * 2


def a_wrong_key_is_an_error_of_authentication(access):
    for stream in [False, True]:
        scene.raised(litellm.AuthenticationError, lambda: list(ask(access, access.wrong, stream=stream)))


def over_the_limit_is_told_when_to_come_again(access):
    ask(access, access.limited)
    error = scene.raised(litellm.RateLimitError, lambda: ask(access, access.limited))
    assert scene.waits(error.litellm_response_headers)


COMMON = [
    a_chat_is_counted,
    a_stream_is_counted,
    a_tool_is_called,
    a_wrong_key_is_an_error_of_authentication,
    over_the_limit_is_told_when_to_come_again,
]
CHECKS = {name: COMMON + [texts_are_embedded] for name in ROUTES}
CHECKS["litellm_anthropic"] = COMMON
