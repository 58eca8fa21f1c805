"""Sessions with the Python library pycket, inside of a Tornado application.

pycket.toml beside this file lets the proxy share them with other applications.
"""

import asyncio
import json
import os
from html import escape

from pycket.notification import NotificationMixin
from pycket.session import SessionMixin
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

PORT = int(os.environ.get("PORT", "8888"))
SETTINGS = {
    "cookie_secret": os.environ.get("SECRET", "only for trying it out on this machine"),
    "pycket": {
        "engine": os.environ.get("ENGINE", "redis"),
        "storage": json.loads(os.environ.get("STORAGE", '{"host": "127.0.0.1", "port": 6379}')),
        "cookies": {"expires_days": 30, "httponly": True},
    },
}

PAGE = """<!doctype html>
<title>pycket and Tornado</title>
{flash}
<p>Hello, {user}.</p>
<p>Visit {visits}.</p>
<form method="post" action="/login"><input name="user"><button>Log in</button></form>
<form method="post" action="/logout"><button>Log out</button></form>
"""


class Main(RequestHandler, SessionMixin, NotificationMixin):
    def get(self):
        # Without a cookie, each access makes an id of its own, and the last one stays: so the
        # session is written last.
        flash = self.notifications.get("flash")
        user = self.session.get("user", "stranger")
        visits = self.session.get("visits", 0) + 1
        self.session.set("visits", visits)
        self.write(PAGE.format(
            flash=f"<p><em>{escape(flash)}</em></p>" if flash else "",
            user=escape(user),
            visits=visits,
        ))


class Login(RequestHandler, SessionMixin, NotificationMixin):
    def post(self):
        self.session.set("user", self.get_argument("user"))
        self.notifications.set("flash", "Welcome back")
        self.redirect("/", status=303)


class Logout(RequestHandler, SessionMixin):
    def post(self):
        # The library can't end a session, but it can forget what is in it.
        self.session.delete("user", "visits")
        self.redirect("/", status=303)


async def main():
    app = Application([("/", Main), ("/login", Login), ("/logout", Logout)], **SETTINGS)
    sockets = bind_sockets(PORT, "127.0.0.1")
    HTTPServer(app).add_sockets(sockets)
    print(f"http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
