//! The page as HTML.

use std::fmt;
use std::sync::Arc;

use super::exchange_log::{Exchange, Field};
use super::shop::{ITEMS, Item, MAX_NAME_CHARS, Notice};
use super::visitor::{State, Visitor};

/// Text in HTML, as content or in a quoted attribute.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;

        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Writes the whole page. `recent` are the last exchanges, newest first.
pub(super) fn render(
    visitor: &Visitor,
    notice: Option<Notice>,
    recent: &[Arc<Exchange>],
) -> String {
    let who = visitor.user.as_deref().map(who).unwrap_or_default();
    let state = state(visitor.state);
    let notice = notice
        .map(|notice| self::notice(&notice))
        .unwrap_or_default();
    let flashes = flashes(&visitor.flashes);
    let shop = match visitor.user {
        Some(_) => cart(visitor),
        None => login(),
    };
    let exchanges = exchanges(recent);
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>pycket demo</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='4' fill='%23176b66'/%3E%3Cpath d='M4 5h8v6a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2z' fill='white'/%3E%3C/svg%3E">
<link rel="stylesheet" href="/style.css">
<script src="/five.js" defer></script>
</head>
<body>
<header>
<a class="brand" href="/">pycket <span>demo</span></a>
{who}</header>
<main>
<div class="notices">
{state}{notice}{flashes}</div>
<div class="columns">
<div class="shop">
{shop}</div>
{exchanges}</div>
</main>
</body>
</html>
"#
    )
}

fn who(user: &str) -> String {
    let user = Escaped(user);
    format!(
        r#"<form class="who" method="post" action="/logout"><span>Logged in as <b>{user}</b></span> <button class="quiet">Log out</button></form>
"#
    )
}

fn state(state: State) -> &'static str {
    match state {
        State::Usable => "",
        State::Unavailable => {
            "<p class=\"notice problem\">The store can’t be reached, so there is no session at \
             the moment.</p>\n"
        }
        State::Unproxied => {
            "<p class=\"notice problem\">This request did not come through pycket: it carries no \
             session headers. Please use the address of the proxy.</p>\n"
        }
    }
}

fn notice(notice: &Notice) -> String {
    let (class, role, text) = match notice {
        Notice::Information(text) => ("information", "status", text),
        Notice::Problem(text) => ("problem", "alert", text),
    };
    let text = Escaped(text);
    format!("<p class=\"notice {class}\" role=\"{role}\">{text}</p>\n")
}

fn flashes(flashes: &[String]) -> String {
    if flashes.is_empty() {
        return String::new();
    }
    let messages: String = flashes.iter().map(|text| message(text)).collect();
    format!(
        r#"<div class="notice flash" role="status"><ul>{messages}</ul><small>Notifications are delivered once: reload, and they are gone.</small></div>
"#
    )
}

fn message(text: &str) -> String {
    let text = Escaped(text);
    format!("<li>{text}</li>")
}

fn login() -> String {
    format!(
        r#"<section class="card">
<h1>A shop without a session library</h1>
<p>This small application keeps no sessions and holds no secret. The proxy in front of it tells it who you are in request headers; it changes your session with response headers.</p>
<form class="login" method="post" action="/login">
<label for="name">Your name</label>
<div class="row"><input id="name" name="name" maxlength="{MAX_NAME_CHARS}" autocomplete="off" autofocus required placeholder="Ada"><button>Log in</button></div>
<small>Any name will do. Until you log in there is no session: none in the store, and no cookie.</small>
</form>
</section>
"#
    )
}

fn cart(visitor: &Visitor) -> String {
    let rows: String = ITEMS
        .iter()
        .map(|item| row(item, visitor.count(item.value_name)))
        .collect();
    let total = ITEMS.iter().fold(0_u64, |total, item| {
        total.saturating_add(visitor.count(item.value_name))
    });
    let things = if total == 1 { "thing" } else { "things" };
    let disabled = if total == 0 { " disabled" } else { "" };
    let five: Vec<&str> = ITEMS.iter().take(5).map(|item| item.key).collect();
    let five = five.join(" ");
    format!(
        r#"<section class="card">
<div class="heading"><h1>Your cart</h1><span class="total">{total} {things}</span></div>
<ul class="items">
{rows}</ul>
<div class="row">
<button id="five" data-items="{five}" hidden>Add five things at once</button>
<form method="post" action="/cart/empty"><button class="quiet"{disabled}>Empty the cart</button></form>
</div>
</section>
<section class="card plain">
<h2>Parallel tabs lose nothing</h2>
<p>Each thing is a session value of its own name (<code>cart.apple</code>, <code>cart.bread</code>, …), and adding one sets only that name, so requests that add different things at the same moment can’t overwrite each other.</p>
<p>“Add five things at once” sends five requests in parallel. Or <a href="/" target="_blank" rel="noopener">open a second tab</a>, and fill the cart from both.</p>
</section>
"#
    )
}

fn row(item: &Item, count: u64) -> String {
    let Item {
        key,
        label,
        value_name,
    } = item;
    let (class, remove) = if count == 0 {
        (" class=\"none\"", String::new())
    } else {
        let button = format!(
            r#"<form method="post" action="/cart/remove"><button class="quiet small" name="item" value="{key}" aria-label="Remove {label}">Remove</button></form>"#
        );
        ("", button)
    };
    format!(
        r#"<li{class}><span class="label">{label} <code>{value_name}</code></span>{remove}<span class="count">{count}</span><form method="post" action="/cart/add"><button class="small" name="item" value="{key}" aria-label="Add {label}">Add</button></form></li>
"#
    )
}

fn exchanges(recent: &[Arc<Exchange>]) -> String {
    let changed = recent
        .iter()
        .position(|exchange| !exchange.answered.is_empty());
    let list: String = recent
        .iter()
        .enumerate()
        // Open from the start: this page itself, and the last exchange that changed something.
        .map(|(position, shown)| exchange(shown, position == 0 || Some(position) == changed))
        .collect();
    format!(
        r#"<section class="exchanges">
<h2>Behind the scenes</h2>
<p>The last exchanges as the application saw them, newest first. The proxy keeps the session cookie to itself, and takes these answers out before the browser sees the response.</p>
{list}</section>
"#
    )
}

fn exchange(exchange: &Exchange, is_open: bool) -> String {
    let open = if is_open { " open" } else { "" };
    let method = Escaped(&exchange.method);
    let path = Escaped(&exchange.path);
    let status = exchange.status.as_u16();
    let hint = if exchange.answered.is_empty() {
        "<span class=\"hint\">reads</span>"
    } else {
        "<span class=\"hint changes\">changes the session</span>"
    };
    let received = fields(&exchange.received, "No header of the contract.");
    let answered = fields(
        &exchange.answered,
        "Nothing about the session: its values stay as they are.",
    );
    format!(
        r#"<details{open}>
<summary><b>{method}</b> <code>{path}</code> <span class="status">{status}</span>{hint}</summary>
<h3>What the application received</h3>
{received}<h3>What it answered</h3>
{answered}</details>
"#
    )
}

fn fields(fields: &[Field], absent: &str) -> String {
    if fields.is_empty() {
        return format!("<p class=\"absent\">{absent}</p>\n");
    }
    let rows: String = fields.iter().map(field).collect();
    format!("<dl>\n{rows}</dl>\n")
}

fn field((name, text): &Field) -> String {
    // JSON has no spaces here, so lines would break within names.
    let text = Escaped(text).to_string().replace(',', ",<wbr>");
    format!("<dt>{name}</dt><dd>{text}</dd>\n")
}
