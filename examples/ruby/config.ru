# Sessions without Rack::Session: pycket sends the session as request headers,
# and the application changes it with response headers.
require "erb"
require "json"
require "uri"

PAGE = ERB.new(<<~HTML)
  <!doctype html>
  <title>pycket and Rack</title>
  <% if flash %><p><em><%= ERB::Util.h(flash) %></em></p><% end %>
  <p>Hello, <%= ERB::Util.h(user) %>.</p>
  <p>Visit <%= visits %>.</p>
  <form method="post" action="/login"><input name="user"><button>Log in</button></form>
  <form method="post" action="/logout"><button>Log out</button></form>
HTML

run lambda { |env|
  # Rack spells the header X-Session as HTTP_X_SESSION.
  session = JSON.parse(env.fetch("HTTP_X_SESSION", "{}"))
  notifications = JSON.parse(env.fetch("HTTP_X_NOTIFICATIONS", "{}"))

  case [env["REQUEST_METHOD"], env["PATH_INFO"]]
  in ["POST", "/login"]
    user = URI.decode_www_form(env["rack.input"].read).to_h.fetch("user", "")
    [303, {
      # The form encoding is ASCII, so any name fits into a header.
      "x-session-set" => URI.encode_www_form(user: user),
      "x-session-control" => "renew", # a new id for whoever is somebody new
      "x-notifications-set" => "flash=Welcome+back",
      "location" => "/"
    }, []]
  in ["POST", "/logout"]
    [303, { "x-session-control" => "destroy", "location" => "/" }, []]
  in ["GET", "/"]
    user = session.fetch("user", "stranger")
    visits = session.fetch("visits", 0) + 1
    flash = notifications["flash"]
    [200, {
      "content-type" => "text/html; charset=utf-8",
      "x-session-set" => JSON.generate(visits: visits)
    }, [PAGE.result(binding)]]
  else
    [404, { "content-type" => "text/plain" }, ["Not found"]]
  end
}
