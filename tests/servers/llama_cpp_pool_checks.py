"""What holds of two llama.cpp servers behind one pool: together they count as one, and one that is killed costs no request."""

import concurrent.futures
import contextlib
import pathlib
import re
import tempfile

from scene import FIELDS, Gateway, Server, read, until
from wire import ask

NAME = "tiny-pool"
MESSAGES = [{"role": "user", "content": "how do the moon and the sea go on"}]


@contextlib.contextmanager
def pool(scene):
    with contextlib.ExitStack() as started, tempfile.TemporaryDirectory() as directory:
        servers = []
        for number in (1, 2):
            command = ["serve_llama_cpp.py", str(scene.model), NAME, "text"]
            server = Server(f"{NAME}-{number}", command, r"listens at (\S+)", scene.directory)
            started.callback(server.stop)
            servers.append(server)
        gateway = Gateway({NAME: [server.url for server in servers]}, pathlib.Path(directory))
        started.callback(gateway.stop)
        yield servers, gateway


def ask_often(gateway, count, **options):
    """Answers to so many requests, six at once, every other one a stream."""

    def one(number):
        body = {"model": NAME, "messages": MESSAGES, "max_tokens": 12, "temperature": 0, **options}
        return ask(gateway.url, "/v1/chat/completions", body | ({"stream": True} if number % 2 else {}))

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        return list(threads.map(one, range(count)))


def generated(server):
    return int(re.search(r"^llamacpp:tokens_predicted_total (\d+)", read(f"{server.url}/metrics"), re.MULTILINE)[1])


def counted(gateway, requests):
    """What the log's lines say, with which the metrics agree."""
    lines = [gateway.lines.get(timeout=20) for _ in range(requests)]
    sums = {kind: sum(line[field] for line in lines) for kind, field in FIELDS.items()}
    until(lambda: gateway.counted() == sums, f"the metrics show {sums}")
    return lines, sums


def two_servers_count_as_one(scene):
    with pool(scene) as (servers, gateway):
        answers = ask_often(gateway, 40)
        assert all(answer.status == 200 for answer in answers), answers
        lines, sums = counted(gateway, 40)
        by_server = [generated(server) for server in servers]
        assert sum(by_server) == sums["output"] and min(by_server) > 0, (by_server, sums)
        assert {line["attempts"] for line in lines} == {1}, lines
        return f"{sums['output']} tokens, of which the servers generated {by_server[0]} and {by_server[1]}"


def a_server_that_is_killed_under_load(scene):
    with pool(scene) as (servers, gateway), concurrent.futures.ThreadPoolExecutor(1) as beside:
        answers = beside.submit(ask_often, gateway, 120, max_tokens=40)
        until(lambda: generated(servers[0]) > 100, "the first server is at work")
        servers[0].stop()
        answers = answers.result()
        # A stream that has begun is the only thing that nobody can do again.
        cut = [answer for answer in answers if b"data: " in answer.body and b"[DONE]" not in answer.body]
        assert all(answer.status == 200 for answer in answers) and len(cut) <= 6, answers
        lines, _ = counted(gateway, 120)
        whole = [line for line in lines if line["usage_source"] == "upstream"]
        assert len(whole) >= 120 - len(cut), lines
        again = sum(line["attempts"] > 1 for line in lines)
        return f"{len(cut)} streams were cut, {again} requests were tried elsewhere"


CHECKS = [two_servers_count_as_one, a_server_that_is_killed_under_load]
