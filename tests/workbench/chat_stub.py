"""A real HTTP server on this machine that answers as an OpenAI-compatible endpoint would, as each test scripts it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-very+secret/0123456789"


class Stub:
    """`script(number, body)` is what request `number` (from 0) gets: a text, a status, (status, headers, content).

    A script may sleep. Requests are kept as (path, headers, body), with the time at which each came.
    """

    def __init__(self, script: Callable):
        self.requests, self.times, self.open, self.most = [], [], 0, 0
        stub, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(stub.requests)
                    stub.requests.append((self.path, dict(self.headers), body))
                    stub.times.append(time.monotonic())
                    stub.open += 1
                    stub.most = max(stub.most, stub.open)
                answer = script(number, body)
                with lock:
                    stub.open -= 1
                if isinstance(answer, str):
                    answer = (200, {}, {"choices": [{"message": {"role": "assistant", "content": answer}}]})
                elif isinstance(answer, int):
                    answer = (answer, {}, {"error": {"message": f"no, {self.headers['Authorization']}"}})
                status, headers, content = answer
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self):  # where a followed redirect would come out
                stub.requests.append((self.path, dict(self.headers), None))
                self.send_error(418)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args):  # a client that has given up
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
