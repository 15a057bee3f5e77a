"""The packages `langchain-openai` and `langchain-anthropic`: chats of three APIs, and embeddings."""

import anthropic
import langchain_anthropic
import langchain_openai
import openai
from langchain_core.tools import tool

import scene
import upstream

QUESTION = "How do tides work?"


def of_chat(key, url, **options):
    # With an address of one's own it does not ask for a stream's usage by itself.
    return langchain_openai.ChatOpenAI(model="gpt-4o-mini", api_key=key, base_url=f"{url}/v1", stream_usage=True, **options)


def of_responses(key, url, **options):
    return of_chat(key, url, use_responses_api=True, **options)


def of_messages(key, url, **options):
    return langchain_anthropic.ChatAnthropic(model="claude-x", api_key=key, base_url=url, **options)


# How a model is made, and the errors of its package.
MODELS = {
    "langchain_openai": (of_chat, openai),
    "langchain_openai_responses": (of_responses, openai),
    "langchain_anthropic": (of_messages, anthropic),
}


def model(access, key=None, retries=0):
    make, _ = MODELS[access.name]
    return make(key or access.free, access.url, max_retries=retries, timeout=scene.PATIENCE)


def text(message):
    return "".join(block["text"] for block in message.content_blocks if block["type"] == "text")


def is_stated(metadata, usage):
    # Its input is all of the prompt, in every API.
    assert metadata["input_tokens"] == usage.input + usage.cached_input + usage.cache_write, (metadata, usage)
    assert metadata["input_token_details"]["cache_read"] == usage.cached_input, (metadata, usage)
    assert metadata["output_tokens"] == usage.output, (metadata, usage)


def a_chat_is_counted(access):
    with access.counted() as usage:
        answer = model(access).invoke(QUESTION)
    assert text(answer) == "".join(upstream.TEXT)
    is_stated(answer.usage_metadata, usage)


def a_stream_is_counted(access):
    with access.counted() as usage:
        pieces = list(model(access).stream(QUESTION))
    assert [text(piece) for piece in pieces if text(piece)] == upstream.TEXT
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    is_stated(whole.usage_metadata, usage)


def a_tool_is_called(access):
    @tool
    def tide_table(port: str) -> str:
        """The tides of a port."""
        return f"low at noon in {port}"

    with_tool = model(access).bind_tools([tide_table])
    with access.counted():
        question = {"role": "user", "content": QUESTION}
        asked = with_tool.invoke([question])
        result = tide_table.invoke(asked.tool_calls[0])
        answer = with_tool.invoke([question, asked, result])
    assert result.content == "low at noon in Brest"
    assert text(answer) == "".join(upstream.TEXT)
    with access.counted():
        calls = [call for piece in with_tool.stream(QUESTION) for call in piece.tool_call_chunks]
    assert "".join(call["args"] or "" for call in calls).replace(" ", "") == '{"port":"Brest"}', calls


def texts_are_embedded(access):
    # Otherwise it fetches a tokenizer, and sends numbers of tokens that not every server knows.
    embeddings = langchain_openai.OpenAIEmbeddings(model="text-embedding-3-small", api_key=access.free, max_retries=0,
                                                   base_url=f"{access.url}/v1", check_embedding_ctx_length=False)
    with access.counted():
        assert embeddings.embed_documents(["one", "two"]) == [upstream.VECTOR] * 2


def a_wrong_key_is_an_error_of_authentication(access):
    _, errors = MODELS[access.name]
    refused = model(access, access.wrong)
    for call in [refused.invoke, lambda question: list(refused.stream(question))]:
        scene.raised(errors.AuthenticationError, lambda: call(QUESTION))


def over_the_limit_is_told_when_to_come_again(access):
    _, errors = MODELS[access.name]
    limited = model(access, access.limited)
    limited.invoke(QUESTION)
    error = scene.raised(errors.RateLimitError, lambda: limited.invoke(QUESTION))
    assert scene.waits(error.response.headers)


def it_waits_as_long_as_a_refusal_says(access):
    with access.retried():
        assert text(model(access, access.single, retries=2).invoke(QUESTION)) == "".join(upstream.TEXT)


COMMON = [
    a_chat_is_counted,
    a_stream_is_counted,
    a_tool_is_called,
    a_wrong_key_is_an_error_of_authentication,
    over_the_limit_is_told_when_to_come_again,
    it_waits_as_long_as_a_refusal_says,
]
CHECKS = {name: COMMON for name in MODELS}
CHECKS["langchain_openai"] = [*COMMON, texts_are_embedded]
