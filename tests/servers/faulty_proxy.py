"""Stands between the program and an S3 server and spoils answers, by a seed.

    faulty_proxy.py --to PORT [--seed N] [--percent N]

Prints `listening on PORT`; ends when stdin does. Of the GETs, `percent` in a hundred are answered with one of: 503 SlowDown,
500 InternalError, a connection that is reset, a body that is cut off in the middle, a body that comes slowly. PUTs get 503 and
500 only, before they reach the server: whether a write that was answered with an error was done is another question.
"""

import argparse
import http.client
import http.server
import random
import socket
import struct
import sys
import threading
import time

ERROR = '<?xml version="1.0"?><Error><Code>{0}</Code><Message>{0}</Message></Error>'


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    random_lock = threading.Lock()

    def log_message(self, *_):
        pass

    def fault(self):
        with self.random_lock:
            if self.server.random.randrange(100) >= self.server.percent:
                return None
            kinds = ["slow-down", "internal"]
            if self.command == "GET":
                kinds += ["reset", "cut", "slow"]
            return self.server.random.choice(kinds)

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.fault()
        if fault in ("slow-down", "internal"):
            code, status = ("SlowDown", 503) if fault == "slow-down" else ("InternalError", 500)
            return self.answer(status, [("Content-Type", "application/xml")], ERROR.format(code).encode())
        if fault == "reset":
            # Linger of no time: the peer sees a reset, not an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return None
        server = http.client.HTTPConnection("127.0.0.1", self.server.to)
        server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            server.putheader(name, value)
        server.endheaders(body)
        answer = server.getresponse()
        content = answer.read()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in ("connection", "transfer-encoding")]
        if fault == "slow" and content:
            time.sleep(0.3)
        self.answer(answer.status, headers, content, cut=fault == "cut" and len(content) > 1)
        return None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def answer(self, status, headers, content, cut=False):
        self.send_response_only(status)
        length = [value for name, value in headers if name.lower() == "content-length"]
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", length[0] if self.command == "HEAD" and length else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.wfile.flush()
            self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A peer that went away is what this is about."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--percent", type=int, default=20)
    arguments = parser.parse_args()
    server = Server(("127.0.0.1", 0), Proxy)
    server.to, server.percent, server.random = arguments.to, arguments.percent, random.Random(arguments.seed)
    print(f"listening on {server.server_address[1]}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
