"""The Python library in a Tornado application, at the service of the tests.

Its only argument is Tornado's settings as JSON; it listens on the socket that is its standard
input. Names and values come from the query or from a form, values as JSON; answers are JSON.
"""

import asyncio
import datetime
import decimal
import json
import socket
import sys

from pycket.notification import NotificationMixin
from pycket.session import SessionMixin
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler


class Point:
    """A class that only this application has."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __eq__(self, other):
        return type(other) is Point and vars(self) == vars(other)

    __hash__ = None


def shared():
    inner = ["one"]
    return [inner, inner]


def recursive():
    outer = []
    outer.append(outer)
    return outer


def same(made, kept):
    return type(kept) is type(made) and kept == made


def both_are_one(_, kept):
    return kept == [["one"], ["one"]] and kept[0] is kept[1]


def holds_itself(_, kept):
    return type(kept) is list and len(kept) == 1 and kept[0] is kept


# What JSON can't say: how each kind is made, and how it is told whether it is still the same.
KINDS = {
    "datetime": (lambda: datetime.datetime(2013, 3, 11, 22, 22, 14), same),
    "decimal": (lambda: decimal.Decimal("1.10"), same),
    "tuple": (lambda: (1, "two"), same),
    "set": (lambda: {1, 2, 3}, same),
    "bytes": (lambda: b"\x00\xff", same),
    "object": (lambda: Point(1, [2]), same),
    "big": (lambda: 2**100, same),
    "numbered": (lambda: {1: "one"}, same),
    "shared": (shared, both_are_one),
    "recursive": (recursive, holds_itself),
}


class Base(RequestHandler, SessionMixin, NotificationMixin):
    def get(self):
        self.set_header("Content-Type", "application/json")
        self.write(json.dumps(self.answer()))

    post = get

    def name(self):
        return self.get_argument("name")

    def values(self):
        """Each `name` with the `value` that stands at the same place."""
        values = map(json.loads, self.get_arguments("value"))
        return zip(self.get_arguments("name"), values, strict=True)


class Nothing(Base):
    """Touches neither session nor notifications."""

    def answer(self):
        return None


class Id(Base):
    """The id in the cookie, as the library reads it."""

    def answer(self):
        value = self.get_secure_cookie("PYCKET_ID")
        return None if value is None else value.decode()


class Set(Base):
    def answer(self):
        for name, value in self.values():
            self.session.set(name, value)


class Get(Base):
    def answer(self):
        return self.session.get(self.name())


class Delete(Base):
    def answer(self):
        self.session.delete(*self.get_arguments("name"))


class Names(Base):
    def answer(self):
        return sorted(self.session.keys())


class Put(Base):
    """Sets a value of a kind that JSON can't say."""

    def answer(self):
        make, _ = KINDS[self.get_argument("kind")]
        self.session.set(self.name(), make())


class Kept(Base):
    """Whether what `Put` has set is still there, type, sharing and all."""

    def answer(self):
        make, still = KINDS[self.get_argument("kind")]
        return still(make(), self.session.get(self.name()))


class Notify(Base):
    def answer(self):
        for name, value in self.values():
            self.notifications.set(name, value)


class Show(Base):
    """A notification, which is gone by that."""

    def answer(self):
        return self.notifications.get(self.name())


class Waiting(Base):
    def answer(self):
        return sorted(self.notifications.keys())


class Kinds(Base):
    def answer(self):
        return sorted(KINDS)


def application(settings):
    # Several servers can have weights, as pairs; JSON has no tuples, and the client wants them.
    storage = settings["pycket"]["storage"]
    if "servers" in storage:
        servers = storage["servers"]
        storage["servers"] = [tuple(s) if isinstance(s, list) else s for s in servers]
    return Application(
        [
            ("/nothing", Nothing),
            ("/id", Id),
            ("/kinds", Kinds),
            ("/session/set", Set),
            ("/session/get", Get),
            ("/session/delete", Delete),
            ("/session/names", Names),
            ("/session/put", Put),
            ("/session/kept", Kept),
            ("/notifications/set", Notify),
            ("/notifications/show", Show),
            ("/notifications/waiting", Waiting),
        ],
        **settings,
    )


async def main():
    listener = socket.socket(fileno=sys.stdin.fileno())
    listener.setblocking(False)
    HTTPServer(application(json.loads(sys.argv[1]))).add_sockets([listener])
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
