"""An upstream for the clients: it speaks OpenAI's, Anthropic's, Ollama's and Gemini's API, from a script.

No two answers state the same usage, and `/stated` tells the sum of what has been stated, by the gateway's types of
token. A request that offers a tool and has no result of one yet is answered with a call of that tool, any other with
`TEXT`. A request that bears a secret of the gateway's keys is an error, since none may come so far.
"""

import base64
import collections
import http.server
import itertools
import json
import re
import struct
import threading
import time

TEXT = ["The ", "moon ", "pulls ", "the sea."]
TOOL, ARGUMENTS = "tide_table", {"port": "Brest"}
VECTOR = [0.5, -0.25, 0.125]
MODELS = ["gpt-4o-mini", "claude-x", "llama3.2", "gemini-2.5-flash",
          "text-embedding-3-small", "nomic-embed-text", "gemini-embedding-001"]
SECRETS = "sk-smoke-"
NUMBERS = itertools.count(1)


class Usage:
    """What an answer states."""

    def __init__(self):
        number = next(NUMBERS)
        self.fresh, self.cached, self.written = 20 + number, 3 + number % 5, 2 + number % 3
        self.text, self.reasoning = 10 + number % 7, 4 + number % 3

    @property
    def output(self):
        return self.text + self.reasoning


class Call:
    """A request: what it asks for, and what is stated in answer to it."""

    def __init__(self, path, body, upstream):
        self.path, self.body, self.upstream, self.usage = path, body, upstream, Usage()

    @property
    def model(self):
        return self.body.get("model") or re.search(r"/models/([^:]+)", self.path)[1]

    def wants_tool(self, result):
        """Whether a tool is to be called: one is offered, and no `result` of one has been sent."""
        return bool(self.body.get("tools")) and result not in json.dumps(self.body)

    def state(self, cached=0, written=0, output=0):
        """Adds to what was stated: `fresh`, and of the others what the API has a word for."""
        self.upstream.stated.update(input=self.usage.fresh, cached_input=cached, cache_write=written, output=output)
        return self.usage


# OpenAI's chat and embeddings.


def chat(call):
    usage = call.state(cached=call.usage.cached, output=call.usage.output)
    stated = {"prompt_tokens": usage.fresh + usage.cached, "completion_tokens": usage.output,
              "total_tokens": usage.fresh + usage.cached + usage.output,
              "prompt_tokens_details": {"cached_tokens": usage.cached},
              "completion_tokens_details": {"reasoning_tokens": usage.reasoning}}
    wants_tool = call.wants_tool('"role": "tool"')
    called = {"id": "call_1", "type": "function", "function": {"name": TOOL, "arguments": json.dumps(ARGUMENTS)}}
    reason = "tool_calls" if wants_tool else "stop"
    common = {"id": "chatcmpl-1", "created": 1, "model": call.model}
    if not call.body.get("stream"):
        message = {"role": "assistant", "content": None if wants_tool else "".join(TEXT), "refusal": None}
        if wants_tool:
            message["tool_calls"] = [called]
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return {**common, "object": "chat.completion", "choices": [choice], "usage": stated}
    deltas = [{"role": "assistant", "tool_calls": [{"index": 0, **called}]}] if wants_tool else \
        [{"role": "assistant", "content": piece} for piece in TEXT]
    choices = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas]
    choices.append([{"index": 0, "delta": {}, "finish_reason": reason}])
    events = [{"choices": choice} for choice in choices]
    if (call.body.get("stream_options") or {}).get("include_usage"):
        events.append({"choices": [], "usage": stated})
    return [data({**common, "object": "chat.completion.chunk", **event}) for event in events] + ["data: [DONE]\n\n"]


def embeddings(call):
    usage = call.state()
    texts = call.body["input"] if isinstance(call.body["input"], list) else [call.body["input"]]
    packed = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
    vector = packed if call.body.get("encoding_format") == "base64" else VECTOR
    entries = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(texts))]
    stated = {"prompt_tokens": usage.fresh, "total_tokens": usage.fresh}
    return {"object": "list", "model": call.model, "data": entries, "usage": stated}


# OpenAI's responses.


