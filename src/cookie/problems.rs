//! What is wrong with a policy: settings that browsers refuse, or that don't fit into a header.
//!
//! The configuration asks once, at start, so that nothing of this can come up in an exchange.

use std::fmt;

use super::{CookiePolicy, SameSite, Secure, SigningVersion};

/// A setting of the cookie that can't work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key in the configuration, such as `cookies.secure`.
    pub key: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl CookiePolicy {
    /// Everything that is wrong with this policy; empty when it can be used.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |key, message: &str| {
            problems.push(Problem {
                key,
                message: message.to_owned(),
            });
        };
        if !is_token(&self.name) {
            report(
                "cookies.name",
                "expected letters, digits and !#$%&'*+-.^_`|~ only, at least one (RFC 9110 section 5.6.2)",
            );
        }
        if !matches!(self.min_version, 1 | 2) {
            report("cookies.min_version", "expected 1 or 2");
        }
        if self.version == SigningVersion::V1 {
            if !self.keyring.key_versions().is_empty() {
                report(
                    "cookies.version",
                    "version 1 of the signed value can't say which of [cookies.secrets] signed it: expected 2, or one secret in `cookies.secret`",
                );
            }
            if self.min_version > 1 {
                report(
                    "cookies.version",
                    "the proxy would refuse its own cookies, as `cookies.min_version` is 2: expected 2 here, or 1 there",
                );
            }
        }
        if !is_path(&self.path) {
            report(
                "cookies.path",
                "expected a path that begins with `/`, in visible ASCII and without `;` (RFC 6265 section 4.1.1)",
            );
        }
        if !self.domain.as_deref().is_none_or(is_domain) {
            report(
                "cookies.domain",
                "expected a host name such as `example.com` in ASCII, without scheme, port or path",
            );
        }
        self.report_what_browsers_refuse(&mut report);
        problems
    }

    /// The rules of RFC 6265bis sections 4.1.3 and 5.7, and of CHIPS for `Partitioned`.
    fn report_what_browsers_refuse(&self, report: &mut impl FnMut(&'static str, &str)) {
        // Browsers compare the prefixes without regard to case.
        let begins_with = |prefix: &str| {
            let start = self.name.as_bytes().get(..prefix.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        };
        let host_prefix = begins_with("__Host-");
        if self.secure != Secure::Always {
            if host_prefix {
                report(
                    "cookies.secure",
                    "browsers take a name with `__Host-` only when the cookie is always Secure: expected `true`",
                );
            } else if begins_with("__Secure-") {
                report(
                    "cookies.secure",
                    "browsers take a name with `__Secure-` only when the cookie is always Secure: expected `true`",
                );
            }
            if self.partitioned {
                report(
                    "cookies.secure",
                    "browsers take a Partitioned cookie only when it is always Secure: expected `true`",
                );
            }
        }
        if self.secure == Secure::Never && self.same_site == Some(SameSite::None) {
            report(
                "cookies.secure",
                "browsers take SameSite=None only when the cookie is Secure: expected `true` or `auto`",
            );
        }
        if host_prefix && self.path != "/" {
            report(
                "cookies.path",
                "browsers take a name with `__Host-` only with the path `/`: expected `/`",
            );
        }
        if host_prefix && self.domain.is_some() {
            report(
                "cookies.domain",
                "browsers take a name with `__Host-` only without a domain: expected none",
            );
        }
    }
}

/// `token` of RFC 9110 section 5.6.2.
fn is_token(name: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_tchar)
}

fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b';')
}

