"""The whole life of a key with real processes: a control plane, two gateways, a scripted upstream and the official client.

Team, member, credit, key, stream, usage, disable in mid-stream, enable, regenerate with and without grace, out of
balance, credit, delete, history: by `keymeter`'s own commands, on SQLite and then on PostgreSQL. Starts `keymeter` from
the path in KEYMETER, else from target/debug. The last line is `N passed, M failed`; the exit code is 1 if any failed.
"""

import asyncio
import contextlib
import glob
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

import openai

ROOT = pathlib.Path(__file__).parents[2]
KEYMETER = os.environ.get("KEYMETER") or str(ROOT / "target" / "debug" / "keymeter")
OPERATOR, GATEWAYS = "operator-token-0123456789-0123456789", "gateway-token-0123456789-0123456789"
PATIENCE = 20
MESSAGES = [{"role": "user", "content": "How do tides work?"}]


class Upstream:
    """Answers with as many words as it is asked for, and adds up what it says was used; `slow` streams do not end."""

    def __init__(self):
        self.requests = self.output = 0

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = json.loads(await reader.readexactly(int(re.search(rb"content-length: (\d+)", head.lower())[1])))
                if body["model"] == "slow":
                    await self.slow(reader, writer)
                    break
                words = body.get("max_tokens", 5)
                self.requests, self.output = self.requests + 1, self.output + words
                await self.answer(writer, body, words)
        writer.close()

    async def answer(self, writer, body, words):
        usage = {"prompt_tokens": 9, "completion_tokens": words, "total_tokens": 9 + words}
        common = {"id": "c", "created": 0, "model": "m"}
        if not body.get("stream"):
            message = {"index": 0, "message": {"role": "assistant", "content": "word"}, "finish_reason": "stop"}
            text = json.dumps({**common, "object": "chat.completion", "choices": [message], "usage": usage}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(text) + text)
            return
        choice = {"index": 0, "delta": {"content": "word"}, "finish_reason": None}
        events = [{**common, "object": "chat.completion.chunk", "choices": [choice]}]
        events.append({**common, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(text) + text)

    async def slow(self, reader, writer):
        event = b'data: {"id":"c","object":"chat.completion.chunk","created":0,"model":"slow",' \
                b'"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        while not reader.at_eof():
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(0.02)


@contextlib.contextmanager
def postgres(directory):
    """A server of Debian's package on a free port, which does not run as root."""
    binaries = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    if as_user:
        subprocess.run(["chown", "postgres", directory], check=True)
    data, port = f"{directory}/data", free_port()
    initdb = [f"{binaries}/initdb", "-D", data, "-A", "trust", "-U", "keymeter", "--no-sync", "-E", "UTF8", "--locale=C"]
    subprocess.run(as_user + initdb, check=True, stdout=subprocess.DEVNULL)
    command = [f"{binaries}/postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
    server = subprocess.Popen(as_user + command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ready = [f"{binaries}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        until("PostgreSQL", lambda: subprocess.run(ready).returncode == 0)
        yield f"postgres://keymeter@127.0.0.1:{port}/postgres"
    finally:
        server.kill()
        server.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, holds):
    start = time.perf_counter()
    while not holds():
        if time.perf_counter() - start > PATIENCE:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.01)
    return time.perf_counter() - start


class Gateway:
    """A gateway process; with a database, the control plane runs in it."""

    def __init__(self, directory, name, upstream, control, database=None):
        path = directory / f"{name}.yaml"
        url = f"http://127.0.0.1:{control}/v1"
        section = f'control: {{listen: "127.0.0.1:{control}", token: {OPERATOR}, gateway_token: {GATEWAYS}, database: "{database}"}}'
        path.write_text(
            f"""
server: {{listen: ["127.0.0.1:0"]}}
admin: {{listen: "127.0.0.1:0"}}
upstreams: [{{name: scripted, url: "http://127.0.0.1:{upstream}"}}]
keys: {{http: {{url: "{url}/keys/{{hash}}", events_url: "{url}/keys/events", usage_url: "{url}/usage/records", token: {GATEWAYS}}}}}
ledger: {{directory: spool-{name}}}
models: [{{name: "*", input: "0", output: "1000"}}]
limits: {{store: limits-{name}}}
{section if database else ""}
"""
        )
        command = [KEYMETER, "serve", "--config", str(path)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listening on \S+:(\d+) .*admin address \S+:(\d+)", line):
                break
        else:
            sys.exit(f"{name} did not start")
        self.port = int(found[1])

    def client(self, key):
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, timeout=PATIENCE, max_retries=0)

    def ask(self, key, words=5, model="m"):
        """The code of the error, or the tokens that were used."""
        try:
            answer = self.client(key).chat.completions.create(model=model, messages=MESSAGES, max_tokens=words)
            return answer.usage.completion_tokens
        except openai.APIStatusError as error:
            return error.code


class Commands:
    """`keymeter` against the control plane."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"
        self.said = []

    def __call__(self, *words, token=OPERATOR):
        command = [KEYMETER, *words, "--control", self.url]
        environment = {**os.environ, "KEYMETER_CONTROL_TOKEN": token}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        self.said.append(done.stderr)
        if done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout.strip()

    def json(self, *words, **options):
        return json.loads(self(*words, "--output", "json", **options))


def budget(commands, gateway, check):
    """A month's money, set by command on a key and on a team, run into with the official client, and raised."""
    key = commands("keys", "create", "--name", "On a budget", "--quota", "usd=0.02/month@Europe/Berlin")
    identity = next(row["id"] for row in commands.json("keys", "list") if row["name"] == "On a budget")
    answered = 0
    while (answer := gateway.ask(key)) == 5:
        answered += 1
    check(f"a budget of $0.02 lets 4 answers of $0.005 through ({answered})", (answered, answer) == (4, "insufficient_quota"))
    try:
        gateway.client(key).with_options(max_retries=2).chat.completions.create(model="m", messages=MESSAGES, max_tokens=5)
    except openai.RateLimitError as error:
        told, headers = error.message, error.response.headers
    check("the message tells whose, what and when", "$0.02" in told and "per month" in told and "room in" in told)
    check("and the client does not try again for a month", headers["x-should-retry"] == "false" and int(headers["retry-after"]) > 60)
    commands("keys", "update", identity, "--quota", "usd=0.03/month@Europe/Berlin")
    until("the raised budget", lambda: gateway.ask(key) == 5)
    check("what was used stays used", [gateway.ask(key), gateway.ask(key)] == [5, "insufficient_quota"])

    commands("users", "create", "gus", "--name", "Gus G.")
    commands("teams", "create", "batch", "--name", "Batch jobs", "--owner", "gus")
    commands("wallets", "credit", "batch", "5", "--idempotency-key", "first")
    keys = [commands("keys", "create", "--name", f"Job {number}", "--team", "batch") for number in range(2)]
    commands("teams", "limits", "batch", "--quota", "requests=3/day")
    answers = [gateway.ask(keys[number % 2]) for number in range(4)]
    check("a team's keys share one room", answers == [5, 5, 5, "insufficient_quota"])
    commands("teams", "limits", "batch", "--clear", "quotas")
    until("the team without a limit", lambda: gateway.ask(keys[0]) == 5)


def life_of_a_key(commands, gateways, upstream, check):
    ada = commands("users", "create", "ada", "--name", "Ada L.")
    bob = commands("users", "create", "bob", "--name", "Bob B.")
    commands("teams", "create", "research", "--name", "Research", "--owner", "ada")
    commands("teams", "add", "research", "bob", token=ada)
    check("whoever is invited is told so", commands.said[-1] == "invited: bob must accept to be member of research\n")
    check("and has to accept", commands.json("teams", "show", "research")["members"] == [{"user": "ada", "role": "owner"}])
    invited = commands.json("teams", "invitations", token=bob)
    check("the invitation is seen", [(row["team"], row["role"]) for row in invited] == [("research", "member")])
    commands("teams", "accept", "research", token=bob)
    check("accepted, it is so", commands.said[-1] == "accepted: you are member of research\n")
    commands("wallets", "credit", "research", "5", "--idempotency-key", "first")
    commands("wallets", "credit", "research", "5", "--idempotency-key", "first")
    check("a credit counts once", commands.json("wallets", "show", "research")["balance_usd"] == "5")
    key = commands("keys", "create", "--name", "Team's key", "--team", "research", token=ada)
    listed = commands.json("keys", "list", token=bob)
    identity = listed[0]["id"]
    check("a member sees the key and not its secret", len(listed) == 1 and key not in json.dumps(listed))
    refused = subprocess.run([KEYMETER, "keys", "create", "--control", commands.url, "--name", "Mine", "--team", "research"],
                             env={**os.environ, "KEYMETER_CONTROL_TOKEN": bob}, capture_output=True, text=True)
    check("a member makes none", refused.returncode == 1 and "(403)" in refused.stderr)
    check("it works at once on both", [gateway.ask(key) for gateway in gateways] == [5, 5])
    stream = list(gateways[1].client(key).chat.completions.create(model="m", messages=MESSAGES, max_tokens=7, stream=True))
    check("a stream comes without what was not asked for", all(chunk.choices for chunk in stream) and stream)

    used = lambda: commands.json("usage", "--by", "key,model", "--key", identity)
    until("the usage", lambda: used() and used()[0]["requests"] == 3)
    row = used()[0]
    expected = (upstream.output, "0.017", "Team's key", ["m"])
    check("usage is the upstream's own", (row["output_tokens"], row["cost_usd"], row["key_name"], row["models"]) == expected)
    until("the charge", lambda: commands.json("wallets", "show", "research")["balance_usd"] == "4.983")

    running = gateways[0].client(key).chat.completions.create(model="slow", messages=MESSAGES, stream=True)
    for _ in zip(range(3), running):
        pass
    commands("keys", "disable", identity, token=ada)
    start = time.perf_counter()
    try:
        for _ in running:
            pass
        ending = "an end"
    except openai.APIError as error:
        ending = error.code
    print(f"     the stream ended {(time.perf_counter() - start) * 1000:.0f} ms after the command")
    check("a running stream is cut", ending == "api_key_disabled")
    check("the next request is refused on both", [gateway.ask(key) for gateway in gateways] == ["api_key_disabled"] * 2)
    commands("keys", "enable", identity, token=ada)
    check("enabled, it works on both", [gateway.ask(key) for gateway in gateways] == [5, 5])

    second = commands("keys", "regenerate", identity, token=ada)
    check("replaced, the old secret is dead", [gateway.ask(key) for gateway in gateways] == ["invalid_api_key"] * 2)
    third = commands("keys", "regenerate", identity, "--grace", "2s", token=ada)
    check("with grace both work", [gateway.ask(secret) for gateway in gateways for secret in (second, third)] == [5] * 4)
    until("the end of the grace", lambda: all(gateway.ask(second) == "invalid_api_key" for gateway in gateways))
    check("then the new one does", [gateway.ask(third) for gateway in gateways] == [5, 5])

    while gateways[0].ask(third, words=450) == 450:
        pass
    lag = until("the other gateway", lambda: gateways[1].ask(third, words=1) == "insufficient_quota")
    print(f"     the other gateway followed {lag * 1000:.0f} ms later")
    check("out of balance, it is refused on both", lag < 1 and gateways[0].ask(third) == "insufficient_quota")
    state = lambda: commands.json("keys", "show", identity)["state"]
    until("the state", lambda: state() == "no_balance")
    commands("wallets", "credit", "research", "2", "--idempotency-key", "second")
    until("the credit", lambda: [gateway.ask(third) for gateway in gateways] == [5, 5])
    check("a credit brings it back", state() == "active")

    commands("keys", "delete", identity, token=ada)
    check("deleted, it is refused on both", [gateway.ask(third) for gateway in gateways] == ["invalid_api_key"] * 2)
    settled = lambda: [row for row in used() if row["model"] == "m"][0]["output_tokens"] == upstream.output
    until("the last records", settled)
    rows = {row["model"]: row for row in used()}
    check("its history stays, to the token", rows["m"]["requests"] == upstream.requests and "slow" in rows)
    total = commands.json("usage")[0]
    balance = commands.json("wallets", "show", "research")["balance_usd"]
    nanos = lambda text: round(float(text) * 1_000_000_000)
    check("the money adds up", nanos(total["cost_usd"]) + nanos(balance) == 7_000_000_000)
    end_of_a_team(commands, ada, balance, check)
    audit = json.dumps(commands.json("audit"))
    secrets = [ada, bob, key, second, third]
    check("the audit knows who did it", all(word in audit for word in ("key.delete", "wallet.credit", "team.delete", '"ada"')))
    check("and no secret", not any(secret in audit or secret in "".join(commands.said) for secret in secrets))
    print(commands("usage", "--by", "key,model"))


def end_of_a_team(commands, owner, balance, check):
    eve = commands("users", "create", "eve", "--name", "Eve E.")
    commands("teams", "add", "research", "eve", "--role", "admin", token=owner)
    commands("teams", "decline", "research", token=eve)
    check("whoever declines is told what that means", "does not invite you again" in commands.said[-1])
    commands("teams", "add", "research", "eve", "--role", "admin")
    check("the operator's word is enough", commands.said[-1] == "eve is admin of research\n")
    commands("teams", "remove", "research", "eve")
    commands("teams", "delete", "research", "--refund-to", "ada")
    check("a deleted team's money goes back", commands.json("wallets", "show", "ada")["balance_usd"] == balance)
    check("and nobody is on it", {row["team"] for row in commands.json("users", "list")} == {None})


async def scene(directory, database, check):
    upstream = await Upstream().start()
    control = free_port()
    gateways = [Gateway(directory, "one", upstream.port, control, database)]
    try:
        gateways.append(Gateway(directory, "two", upstream.port, control))
        commands = Commands(control)
        await asyncio.get_running_loop().run_in_executor(None, life_of_a_key, commands, gateways, upstream, check)
        await asyncio.get_running_loop().run_in_executor(None, budget, commands, gateways[0], check)
    finally:
        for gateway in gateways:
            gateway.process.kill()


def main():
    passed, failed = [], []

    def check(name, holds):
        (passed if holds else failed).append(name)
        print(f"{'ok  ' if holds else 'FAIL'} {name}")

    with tempfile.TemporaryDirectory() as directory:
        print("on SQLite")
        asyncio.run(scene(pathlib.Path(directory), "sqlite://data/keymeter.db", check))
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as data, postgres(data) as url:
        print("on PostgreSQL")
        asyncio.run(scene(pathlib.Path(directory), url, check))
    print(f"{len(passed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
