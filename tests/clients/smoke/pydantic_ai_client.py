"""The `pydantic-ai` package: agents over three APIs."""

import asyncio

import anthropic
import openai
import pydantic_ai
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

import scene
import upstream

QUESTION = "How do tides work?"
# One loop for all: clients keep their connections, and close them in it.
LOOP = asyncio.Runner()


def over_openai(kind):
    def make(url, **options):
        return kind("gpt-4o-mini", provider=OpenAIProvider(openai_client=openai.AsyncOpenAI(base_url=f"{url}/v1", **options)))

    return make


def over_anthropic(url, **options):
    client = anthropic.AsyncAnthropic(base_url=url, **options)
    return AnthropicModel("claude-x", provider=AnthropicProvider(anthropic_client=client))


MODELS = {
    "pydantic_ai_openai": over_openai(OpenAIChatModel),
    "pydantic_ai_openai_responses": over_openai(OpenAIResponsesModel),
    "pydantic_ai_anthropic": over_anthropic,
}


def agent(access, key=None, retries=0, **options):
    make = MODELS[access.name]
    model = make(access.url, api_key=key or access.free, max_retries=retries, timeout=scene.PATIENCE)
    return pydantic_ai.Agent(model, **options)


def is_stated(stated, usage):
    # Its input is all of the prompt, in every API.
    assert stated.input_tokens == usage.input + usage.cached_input + usage.cache_write, (stated, usage)
    assert stated.cache_read_tokens == usage.cached_input, (stated, usage)
    assert stated.output_tokens == usage.output, (stated, usage)


def run(access, **options):
    return LOOP.run(agent(access, **options).run(QUESTION))


def a_chat_is_counted(access):
    with access.counted() as usage:
        answer = run(access)
    assert answer.output == "".join(upstream.TEXT)
    is_stated(answer.usage, usage)


def a_stream_is_counted(access):
    async def stream():
        async with agent(access).run_stream(QUESTION) as result:
            pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
        return pieces, result.usage

    with access.counted() as usage:
        pieces, stated = LOOP.run(stream())
    assert pieces == upstream.TEXT, pieces
    is_stated(stated, usage)


def a_tool_is_called(access):
    asked = []

    def tide_table(port: str) -> str:
        """The tides of a port."""
        asked.append(port)
        return "low at noon"

    with access.counted() as usage:
        answer = run(access, tools=[tide_table])
    assert asked == [upstream.ARGUMENTS["port"]]
    assert answer.output == "".join(upstream.TEXT)
    is_stated(answer.usage, usage)


def refused(access, status, **options):
    error = scene.raised(pydantic_ai.ModelHTTPError, lambda: run(access, **options))
    assert error.status_code == status, error
    return error


def a_wrong_key_is_an_error_of_authentication(access):
    refused(access, 401, key=access.wrong)


def over_the_limit_is_told_when_to_come_again(access):
    run(access, key=access.limited)
    assert scene.waits(refused(access, 429, key=access.limited).headers)


def it_waits_as_long_as_a_refusal_says(access):
    with access.retried():
        assert run(access, key=access.single, retries=2).output == "".join(upstream.TEXT)


COMMON = [
    a_chat_is_counted,
    a_stream_is_counted,
    a_tool_is_called,
    a_wrong_key_is_an_error_of_authentication,
    over_the_limit_is_told_when_to_come_again,
    it_waits_as_long_as_a_refusal_says,
]
CHECKS = {name: COMMON for name in MODELS}