/// A host name as in RFC 1123 section 2.1; a dot in front is ignored by browsers (RFC 6265
/// section 5.2.3).
fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = domain.strip_prefix('.').unwrap_or(domain);
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::signed::Keyring;
    use crate::cookie::tests::policy;

    fn text(policy: &CookiePolicy) -> String {
        let problems: Vec<String> = policy.problems().iter().map(Problem::to_string).collect();
        problems.join("\n")
    }

    fn named(name: &str) -> CookiePolicy {
        CookiePolicy {
            name: name.to_owned(),
            ..policy()
        }
    }

    #[test]
    fn the_default_has_none() {
        assert_eq!(policy().problems(), []);
    }

    #[test]
    fn names_are_tokens() {
        assert_eq!(named("a!#$%&'*+-.^_`|~Z9").problems(), []);
        for name in ["", "a b", "a=b", "a;b", "a\"", "a\u{e9}", "a\r\n", "a(b)"] {
            let problems = named(name).problems();
            assert_eq!(problems.len(), 1, "{name}");
            assert_eq!(problems[0].key, "cookies.name", "{name}");
        }
        insta::assert_snapshot!(text(&named("a b")), @"cookies.name: expected letters, digits and !#$%&'*+-.^_`|~ only, at least one (RFC 9110 section 5.6.2)");
    }

    #[test]
    fn the_host_prefix_wants_secure_the_root_and_no_domain() {
        let mut policy = CookiePolicy {
            path: "/app".to_owned(),
            domain: Some("example.com".to_owned()),
            ..named("__host-sid")
        };
        insta::assert_snapshot!(text(&policy), @r"
        cookies.secure: browsers take a name with `__Host-` only when the cookie is always Secure: expected `true`
        cookies.path: browsers take a name with `__Host-` only with the path `/`: expected `/`
        cookies.domain: browsers take a name with `__Host-` only without a domain: expected none
        ");
        policy.secure = Secure::Always;
        policy.path = "/".to_owned();
        policy.domain = None;
        assert_eq!(policy.problems(), []);
    }

    #[test]
    fn the_secure_prefix_wants_secure() {
        let mut policy = CookiePolicy {
            path: "/app".to_owned(),
            domain: Some("example.com".to_owned()),
            ..named("__Secure-sid")
        };
        insta::assert_snapshot!(text(&policy), @"cookies.secure: browsers take a name with `__Secure-` only when the cookie is always Secure: expected `true`");
        policy.secure = Secure::Always;
        assert_eq!(policy.problems(), []);
    }

    #[test]
    fn same_site_none_wants_secure() {
        let mut policy = CookiePolicy {
            same_site: Some(SameSite::None),
            secure: Secure::Never,
            ..policy()
        };
        insta::assert_snapshot!(text(&policy), @"cookies.secure: browsers take SameSite=None only when the cookie is Secure: expected `true` or `auto`");
        policy.secure = Secure::Auto;
        assert_eq!(policy.problems(), []);
    }

    #[test]
    fn partitioned_wants_secure() {
        let mut policy = CookiePolicy {
            partitioned: true,
            ..policy()
        };
        insta::assert_snapshot!(text(&policy), @"cookies.secure: browsers take a Partitioned cookie only when it is always Secure: expected `true`");
        policy.secure = Secure::Always;
        assert_eq!(policy.problems(), []);
    }

    #[test]
    fn paths_begin_with_a_slash_and_hold_no_separator() {
        let with_path = |path: &str| CookiePolicy {
            path: path.to_owned(),
            ..policy()
        };
        assert_eq!(with_path("/a/%20/b").problems(), []);
        for path in ["", "app", "/a;b", "/a\r\nb", "/a\tb", "/a b", "/\u{e9}"] {
            let problems = with_path(path).problems();
            assert_eq!(problems.len(), 1, "{path}");
            assert_eq!(problems[0].key, "cookies.path", "{path}");
        }
        insta::assert_snapshot!(text(&with_path("app")), @"cookies.path: expected a path that begins with `/`, in visible ASCII and without `;` (RFC 6265 section 4.1.1)");
    }

    #[test]
    fn domains_are_host_names() {
        let with_domain = |domain: &str| CookiePolicy {
            domain: Some(domain.to_owned()),
            ..policy()
        };
        for domain in [
            "example.com",
            ".example.com",
            "xn--bcher-kva.example",
            "localhost",
        ] {
            assert_eq!(with_domain(domain).problems(), [], "{domain}");
        }
        let long = "a.".repeat(126) + "aa";
        for domain in [
            "",
            ".",
            "..a",
            "a..b",
            "a.",
            "-a.b",
            "a-.b",
            "https://a",
            "a:80",
            "a/b",
            "a;b",
            "a b",
            "b\u{fc}cher.example",
            &long,
        ] {
            let problems = with_domain(domain).problems();
            assert_eq!(problems.len(), 1, "{domain}");
            assert_eq!(problems[0].key, "cookies.domain", "{domain}");
        }
        insta::assert_snapshot!(text(&with_domain("a:80")), @"cookies.domain: expected a host name such as `example.com` in ASCII, without scheme, port or path");
    }

    #[test]
    fn version_1_goes_with_a_plain_secret_and_a_minimum_of_1() {
        let keys = [(7, b"seven".to_vec())].into_iter().collect();
        let mut policy = CookiePolicy {
            version: SigningVersion::V1,
            ..policy()
        };
        assert_eq!(policy.problems(), []);
        policy.min_version = 2;
        policy.keyring = Keyring::versioned(keys, 7).unwrap();
        insta::assert_snapshot!(text(&policy), @r"
        cookies.version: version 1 of the signed value can't say which of [cookies.secrets] signed it: expected 2, or one secret in `cookies.secret`
        cookies.version: the proxy would refuse its own cookies, as `cookies.min_version` is 2: expected 2 here, or 1 there
        ");
        for version in [SigningVersion::V2, SigningVersion::Same] {
            policy.version = version;
            assert_eq!(policy.problems(), []);
        }
    }

    #[test]
    fn min_version_is_one_that_exists() {
        let policy = CookiePolicy {
            min_version: 3,
            ..policy()
        };
        insta::assert_snapshot!(text(&policy), @"cookies.min_version: expected 1 or 2");
    }
}