def responses(call):
    usage = call.state(cached=call.usage.cached, output=call.usage.output)
    stated = {"input_tokens": usage.fresh + usage.cached, "output_tokens": usage.output,
              "total_tokens": usage.fresh + usage.cached + usage.output,
              "input_tokens_details": {"cached_tokens": usage.cached},
              "output_tokens_details": {"reasoning_tokens": usage.reasoning}}
    part = {"type": "output_text", "text": "".join(TEXT), "annotations": [], "logprobs": []}
    if call.wants_tool('"function_call_output"'):
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": TOOL,
                "arguments": json.dumps(ARGUMENTS), "status": "completed"}
    else:
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    response = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": call.model,
                "output": [item], "usage": stated, "error": None, "incomplete_details": None, "instructions": None,
                "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0, "top_p": 1.0, "tool_choice": "auto",
                "tools": []}
    if not call.body.get("stream"):
        return response
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    events = [{"type": "response.created", "response": begun}, *item_events(item, part),
              {"type": "response.completed", "response": response}]
    return [data({**event, "sequence_number": number}, event["type"]) for number, event in enumerate(events)]


def item_events(item, part):
    at = {"output_index": 0, "item_id": item["id"]}
    in_text = {**at, "content_index": 0}
    if item["type"] == "function_call":
        begun = {**item, "arguments": "", "status": "in_progress"}
        inner = [{"type": "response.function_call_arguments.delta", **at, "delta": item["arguments"]},
                 {"type": "response.function_call_arguments.done", **at, "name": TOOL, "arguments": item["arguments"]}]
    else:
        begun = {**item, "content": [], "status": "in_progress"}
        inner = [{"type": "response.content_part.added", **in_text, "part": {**part, "text": ""}},
                 *({"type": "response.output_text.delta", **in_text, "delta": piece, "logprobs": []} for piece in TEXT),
                 {"type": "response.output_text.done", **in_text, "text": part["text"], "logprobs": []},
                 {"type": "response.content_part.done", **in_text, "part": part}]
    return [{"type": "response.output_item.added", "output_index": 0, "item": begun}, *inner,
            {"type": "response.output_item.done", "output_index": 0, "item": item}]


# Anthropic's messages.


def messages(call):
    usage = call.state(cached=call.usage.cached, written=call.usage.written, output=call.usage.output)
    stated = {"input_tokens": usage.fresh, "cache_read_input_tokens": usage.cached,
              "cache_creation_input_tokens": usage.written, "output_tokens": usage.output}
    if wants_tool := call.wants_tool('"tool_result"'):
        block = {"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": ARGUMENTS}
        empty, deltas = {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": json.dumps(ARGUMENTS)}]
    else:
        block = {"type": "text", "text": "".join(TEXT)}
        empty, deltas = {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in TEXT]
    ending = {"stop_reason": "tool_use" if wants_tool else "end_turn", "stop_sequence": None}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": call.model, "content": [block],
               **ending, "usage": stated}
    if not call.body.get("stream"):
        return message
    begun = {**message, "content": [], "stop_reason": None, "usage": {**stated, "output_tokens": 1}}
    events = [{"type": "message_start", "message": begun},
              {"type": "content_block_start", "index": 0, "content_block": empty},
              *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
              {"type": "content_block_stop", "index": 0},
              {"type": "message_delta", "delta": ending, "usage": stated},
              {"type": "message_stop"}]
    return [data(event, event["type"]) for event in events]


def count_tokens(_):
    return {"input_tokens": 14}


# Ollama's own API.


def ollama_chat(call):
    if call.wants_tool('"role": "tool"'):
        parts = [{"role": "assistant", "content": "",
                  "tool_calls": [{"function": {"name": TOOL, "arguments": ARGUMENTS}}]}]
    else:
        parts = [{"role": "assistant", "content": piece} for piece in TEXT]
    return ollama(call, "message", parts, {"role": "assistant", "content": ""})


def ollama_generate(call):
    return ollama(call, "response", TEXT, "")


def ollama(call, field, parts, nothing):
    usage = call.state(output=call.usage.output)
    common = {"model": call.model, "created_at": "2026-01-01T00:00:00Z", "done": False}
    ending = {"done": True, "done_reason": "stop", "total_duration": 9, "load_duration": 1, "prompt_eval_duration": 3,
              "eval_duration": 5, "prompt_eval_count": usage.fresh, "eval_count": usage.output}
    # Ollama streams unless it is told not to.
    if call.body.get("stream", True):
        lines = [{**common, field: part} for part in parts] + [{**common, field: nothing, **ending}]
        return [json.dumps(line) + "\n" for line in lines]
    whole = parts[0] if len(parts) == 1 else "".join(TEXT) if field == "response" else \
        {**parts[0], "content": "".join(TEXT)}
    return {**common, field: whole, **ending}


def ollama_embed(call):
    usage = call.state()
    texts = call.body["input"] if isinstance(call.body["input"], list) else [call.body["input"]]
    return {"model": call.model, "embeddings": [VECTOR for _ in texts], "prompt_eval_count": usage.fresh}


