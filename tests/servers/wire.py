"""What goes over the wire: requests, answers as they came, and a recorder that stands between gateway and server."""

import contextlib
import dataclasses
import http.client
import json
import socket
import threading
import urllib.parse

PATIENCE = 20
SECRET = "sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef2P40Ol"


@dataclasses.dataclass
class Answer:
    """An answer whose body is as it came, but for the framing of its transfer."""

    status: int
    content_type: str
    body: bytes

    def documents(self):
        """Its JSON: one document, or those of its events, the last of which may be cut off."""
        if not self.content_type.startswith("text/event-stream"):
            return [json.loads(self.body)]
        *events, _ = self.body.replace(b"\r\n", b"\n").split(b"\n\n")
        data = [line[5:].strip() for event in events for line in event.splitlines() if line.startswith(b"data:")]
        return [json.loads(text) for text in data if text not in (b"[DONE]", b"null")]

    def text(self):
        """What its choices say, as a stream or not."""
        choices = [choice for document in self.documents() for choice in document["choices"]]
        said = [choice.get("delta", choice.get("message", choice)) for choice in choices]
        return "".join(message.get("content") or message.get("text") or "" for message in said)


def ask(url, path, body):
    """Sends a request and reads the answer to its end."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=PATIENCE)
    with contextlib.closing(connection):
        headers = {"content-type": "application/json", "authorization": f"Bearer {SECRET}"}
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return Answer(response.status, response.getheader("content-type", ""), response.read())


class Recorder:
    """Passes every byte between gateway and server on as it comes, and keeps the server's last answer."""

    def __init__(self, server_url):
        address = urllib.parse.urlsplit(server_url)
        self.server = (address.hostname, address.port)
        self.last = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            gateway, _ = self.listener.accept()
            connection = Connection(gateway, socket.create_connection(self.server))
            threading.Thread(target=connection.pass_requests, args=(self,), daemon=True).start()
            threading.Thread(target=connection.pass_answers, daemon=True).start()

    def answer(self):
        """What the server answered to the last request, as far as it came."""
        head, _, body = bytes(self.last.sent).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), bytes(self.last.sent)
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        if headers.get("transfer-encoding") == "chunked":
            body = dechunked(body)
        return Answer(int(status.split()[1]), headers.get("content-type", ""), body)


class Connection:
    """Two sockets, and what went from the server to the gateway since the last request."""

    def __init__(self, gateway, server):
        self.gateway, self.server = gateway, server
        self.sent, self.is_closed = bytearray(), False

    def pass_requests(self, recorder):
        with contextlib.suppress(OSError):
            while piece := self.gateway.recv(65536):
                self.sent, recorder.last = bytearray(), self
                self.server.sendall(piece)
        self.shut()

    def pass_answers(self):
        with contextlib.suppress(OSError):
            while piece := self.server.recv(65536):
                self.sent += piece
                self.gateway.sendall(piece)
        self.shut()
        self.is_closed = True

    def shut(self):
        for end in (self.gateway, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def dechunked(body):
    """The data of chunks, of which the last may be cut off."""
    data = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        size = int(size or b"0", 16)
        data, body = data + rest[:size], rest[size + 2 :]
    return data
