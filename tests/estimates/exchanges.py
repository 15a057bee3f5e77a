"""Turns the recordings that ship with packages into exchanges, one JSON object a line.

Test suites record HTTP exchanges in "cassettes": YAML, plain or gzipped, in the layouts of VCR.py and of the
projects named in recordings.txt. A line has where it was found, the path that was asked, the request, and the
answer with its media type, and whether it is held back: of a fifth of the recordings, told by their
names, no number is chosen. What is no exchange of an API that keymeter serves, or no success, is left out;
so is one that another recording repeats.
"""

import base64
import gzip
import hashlib
import json
import re
import sys
import tarfile
import zlib
from pathlib import Path

import yaml

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# What an address ends with, whatever the host and the prefix.
PATHS = [
    (re.compile(r"/chat/completions$"), "/v1/chat/completions"),
    (re.compile(r"/completions$"), "/v1/completions"),
    (re.compile(r"/responses$"), "/v1/responses"),
    (re.compile(r"/embeddings$"), "/v1/embeddings"),
    (re.compile(r"/v1/messages$"), "/v1/messages"),
    (re.compile(r"/api/(chat|generate|embed)$"), None),
    (re.compile(r"/models/([^/:]+):(generateContent|streamGenerateContent|embedContent)$"), None),
]

# What an answer begins with where the recording hides the address.
SIGNS = [
    (re.compile(r'"object":\s*"chat\.completion'), "/v1/chat/completions"),
    (re.compile(r'"object":\s*"response"|"type":\s*"response\.'), "/v1/responses"),
    (re.compile(r'"type":\s*"(message|message_start)"'), "/v1/messages"),
]


def main(archives):
    seen = set()
    for archive in sorted(archives):
        for name, text in cassettes(Path(archive)):
            for exchange in exchanges(text):
                line = {"recording": name, "held_back": is_held_back(name), **exchange}
                digest = hashlib.sha256(json.dumps([exchange[part] for part in ("request", "response")]).encode())
                if digest.digest() not in seen:
                    seen.add(digest.digest())
                    print(json.dumps(line))


def is_held_back(name):
    """Whether a recording is of the fifth by which no number is chosen. Packages that copy one keep its name."""
    return hashlib.sha256(name.split("/")[-1].encode()).digest()[0] % 5 == 0


def cassettes(archive):
    with tarfile.open(archive) as files:
        for member in files:
            if member.isfile() and re.search(r"(cassettes?|_vcr)/.*\.ya?ml(\.gz)?$", member.name):
                content = files.extractfile(member).read()
                yield member.name, gzip.decompress(content) if member.name.endswith(".gz") else content


def exchanges(text):
    cassette = yaml.load(text, Loader)
    if not isinstance(cassette, dict):
        return
    pairs = cassette.get("interactions") or []
    if not pairs:
        sides = zip(cassette.get("requests", []), cassette.get("responses", []))
        pairs = [{"request": request, "response": response} for request, response in sides]
    for pair in pairs:
        exchange = isinstance(pair, dict) and read(pair["request"], pair["response"])
        if exchange:
            yield exchange


def read(request, response):
    status = response.get("status", response.get("status_code"))
    status = status.get("code") if isinstance(status, dict) else status
    asked, answer = body(request), body(response)
    if status != 200 or not asked or not answer or not asked.lstrip().startswith("{"):
        return None
    path = path_of(request.get("uri", ""), answer)
    return path and {"path": path, "request": asked, "content_type": content_type(response, answer), "response": answer}


def body(message):
    """The text of a request or an answer; none where there is none, or it is no text."""
    if "parsed_body" in message:
        return json.dumps(message["parsed_body"], ensure_ascii=False, default=str)
    content = message.get("body", message.get("content"))
    if isinstance(content, dict):
        content = content.get("string", content.get("base64_string"))
    if isinstance(content, str):
        content = content.encode()
    return decoded(content or b"")


def decoded(content):
    if content.startswith(b"\x1f\x8b"):
        content = zlib.decompress(content, wbits=31)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def path_of(uri, answer):
    address = uri.split("?")[0]
    for pattern, path in PATHS:
        found = pattern.search(address)
        if found:
            return path or (("/v1beta" if "models" in found.group(0) else "") + found.group(0))
    if address.startswith("http"):
        return None
    return next((path for sign, path in SIGNS if sign.search(answer[:2000])), None)


def content_type(response, answer):
    """What the answer looks like, since recordings hide or lose the header."""
    beginning = answer.lstrip()[:1]
    if beginning == "[":
        return "application/json"
    if beginning != "{":
        return "text/event-stream"
    try:
        json.loads(answer)
        return "application/json"
    except ValueError:
        return "application/x-ndjson"


if __name__ == "__main__":
    main(sys.argv[1:])
