<?php
// Sessions without session_start(): pycket sends the session as request headers,
// and the application changes it with response headers.
$session = json_decode($_SERVER['HTTP_X_SESSION'] ?? '{}', true);
$notifications = json_decode($_SERVER['HTTP_X_NOTIFICATIONS'] ?? '{}', true);

$route = $_SERVER['REQUEST_METHOD'] . ' ' . parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);

switch ($route) {
    case 'POST /login':
        $user = $_POST['user'] ?? '';
        // json_encode() writes ASCII only, so any name fits into a header.
        header('X-Session-Set: ' . json_encode(['user' => $user]));
        header('X-Session-Control: renew'); // a new id for whoever is somebody new
        header('X-Notifications-Set: ' . json_encode(['flash' => 'Welcome back']));
        header('Location: /', true, 303);
        exit;

    case 'POST /logout':
        header('X-Session-Control: destroy');
        header('Location: /', true, 303);
        exit;

    case 'GET /':
        break;

    default:
        http_response_code(404);
        exit('Not found');
}

$visits = ($session['visits'] ?? 0) + 1;
header('X-Session-Set: ' . json_encode(['visits' => $visits]));
?>
<!doctype html>
<title>pycket and PHP</title>
<?php if (isset($notifications['flash'])): ?>
<p><em><?= htmlspecialchars($notifications['flash']) ?></em></p>
<?php endif ?>
<p>Hello, <?= htmlspecialchars($session['user'] ?? 'stranger') ?>.</p>
<p>Visit <?= $visits ?>.</p>
<form method="post" action="/login"><input name="user"><button>Log in</button></form>
<form method="post" action="/logout"><button>Log out</button></form>