def ollama_embeddings(call):
    return {"embedding": VECTOR}


def ollama_show(call):
    return {"details": {"family": "llama"}, "model_info": {"general.architecture": "llama"},
            "capabilities": ["completion", "tools"], "modelfile": "", "template": "", "parameters": ""}


def ollama_version(_):
    return {"version": "0.13.0"}


# Gemini's.


def generate(call):
    return gemini(call)[-1 if call.wants_tool('"functionResponse"') else 0]


def stream_generate(call):
    whole, pieces, tool = gemini(call)
    events = [tool] if call.wants_tool('"functionResponse"') else pieces + [
        {**whole, "candidates": [candidate([{"text": ""}], "STOP")]}]
    return [data(event) for event in events]


def gemini(call):
    """The whole text, the pieces of it that go before a stream's last event, and the call of the tool."""
    usage = call.state(cached=call.usage.cached, output=call.usage.output)
    stated = {"promptTokenCount": usage.fresh + usage.cached, "cachedContentTokenCount": usage.cached,
              "candidatesTokenCount": usage.text, "thoughtsTokenCount": usage.reasoning,
              "totalTokenCount": usage.fresh + usage.cached + usage.output}
    common = {"modelVersion": call.model, "responseId": "r1"}
    called = [{"functionCall": {"name": TOOL, "args": ARGUMENTS}}]
    pieces = [{**common, "candidates": [candidate([{"text": piece}])]} for piece in TEXT]
    whole, tool = ({**common, "candidates": [candidate(parts, "STOP")], "usageMetadata": stated}
                   for parts in ([{"text": "".join(TEXT)}], called))
    return whole, pieces, tool


def candidate(parts, reason=None):
    ending = {"finishReason": reason} if reason else {}
    return {"index": 0, "content": {"role": "model", "parts": parts}, **ending}


def embed_content(call):
    usage = call.state()
    return {"embedding": {"values": VECTOR}, "usageMetadata": {"promptTokenCount": usage.fresh}}


def batch_embed_contents(call):
    usage = call.state()
    embedded = [{"values": VECTOR} for _ in call.body["requests"]]
    return {"embeddings": embedded, "usageMetadata": {"promptTokenCount": usage.fresh}}


def gemini_count_tokens(_):
    return {"totalTokens": 14}


# A list of events is a stream, a dictionary a document.
ANSWERS = {
    "/v1/chat/completions": chat,
    "/v1/embeddings": embeddings,
    "/v1/responses": responses,
    "/v1/messages": messages,
    "/v1/messages/count_tokens": count_tokens,
    "/api/chat": ollama_chat,
    "/api/generate": ollama_generate,
    "/api/embed": ollama_embed,
    "/api/embeddings": ollama_embeddings,
    "/api/show": ollama_show,
    "/api/version": ollama_version,
    "generateContent": generate,
    "streamGenerateContent": stream_generate,
    "embedContent": embed_content,
    "batchEmbedContents": batch_embed_contents,
    "countTokens": gemini_count_tokens,
}


def data(document, event=None):
    return (f"event: {event}\n" if event else "") + f"data: {json.dumps(document)}\n\n"


class Upstream(http.server.ThreadingHTTPServer):
    """A running upstream."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.stated = collections.Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/stated":
            self.send(200, json.dumps(self.server.stated))
        elif self.path == "/v1/models":
            entries = [{"id": name, "object": "model", "created": 1, "owned_by": "us"} for name in MODELS]
            self.send(200, json.dumps({"object": "list", "data": entries}))
        else:
            self.answer({})

    def do_POST(self):
        self.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def answer(self, body):
        path = self.path.partition("?")[0]
        script = ANSWERS.get(path) or ANSWERS.get(path.rpartition(":")[2])
        if SECRETS in self.path + str(self.headers):
            self.send(400, json.dumps({"error": {"message": "a secret of the gateway's keys came through"}}))
        elif not script:
            self.send(404, json.dumps({"error": {"message": f"the script has no {self.path}"}}))
        elif body.get("model") == "endless":
            self.stream(itertools.repeat(data({"choices": [{"index": 0, "delta": {"content": "on "}}]})), pause=0.02)
        elif isinstance(answer := script(Call(path, body, self.server)), dict):
            self.send(200, json.dumps(answer))
        else:
            self.stream(answer, "application/x-ndjson" if path.startswith("/api/") else "text/event-stream")

    def send(self, status, text):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def stream(self, pieces, content_type="text/event-stream", pause=0.0):
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece.encode()), piece.encode()))
                time.sleep(pause)
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_):
        pass
