"""The `ollama` package, which takes the key as a header of one's own."""

import ollama

import scene
import upstream

MODEL, EMBEDDING = "llama3.2", "nomic-embed-text"
MESSAGES = [{"role": "user", "content": "How do tides work?"}]


def client(access, key=None):
    headers = {"authorization": f"Bearer {key or access.free}"}
    return ollama.Client(host=access.url, headers=headers, timeout=scene.PATIENCE)


def is_stated(answer, usage):
    assert (answer.prompt_eval_count, answer.eval_count) == (usage.input, usage.output), answer


def a_chat_is_counted(access):
    with access.counted() as usage:
        answer = client(access).chat(model=MODEL, messages=MESSAGES)
    assert answer.message.content == "".join(upstream.TEXT)
    is_stated(answer, usage)


def a_stream_is_counted(access):
    with access.counted() as usage:
        pieces = list(client(access).chat(model=MODEL, messages=MESSAGES, stream=True))
    assert [piece.message.content for piece in pieces[:-1]] == upstream.TEXT
    is_stated(pieces[-1], usage)


def a_completion_is_counted(access):
    with access.counted() as usage:
        answer = client(access).generate(model=MODEL, prompt="Tides")
    is_stated(answer, usage)
    with access.counted() as usage:
        pieces = list(client(access).generate(model=MODEL, prompt="Tides", stream=True))
    assert "".join(piece.response for piece in pieces) == answer.response == "".join(upstream.TEXT)
    is_stated(pieces[-1], usage)


def a_tool_is_called(access):
    def tide_table(port: str) -> str:
        """The tides of a port.

        Args:
          port: Its name.
        """

    for stream in [False, True]:
        with access.counted():
            answer = client(access).chat(model=MODEL, messages=MESSAGES, tools=[tide_table], stream=stream)
            message = next(iter(answer)).message if stream else answer.message
            list(answer)
        assert message.tool_calls[0].function.arguments == upstream.ARGUMENTS


def texts_are_embedded(access):
    with access.counted():
        answer = client(access).embed(model=EMBEDDING, input=["one", "two"])
    assert list(map(list, answer.embeddings)) == [upstream.VECTOR] * 2
    # Nobody states what the older call used, which is then an estimate.
    before = access.metered()
    assert list(client(access).embeddings(model=EMBEDDING, prompt="one").embedding) == upstream.VECTOR
    scene.until(lambda: access.metered()["input"] > before["input"], lambda: "the older call was not counted")


def models_are_listed(access):
    listed = {model.model for model in client(access).list().models}
    assert MODEL in listed, listed
    assert "completion" in client(access).show(MODEL).capabilities


def a_wrong_key_is_an_error_of_authentication(access):
    ask = client(access, access.wrong).chat
    for call in [ask, lambda **what: list(ask(stream=True, **what))]:
        error = scene.raised(ollama.ResponseError, lambda: call(model=MODEL, messages=MESSAGES))
        assert error.status_code == 401 and "API key" in error.error, error


def over_the_limit_is_an_error(access):
    """The package shows no headers; the message says what they say."""
    ask = client(access, access.limited).chat
    ask(model=MODEL, messages=MESSAGES)
    error = scene.raised(ollama.ResponseError, lambda: ask(model=MODEL, messages=MESSAGES))
    assert error.status_code == 429 and "retry in" in error.error, error


CHECKS = {
    "ollama": [
        a_chat_is_counted,
        a_stream_is_counted,
        a_completion_is_counted,
        a_tool_is_called,
        texts_are_embedded,
        models_are_listed,
        a_wrong_key_is_an_error_of_authentication,
        over_the_limit_is_an_error,
    ]
}
