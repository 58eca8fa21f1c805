//! The cookies of one browser at one host.

use std::time::SystemTime;

/// A cookie jar: of RFC 6265 section 5.3 and 5.4, what one host over one scheme needs. `Domain`
/// and `Secure` are kept in the raw lines for the tests, and have no effect here.
#[derive(Clone, Debug, Default)]
pub(super) struct Jar {
    cookies: Vec<Cookie>,
}

#[derive(Clone, Debug)]
struct Cookie {
    name: String,
    value: String,
    path: String,
}

impl Jar {
    /// Takes a `Set-Cookie` line of the answer to a request for `request_path`.
    pub(super) fn take(&mut self, line: &str, request_path: &str) {
        let mut parts = line.split(';').map(str::trim);
        let pair = parts.next().and_then(|pair| pair.split_once('='));
        let (name, value) = pair.unwrap_or_else(|| panic!("not a cookie: {line:?}"));
        let mut path = default_path(request_path);
        let (mut max_age, mut expires) = (None, None);
        for attribute in parts {
            let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            match key.to_ascii_lowercase().as_str() {
                "path" if value.starts_with('/') => path = value,
                "max-age" => max_age = value.parse::<i64>().ok(),
                "expires" => expires = httpdate::parse_http_date(value).ok(),
                _ => {}
            }
        }
        self.cookies
            .retain(|cookie| cookie.name != name || cookie.path != path);
        if !is_over(max_age, expires) {
            let (name, value, path) = (name.to_owned(), value.to_owned(), path.to_owned());
            self.cookies.push(Cookie { name, value, path });
        }
    }

    /// The value of the first cookie of this name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut cookies = self.cookies.iter();
        cookies
            .find(|cookie| cookie.name == name)
            .map(|cookie| cookie.value.as_str())
    }

    /// The `Cookie` line of a request for this path; `None` when there is nothing to send.
    pub(super) fn line(&self, path: &str) -> Option<String> {
        let matching = self
            .cookies
            .iter()
            .filter(|cookie| covers(&cookie.path, path));
        let pairs: Vec<_> = matching
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

/// RFC 6265 section 5.3 step 3: `Max-Age` counts before `Expires`.
#[expect(clippy::disallowed_methods, reason = "a browser reads the wall clock")]
fn is_over(max_age: Option<i64>, expires: Option<SystemTime>) -> bool {
    max_age.map_or_else(
        || expires.is_some_and(|expires| expires <= SystemTime::now()),
        |max_age| max_age <= 0,
    )
}

/// RFC 6265 section 5.1.4: the directory of the request's path.
fn default_path(request_path: &str) -> &str {
    match request_path.rsplit_once('/') {
        Some((directory, _)) if directory.starts_with('/') => directory,
        _ => "/",
    }
}

/// RFC 6265 section 5.1.4: whole segments.
fn covers(cookie_path: &str, path: &str) -> bool {
    path.strip_prefix(cookie_path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || cookie_path.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_goes_only_to_paths_below_its_own() {
        let mut jar = Jar::default();
        jar.take("a=1; Path=/shop", "/");
        assert_eq!(jar.line("/shop/cart").as_deref(), Some("a=1"));
        assert_eq!(jar.line("/shop").as_deref(), Some("a=1"));
        assert_eq!(jar.line("/shopping"), None);
        assert_eq!(jar.line("/"), None);
    }

    #[test]
    fn cookie_without_path_belongs_to_the_directory_of_the_request() {
        let mut jar = Jar::default();
        jar.take("a=1", "/shop/cart");
        assert_eq!(jar.line("/shop/x").as_deref(), Some("a=1"));
        assert_eq!(jar.line("/"), None);
    }

    #[test]
    fn removal_needs_the_same_path() {
        let mut jar = Jar::default();
        jar.take("a=1; Path=/", "/");
        jar.take("a=; Path=/other; Max-Age=0", "/");
        assert_eq!(jar.get("a"), Some("1"));
        jar.take("a=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "/");
        assert_eq!(jar.get("a"), None);
    }

    #[test]
    fn max_age_counts_before_expires() {
        let mut jar = Jar::default();
        jar.take(
            "a=1; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "/",
        );
        assert_eq!(jar.get("a"), Some("1"));
    }
}
