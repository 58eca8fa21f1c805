// Sessions without a package: pycket sends the session as request headers,
// and the application changes it with response headers.
const { createServer } = require('node:http');
const { text } = require('node:stream/consumers');

const escape = (s) => s.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

const page = (user, visits, flash) => `<!doctype html>
<title>pycket and Node</title>
${flash ? `<p><em>${escape(flash)}</em></p>` : ''}
<p>Hello, ${escape(user)}.</p>
<p>Visit ${visits}.</p>
<form method="post" action="/login"><input name="user"><button>Log in</button></form>
<form method="post" action="/logout"><button>Log out</button></form>
`;

const server = createServer(async (request, response) => {
  const session = JSON.parse(request.headers['x-session'] ?? '{}');
  const notifications = JSON.parse(request.headers['x-notifications'] ?? '{}');

  switch (`${request.method} ${request.url.split('?')[0]}`) {
    case 'POST /login': {
      const user = new URLSearchParams(await text(request)).get('user') ?? '';
      response.writeHead(303, {
        // JSON.stringify() would leave "é" as it is, which a header can't carry;
        // the form encoding is ASCII, and the proxy takes both.
        'X-Session-Set': new URLSearchParams({ user }).toString(),
        'X-Session-Control': 'renew', // a new id for whoever is somebody new
        'X-Notifications-Set': 'flash=Welcome+back',
        Location: '/',
      }).end();
      break;
    }
    case 'POST /logout':
      response.writeHead(303, { 'X-Session-Control': 'destroy', Location: '/' }).end();
      break;
    case 'GET /': {
      const visits = (session.visits ?? 0) + 1;
      response.writeHead(200, {
        'Content-Type': 'text/html; charset=utf-8',
        'X-Session-Set': JSON.stringify({ visits }),
      }).end(page(session.user ?? 'stranger', visits, notifications.flash));
      break;
    }
    default:
      response.writeHead(404).end('Not found');
  }
});

server.listen(process.env.PORT ?? 9000, '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
