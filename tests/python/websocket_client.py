"""A WebSocket client by Tornado: talks to a server at an address, twice, and says as JSON what came of it.

Usage: websocket_client.py ADDRESS"""

import asyncio
import json
import sys

from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect


async def connect(cookie):
    headers = {"Cookie": cookie} if cookie else {}
    request = HTTPRequest(f"ws://{sys.argv[1]}/echo", headers=headers)
    return await websocket_connect(
        request, subprotocols=["one", "two"], compression_options={}, ping_interval=0.2, ping_timeout=10,
        max_message_size=16 << 20)


async def ask(socket, message):
    await socket.write_message(message, binary=isinstance(message, bytes))
    return await socket.read_message()


async def main():
    first = await connect(None)
    cookie = first.headers["Set-Cookie"].split(";")[0]
    large = bytes(range(256)) * 8192
    said = {
        "protocol": first.selected_subprotocol,
        "first": json.loads(await ask(first, "session")),
        "text": await ask(first, "gr\u00fc\u00dfe"),
        "large": await ask(first, large) == large,
    }
    # Pings go on meanwhile.
    second = await connect(cookie)
    said["second"] = json.loads(await ask(second, "session"))
    many = [str(number) for number in range(1000)]
    for message in many:
        await second.write_message(message)
    said["many"] = [await second.read_message() for _ in many] == many
    said["end"] = [await ask(first, "close"), first.close_code, first.close_reason]
    second.close(1000, "enough")
    said["own_end"] = await second.read_message()
    print(json.dumps(said))


asyncio.run(main())
