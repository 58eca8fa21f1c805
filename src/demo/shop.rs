//! What the application does: log in, fill and empty a cart, log out.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use super::visitor::Visitor;

/// Something that can be put into the cart.
pub(super) struct Item {
    /// What forms call it.
    pub(super) key: &'static str,
    /// What people call it.
    pub(super) label: &'static str,
    /// The session value that holds how many of it are in the cart. A name of its own, so that
    /// exchanges that add different things at the same time do not touch each other.
    pub(super) value_name: &'static str,
}

/// Everything that the shop has.
pub(super) static ITEMS: [Item; 6] = [
    Item::new("apple", "Apples", "cart.apple"),
    Item::new("bread", "Bread", "cart.bread"),
    Item::new("cheese", "Cheese", "cart.cheese"),
    Item::new("coffee", "Coffee", "cart.coffee"),
    Item::new("honey", "Honey", "cart.honey"),
    Item::new("tea", "Tea", "cart.tea"),
];

/// How many of one thing a cart holds at most.
const MAX_COUNT: u64 = 99;

/// How long a name may be, in characters.
pub(super) const MAX_NAME_CHARS: usize = 40;

impl Item {
    const fn new(key: &'static str, label: &'static str, value_name: &'static str) -> Self {
        Self {
            key,
            label,
            value_name,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Show,
    ShowGoodbye,
    LogIn,
    LogOut,
    Add,
    Remove,
    Empty,
}

impl Action {
    /// Finds what is asked for; where nothing is, the answer that says so.
    pub(super) fn of(method: &Method, path: &str) -> Result<Self, Answer> {
        let (action, allow) = match path {
            "/" => (Self::Show, "GET, HEAD"),
            "/goodbye" => (Self::ShowGoodbye, "GET, HEAD"),
            "/login" => (Self::LogIn, "POST"),
            "/logout" => (Self::LogOut, "POST"),
            "/cart/add" => (Self::Add, "POST"),
            "/cart/remove" => (Self::Remove, "POST"),
            "/cart/empty" => (Self::Empty, "POST"),
            _ => {
                let text = "There is nothing at this address.";
                return Err(Answer::refusal(StatusCode::NOT_FOUND, text));
            }
        };
        if allow.split(", ").any(|allowed| allowed == method.as_str()) {
            return Ok(action);
        }
        let text = "This address does not take such a request.";
        let mut answer = Answer::refusal(StatusCode::METHOD_NOT_ALLOWED, text);
        answer.allow = allow;
        Err(answer)
    }
}

/// What the application answers.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) outcome: Outcome,
    pub(super) signals: Vec<Signal>,
    /// The methods that would be right, with status 405.
    pub(super) allow: &'static str,
    /// The number of the log-in that this is.
    pub(super) login: Option<u64>,
}

/// What the browser gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The way to another page.
    Redirect(&'static str),
    /// The page, and a sentence on top of it.
    Page(Option<Notice>),
}

/// A sentence about this very request, in contrast to a flash message, which was made by an
/// earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Information(&'static str),
    Problem(&'static str),
}

impl Answer {
    fn page(notice: Option<Notice>) -> Self {
        Self {
            status: StatusCode::OK,
            outcome: Outcome::Page(notice),
            signals: Vec::new(),
            allow: "",
            login: None,
        }
    }

    fn refusal(status: StatusCode, text: &'static str) -> Self {
        Self {
            status,
            ..Self::page(Some(Notice::Problem(text)))
        }
    }

    /// Sends the browser to another page, as after every form: reloading it repeats nothing.
    fn redirect(to: &'static str, signals: Vec<Signal>) -> Self {
        Self {
            status: StatusCode::SEE_OTHER,
            outcome: Outcome::Redirect(to),
            signals,
            allow: "",
            login: None,
        }
    }
}

/// A response header by which the application asks for a change.
pub(super) struct Signal {
    /// The header's name in its usual spelling.
    pub(super) name: &'static str,
    /// Printable ASCII.
    pub(super) value: String,
}

impl Signal {
    fn set(name: &str, value: &Value) -> Self {
        Self::object("X-Session-Set", name, value)
    }

    fn flash(text: &str) -> Self {
        Self::object("X-Notifications-Add", "flash", &json!(text))
    }

    fn object(header: &'static str, name: &str, value: &Value) -> Self {
        Self {
            name: header,
            value: ascii(&json!({ name: value })),
        }
    }

