#!/bin/sh
# Sessions in a shell script: pycket sends the session as request headers, which CGI
# turns into variables, and the script changes it with response headers.
# With encode = "form" the session is user=alice&visits=3 and needs no JSON.

# One field of a form; safe to print, because it keeps only what needs no escaping.
field() {
    printf '%s\n' "$1" | tr '&' '\n' | sed -n "s/^$2=//p" | tr '+' ' ' | tr -cd 'A-Za-z0-9 _-'
}

case "$REQUEST_METHOD ${REQUEST_URI%%\?*}" in
"POST /login")
    form=$(head -c "${CONTENT_LENGTH:-0}")
    user=$(field "$form" user | tr ' ' '+')
    echo "Status: 303 See Other"
    echo "Location: /"
    echo "X-Session-Set: user=$user"
    echo "X-Session-Control: renew" # a new id for whoever is somebody new
    echo "X-Notifications-Set: flash=Welcome+back"
    echo
    exit
    ;;
"POST /logout")
    echo "Status: 303 See Other"
    echo "Location: /"
    echo "X-Session-Control: destroy"
    echo
    exit
    ;;
"GET /") ;;
*)
    echo "Status: 404 Not Found"
    echo
    exit
    ;;
esac

user=$(field "$HTTP_X_SESSION" user)
flash=$(field "$HTTP_X_NOTIFICATIONS" flash)
visits=$(field "$HTTP_X_SESSION" visits)
visits=$((${visits:-0} + 1))
cat <<END
Content-Type: text/html
X-Session-Set: visits=$visits

<!doctype html>
<title>pycket and CGI</title>
${flash:+<p><em>$flash</em></p>}
<p>Hello, ${user:-stranger}.</p>
<p>Visit $visits.</p>
<form method="post" action="/login"><input name="user"><button>Log in</button></form>
<form method="post" action="/logout"><button>Log out</button></form>
END
