"""
A server in a sandbox, behind the port that is its argument. `GET` answers with what it was asked as, `GET /slow` in two
parts well apart, `POST` with the body, and WebSockets with what they say.
"""
import base64
import hashlib
import http.server
import json
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.answer(201, body, {"x-method": self.command, "x-asked": self.headers.get("x-ask", "")})

    def do_GET(self):
        if self.headers.get("upgrade", "").lower() == "websocket":
            return self.socket()
        if self.path == "/slow":
            return self.slow()
        asked = {"host": self.headers["host"], "proto": self.headers["x-forwarded-proto"]}
        self.answer(200, json.dumps(asked).encode(), {})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def slow(self):
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for line in (b"first", b"second"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
            time.sleep(0.7)
        self.wfile.write(b"0\r\n\r\n")

    def socket(self):
        key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("upgrade", "websocket")
        self.send_header("connection", "Upgrade")
        self.send_header("sec-websocket-accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.wfile.flush()
        while True:
            kind, length = self.rfile.read(2)
            length &= 127
            mask = self.rfile.read(4)
            said = bytes(byte ^ mask[n % 4] for n, byte in enumerate(self.rfile.read(length)))
            self.wfile.write(bytes((kind, length)) + said)
            self.wfile.flush()
            if kind & 15 == 8:
                break
        self.close_connection = True

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