    /// `names` are tokens (RFC 9651 section 3.3.4), so they need no quotes.
    fn delete(names: &[&str]) -> Self {
        Self {
            name: "X-Session-Delete",
            value: names.join(", "),
        }
    }

    fn control(key: &str) -> Self {
        Self {
            name: "X-Session-Control",
            value: key.to_owned(),
        }
    }

    pub(super) fn header(&self) -> HeaderName {
        HeaderName::from_bytes(self.name.as_bytes()).expect("the names above are tokens")
    }

    pub(super) fn header_value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.value).expect("all makers of signals write printable ASCII")
    }
}

/// Writes JSON in printable ASCII, because header values hold nothing else safely (RFC 9110
/// section 5.5). JSON itself escapes controls but neither DEL nor what is beyond ASCII.
fn ascii(value: &Value) -> String {
    let mut text = String::new();
    let mut units = [0; 2];
    for character in value.to_string().chars() {
        if matches!(character, ' '..='~') {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut units) {
                write!(text, "\\u{unit:04x}").expect("a String takes all text");
            }
        }
    }
    text
}

/// Does what is asked for. `next_login` numbers the log-ins.
pub(super) fn act(
    action: Action,
    visitor: &Visitor,
    body: &[u8],
    next_login: impl FnOnce() -> u64,
) -> Answer {
    match action {
        Action::Show => Answer::page(None),
        Action::ShowGoodbye => Answer::page(visitor.user.is_none().then_some(Notice::Information(
            "You are logged out. The application answered “X-Session-Control: destroy”, the proxy \
             ended the session and its cookie, and this page was asked for without one.",
        ))),
        Action::LogIn => log_in(body, next_login),
        // A flash message would go with the session, hence a page of its own.
        Action::LogOut => Answer::redirect("/goodbye", vec![Signal::control("destroy")]),
        Action::Add | Action::Remove | Action::Empty if visitor.user.is_none() => {
            Answer::refusal(StatusCode::FORBIDDEN, "Please log in first.")
        }
        Action::Add => add(visitor, body),
        Action::Remove => remove(body),
        Action::Empty => empty(),
    }
}

/// Renews the id, so that whoever planted or saw the one from before the log-in has nothing.
fn log_in(body: &[u8], next_login: impl FnOnce() -> u64) -> Answer {
    let name = field(body, "name").unwrap_or_default();
    let name = name.trim();
    let length = name.chars().count();
    if length == 0 || length > MAX_NAME_CHARS || name.chars().any(char::is_control) {
        return Answer::refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Please enter a name of 1 to 40 characters.",
        );
    }
    let login = next_login();
    let values = json!({ "login": login, "user": name });
    let set = Signal {
        name: "X-Session-Set",
        value: ascii(&values),
    };
    let flash = Signal::flash(&format!("Welcome, {name}."));
    Answer {
        login: Some(login),
        ..Answer::redirect("/", vec![set, Signal::control("renew"), flash])
    }
}

fn add(visitor: &Visitor, body: &[u8]) -> Answer {
    let Some(item) = item(body) else {
        return no_such_item();
    };
    let count = visitor.count(item.value_name);
    if count >= MAX_COUNT {
        return Answer::refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The cart holds at most 99 of one thing.",
        );
    }
    let set = Signal::set(item.value_name, &json!(count + 1));
    let flash = Signal::flash(&format!("{} added to the cart.", item.label));
    Answer::redirect("/", vec![set, flash])
}

fn remove(body: &[u8]) -> Answer {
    let Some(item) = item(body) else {
        return no_such_item();
    };
    let flash = Signal::flash(&format!("{} taken out of the cart.", item.label));
    Answer::redirect("/", vec![Signal::delete(&[item.value_name]), flash])
}

/// Deletes each name, where `clear` would log the user out as well.
fn empty() -> Answer {
    let names: Vec<&str> = ITEMS.iter().map(|item| item.value_name).collect();
    let flash = Signal::flash("The cart is empty.");
    Answer::redirect("/", vec![Signal::delete(&names), flash])
}

fn no_such_item() -> Answer {
    Answer::refusal(
        StatusCode::UNPROCESSABLE_ENTITY,
        "The shop has no such thing.",
    )
}

fn item(body: &[u8]) -> Option<&'static Item> {
    let key = field(body, "item")?;
    ITEMS.iter().find(|item| item.key == key)
}

fn field(body: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(body)
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
