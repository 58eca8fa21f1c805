"""A WebSocket server by Tornado. It says its port, and ends when its standard input does.

The handshake begins a session, by X-Session-Set; what a client says is said back, with what the request knew of
its session and of where it came from."""

import asyncio
import json
import sys
import threading

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler


class Echo(WebSocketHandler):
    def prepare(self):
        self.session = json.loads(self.request.headers["X-Session"])
        self.set_header("X-Session-Set", f"visits={int(self.session.get('visits', 0)) + 1}")

    def select_subprotocol(self, subprotocols):
        return subprotocols[-1] if subprotocols else None

    def get_compression_options(self):
        return {}

    def on_message(self, message):
        if message == "session":
            message = json.dumps([self.session, self.request.headers["X-Forwarded-For"]])
        elif message == "close":
            return self.close(4000, "as you say")
        self.write_message(message, binary=isinstance(message, bytes))


async def main():
    server = HTTPServer(Application([("/echo", Echo)], websocket_max_message_size=16 << 20))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    print("port", sockets[0].getsockname()[1], flush=True)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    wait = lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set))
    threading.Thread(target=wait, daemon=True).start()
    await ended.wait()


asyncio.run(main())
