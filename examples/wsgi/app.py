"""Sessions without a framework: pycket sends the session as request headers,
and the application changes it with response headers."""

import json
from html import escape
from urllib.parse import parse_qs

PAGE = """<!doctype html>
<title>pycket and WSGI</title>
{flash}
<p>Hello, {user}.</p>
<p>Visit {visits}.</p>
<form method="post" action="/login"><input name="user"><button>Log in</button></form>
<form method="post" action="/logout"><button>Log out</button></form>
"""


def app(environ, start_response):
    # WSGI spells the header X-Session as HTTP_X_SESSION.
    session = json.loads(environ.get("HTTP_X_SESSION", "{}"))
    notifications = json.loads(environ.get("HTTP_X_NOTIFICATIONS", "{}"))
    route = environ["REQUEST_METHOD"], environ["PATH_INFO"]

    if route == ("POST", "/login"):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        form = parse_qs(environ["wsgi.input"].read(length).decode())
        user = form.get("user", [""])[0]
        start_response("303 See Other", [
            # json.dumps() writes ASCII only, so any name fits into a header.
            ("X-Session-Set", json.dumps({"user": user})),
            ("X-Session-Control", "renew"),  # a new id for whoever is somebody new
            ("X-Notifications-Set", json.dumps({"flash": "Welcome back"})),
            ("Location", "/"),
        ])
        return []

    if route == ("POST", "/logout"):
        start_response("303 See Other", [("X-Session-Control", "destroy"), ("Location", "/")])
        return []

    if route != ("GET", "/"):
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"Not found"]

    visits = session.get("visits", 0) + 1
    flash = notifications.get("flash")
    start_response("200 OK", [
        ("Content-Type", "text/html; charset=utf-8"),
        ("X-Session-Set", json.dumps({"visits": visits})),
    ])
    return [PAGE.format(
        flash=f"<p><em>{escape(flash)}</em></p>" if flash else "",
        user=escape(session.get("user", "stranger")),
        visits=visits,
    ).encode()]
