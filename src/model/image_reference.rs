//! The names of images, by the grammar of `distribution/reference` (github.com/distribution/reference, `reference.go` and
//! `regexp.go`, v0.6), which Docker's own client and daemon read them by:
//!
//! ```text
//! reference = name [ ":" tag ] [ "@" digest ]
//! name      = [ domain "/" ] component { "/" component }
//! domain    = ( host | "[" IPv6 "]" ) [ ":" port ]       the first part, if it has '.' or ':' or is "localhost"
//! component = alnum { ( "." | "_" | "__" | "-"+ ) alnum }       alnum: a-z 0-9
//! tag       = [A-Za-z0-9_] [A-Za-z0-9_.-]{0,127}
//! digest    = ( "sha256:" | "sha384:" | "sha512:" ) lower hexadecimal digits, all of them
//! ```
//!
//! Two things are stricter: a port is below 65,536, and a first part with capitals that has neither '.' nor ':' is taken there for a registry of that
//! name, and here for a mistake in a repository's.

use std::net::Ipv6Addr;

/// Most characters of a name.
const MOST_NAME: usize = 255;
const MOST_TAG: usize = 128;
/// Algorithms of digests, and how many digits each has.
const DIGESTS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];

/// Why a text is no image reference; `None`: it is one. A full id, with or without `sha256:`, is one by this grammar.
pub fn image_problem(text: &str) -> Option<&'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Some(
            "must have after '@' a digest: sha256, sha384 or sha512, ':' and all of its hexadecimal digits in lower case",
        );
    }
    let after_slash = rest.rfind('/').map_or(0, |i| i + 1);
    let (name, tag) = match rest[after_slash..].find(':') {
        Some(i) => (&rest[..after_slash + i], Some(&rest[after_slash + i + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Some(
            "must have after ':' a tag: at most 128 letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
        );
    }
    if name.len() > MOST_NAME {
        return Some("must have a name of at most 255 characters");
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
        Some(_) | None => (None, name),
    };
    if domain.is_some_and(|domain| !is_domain(domain)) {
        return Some("must begin with a registry's host and port, or with the name of a repository");
    }
    if !path.split('/').all(is_component) {
        return Some(
            "must be an image reference, [REGISTRY/]NAME[:TAG][@DIGEST], whose name is of lower case letters and digits, \
             between them '.', '_', '__' or '-', in parts separated by '/'",
        );
    }
    None
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, digits)) = text.split_once(':') else { return false };
    let of = DIGESTS.iter().find(|(name, _)| *name == algorithm);
    of.is_some_and(|(_, length)| digits.len() == *length)
        && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_tag(text: &str) -> bool {
    text.len() <= MOST_TAG
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rfind(':').filter(|_| !text.ends_with(']')) {
        Some(i) => (&text[..i], Some(&text[i + 1..])),
        None => (text, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').filter(|address| !address.contains('.'));
        return address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// Letters and digits, with one separator between each two runs of them.
fn is_component(text: &str) -> bool {
    let is_alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(is_alnum).filter(|between| !between.is_empty());
    text.starts_with(is_alnum)
        && text.ends_with(is_alnum)
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_those_of_docker() {
        let (hex, digest) = ("0af9".repeat(16), format!("app@sha256:{}", "0af9".repeat(16)));
        let long = format!("{}:{}", "a".repeat(255), "t".repeat(128));
        for good in [
            "app",
            "app:1",
            "app:Latest_1.2-x",
            "app:_",
            "team/app",
            "team/a.b_c__d---e",
            "ghcr.io/team/app:1",
            "Registry.Example.com/team/app",
            "localhost/app",
            "localhost:5000/app:1",
            "10.88.0.2:5000/portreeve/app:1",
            "[::1]:5000/app",
            "[2001:db8::1]/app:1",
            "a:5000/b",
            &digest,
            &digest.replace("app@", "ghcr.io/app:1@"),
            &format!("app@sha512:{}", "0af9".repeat(32)),
            &format!("sha256:{hex}"),
            &hex,
            &long,
        ] {
            assert_eq!(image_problem(good), None, "{good}");
        }
    }

    #[test]
    fn what_docker_refuses_is_refused_and_told_why() {
        for (bad, why) in [
            ("", "image reference"),
            ("App", "lower case"),
            ("UPPER/case", "lower case"),
            ("docker.io/docker/Docker", "lower case"),
            ("a:b:c", "tag"),
            ("app:", "tag"),
            ("app:-x", "tag"),
            ("app:.x", "tag"),
            (&format!("app:{}", "t".repeat(129)), "tag"),
            ("http://x/y", "registry"),
            ("https://github.com/docker/docker", "registry"),
            ("-x", "lower case"),
            ("-app/x", "lower case"),
            ("-docker.io/x", "registry"),
            ("x-", "lower case"),
            ("a..b", "lower case"),
            ("a___b", "lower case"),
            ("a_.b", "lower case"),
            ("a//b", "lower case"),
            ("/a", "lower case"),
            ("a/", "lower case"),
            ("a/../b", "lower case"),
            ("../a", "registry"),
            ("a<b", "lower case"),
            ("a b", "lower case"),
            ("ä", "lower case"),
            ("host.test:99999/a", "registry"),
            ("host.test:/a", "registry"),
            ("host.test:+1/a", "registry"),
            ("[::1/a", "registry"),
            ("[x.y]/a", "registry"),
            ("x@sha256:zz", "digest"),
            ("x@", "digest"),
            ("x@sha256", "digest"),
            (&format!("x@sha256:{}", "0af9".repeat(15)), "digest"),
            (&format!("x@sha256:{}", "0AF9".repeat(16)), "digest"),
            (&format!("x@md5:{}", "0af9".repeat(8)), "digest"),
            (&format!("x@sha256:{0}@sha256:{0}", "0af9".repeat(16)), "digest"),
            (&"a".repeat(256), "255"),
        ] {
            let problem = image_problem(bad).unwrap_or_default();
            assert!(problem.contains(why), "{bad}: {problem:?}");
        }
    }

    /// The expressions of `regexp.go`, written anew.
    fn reference() -> impl Strategy<Value = String> {
        let component = "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}";
        let host = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,3}[a-zA-Z0-9])?(\\.[a-zA-Z0-9]{1,3}){1,2}";
        let domain = format!("({host}|localhost|\\[::1\\])(:[1-9][0-9]{{0,3}})?");
        // A first part with a dot is a host.
        let plain = "[a-z0-9]{1,4}((_|__|-{1,3})[a-z0-9]{1,3})?";
        let tail = "(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,9})?(@sha256:[a-f0-9]{64})?";
        let pattern = format!("(({domain}|{plain})/({component}/){{0,2}})?{component}{tail}");
        proptest::string::string_regex(&pattern).expect("a pattern")
    }

    proptest! {
        #[test]
        fn whatever_the_grammar_makes_is_taken(text in reference()) {
            prop_assert_eq!(image_problem(&text), None);
        }

        /// One sign that no part of a reference may hold spoils it, wherever it stands.
        #[test]
        fn a_sign_that_is_in_no_reference_spoils_it(text in reference(), at in 0..400usize, sign in "[ <>?#%&\\\\\"'{}|~^+=,;!$*()äÄ\u{0}\u{7f}]") {
            let at = at % (text.len() + 1);
            let spoilt = format!("{}{sign}{}", &text[..at], &text[at..]);
            prop_assert!(image_problem(&spoilt).is_some(), "{}", spoilt);
        }

        /// What is taken cannot lead elsewhere in the path of a URL.
        #[test]
        fn what_is_taken_has_no_dots_for_a_segment(text in "[a-zA-Z0-9./:@_-]{1,12}") {
            if image_problem(&text).is_none() {
                prop_assert!(text.split('/').all(|s| !s.is_empty() && s != "." && s != ".."), "{}", text);
            }
        }
    }
}
