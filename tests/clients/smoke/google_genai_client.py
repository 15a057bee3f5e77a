"""The `google-genai` package, which asks for everything under `/v1/` unless it is told otherwise."""

from google import genai
from google.genai import errors, types

import scene
import upstream

MODEL, EMBEDDING = "gemini-2.5-flash", "gemini-embedding-001"
QUESTION = "How do tides work?"


def client(access, key=None, version=None):
    options = types.HttpOptions(base_url=access.url, api_version=version, timeout=scene.PATIENCE * 1000)
    return genai.Client(api_key=key or access.free, http_options=options)


def is_stated(metadata, usage):
    assert metadata.prompt_token_count == usage.input + usage.cached_input, metadata
    assert metadata.cached_content_token_count == usage.cached_input, metadata
    assert metadata.candidates_token_count + metadata.thoughts_token_count == usage.output, metadata


def a_chat_is_counted(access):
    for version in [None, "v1", "v1beta"]:
        asking = client(access, version=version)
        with access.counted() as usage:
            answer = asking.models.generate_content(model=MODEL, contents=QUESTION)
        assert answer.text == "".join(upstream.TEXT)
        is_stated(answer.usage_metadata, usage)


def a_stream_is_counted(access):
    for version in [None, "v1beta"]:
        asking = client(access, version=version)
        with access.counted() as usage:
            pieces = list(asking.models.generate_content_stream(model=MODEL, contents=QUESTION))
        assert [piece.text for piece in pieces if piece.text] == upstream.TEXT
        is_stated(pieces[-1].usage_metadata, usage)


def a_tool_is_called(access):
    asked = []

    def tide_table(port: str) -> str:
        """The tides of a port."""
        asked.append(port)
        return "low at noon"

    asking, config = client(access), types.GenerateContentConfig(tools=[tide_table])
    with access.counted():
        answer = asking.models.generate_content(model=MODEL, contents=QUESTION, config=config)
    assert asked == [upstream.ARGUMENTS["port"]]
    assert answer.text == "".join(upstream.TEXT)


def texts_are_embedded(access):
    asking = client(access)
    for texts in [["one"], ["one", "two"]]:
        with access.counted():
            answer = asking.models.embed_content(model=EMBEDDING, contents=texts)
        assert [entry.values for entry in answer.embeddings] == [upstream.VECTOR] * len(texts)


def counting_tokens_is_free(access):
    asking = client(access)
    with access.uncounted():
        assert asking.models.count_tokens(model=MODEL, contents=QUESTION).total_tokens == 14


def models_are_listed(access):
    for version in [None, "v1beta"]:
        asking = client(access, version=version)
        listed = {model.name for model in asking.models.list()}
        assert f"models/{MODEL}" in listed, listed
        assert asking.models.get(model=MODEL).name == f"models/{MODEL}"


def a_wrong_key_is_an_error_of_authentication(access):
    asking = client(access, access.wrong)
    for call in [asking.models.generate_content, lambda **what: list(asking.models.generate_content_stream(**what))]:
        error = scene.raised(errors.ClientError, lambda: call(model=MODEL, contents=QUESTION))
        assert (error.code, error.status) == (401, "UNAUTHENTICATED"), error


def over_the_limit_is_told_when_to_come_again(access):
    asking = client(access, access.limited)
    asking.models.generate_content(model=MODEL, contents=QUESTION)
    again = lambda: asking.models.generate_content(model=MODEL, contents=QUESTION)
    error = scene.raised(errors.ClientError, again)
    assert (error.code, error.status) == (429, "RESOURCE_EXHAUSTED"), error
    assert scene.waits(error.response.headers)


CHECKS = {
    "google_genai": [
        a_chat_is_counted,
        a_stream_is_counted,
        a_tool_is_called,
        texts_are_embedded,
        counting_tokens_is_free,
        models_are_listed,
        a_wrong_key_is_an_error_of_authentication,
        over_the_limit_is_told_when_to_come_again,
    ]
}
