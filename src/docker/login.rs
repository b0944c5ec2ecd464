//! Logins to registries, by the rules of Docker's `config.json`: which entry is for an image, and what it says.
//!
//! `auths` is by registry: `registry.example.com:5000`, with or without `https://` before and `/v1/` after it; Docker Hub has
//! several names. An entry may also be for a part of a registry (`ghcr.io/team`); the longest that fits is taken. Patterns
//! and credential helpers are not known: what they would give is on another machine.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::model::SecretText;

/// The name under which Docker keeps the login to Docker Hub, and its other names.
const HUB: (&str, [&str; 3]) =
    ("https://index.docker.io/v1/", ["docker.io", "index.docker.io", "registry-1.docker.io"]);
/// How many registries an error names.
const NAMED: usize = 5;

/// What a daemon shows to a registry. Its `Debug` hides what must not be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// As the daemon wants it: the registry, or Docker Hub's old address.
    pub server: String,
    pub username: String,
    pub password: SecretText,
    /// Instead of a password, from registries that gave one out.
    pub identity_token: SecretText,
}

/// Why a configuration gives no login for an image. Never tells anything of a login.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("it is no Docker configuration: a JSON object with `auths` is needed")]
    Malformed,
    #[error("it has no login for {registry}, where the image {image} is; {known}")]
    NoEntry { registry: String, image: String, known: Known },
    #[error("its login for {0} has neither a username nor a token; a credential helper's entry is of no use here")]
    Empty(String),
    #[error("its login for {0} cannot be read: `auth` must be username:password in base64")]
    BadAuth(String),
}

/// The registries that a configuration has logins for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known(Vec<String>);

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0 => f.write_str("it has none at all"),
            n if n > NAMED => write!(f, "it has {n} for others"),
            _ => write!(f, "it has some for {}", self.0.join(", ")),
        }
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: SecretText,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: SecretText,
    #[serde(default, rename = "identitytoken")]
    identity_token: SecretText,
}

/// The registry of an image, and its repository there: `docker.io` and `library/app` of `app:1`.
pub fn registry(image: &str) -> (String, String) {
    let name = image.split('@').next().unwrap_or_default();
    let (registry, rest) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first.to_ascii_lowercase(), rest),
        _ => (String::new(), name),
    };
    // What is before the tag: a colon after the last slash.
    let at = rest.rfind('/').map_or(0, |i| i + 1);
    let repository = rest[at..].find(':').map_or(rest, |i| &rest[..at + i]);
    if !registry.is_empty() && !HUB.1.contains(&registry.as_str()) {
        return (registry, repository.to_owned());
    }
    let library = if repository.contains('/') { "" } else { "library/" };
    (HUB.1[0].to_owned(), format!("{library}{repository}"))
}

/// The registry and the part of it that an entry's name means.
fn place(name: &str) -> (String, String) {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    let host = host.to_ascii_lowercase();
    let path = path.trim_end_matches('/');
    let host = if HUB.1.contains(&host.as_str()) { HUB.1[0].to_owned() } else { host };
    (host, if matches!(path, "v1" | "v2") { String::new() } else { path.to_owned() })
}

/// The login for an image.
///
/// # Errors
/// When the configuration is none, or has no login of use for the image's registry.
pub fn find(config: &[u8], image: &str) -> Result<Login, LoginError> {
    let config: Config = serde_json::from_slice(config).map_err(|_| LoginError::Malformed)?;
    let (host, repository) = registry(image);
    let fits = |path: &str| {
        path.is_empty() || repository == path || repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
    };
    let places = config.auths.iter().map(|(name, entry)| (place(name), entry));
    let best = places.filter(|((h, path), _)| *h == host && fits(path)).max_by_key(|((_, path), _)| path.len());
    let Some((_, entry)) = best else {
        let known = Known(config.auths.into_keys().collect());
        return Err(LoginError::NoEntry { registry: host, image: image.to_owned(), known });
    };
    let (username, password) = if entry.auth.expose().is_empty() {
        (entry.username.clone(), entry.password.clone())
    } else {
        decoded(entry.auth.expose()).ok_or_else(|| LoginError::BadAuth(host.clone()))?
    };
    if username.is_empty() && entry.identity_token.expose().is_empty() {
        return Err(LoginError::Empty(host));
    }
    let server = if host == HUB.1[0] { HUB.0.to_owned() } else { host };
    Ok(Login { server, username, password, identity_token: entry.identity_token.clone() })
}

/// The two parts of `auth`. Docker itself once wrote NULs at its end.
fn decoded(auth: &str) -> Option<(String, SecretText)> {
    let bytes = Zeroizing::new(STANDARD.decode(auth).or_else(|_| STANDARD_NO_PAD.decode(auth)).ok()?);
    let (username, password) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
    Some((username.to_owned(), SecretText::new(password.trim_matches('\0').to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(config: &str, image: &str) -> Result<(String, String, String), LoginError> {
        find(config.as_bytes(), image).map(|l| (l.server, l.username, l.password.expose().to_owned()))
    }

    fn of(server: &str, username: &str, password: &str) -> Result<(String, String, String), LoginError> {
        Ok((server.into(), username.into(), password.into()))
    }

    #[test]
    fn images_are_of_a_registry_or_of_docker_hub() {
        for (image, host, repository) in [
            ("app", "docker.io", "library/app"),
            ("app:1", "docker.io", "library/app"),
            ("team/app@sha256:00", "docker.io", "team/app"),
            ("index.docker.io/app:1", "docker.io", "library/app"),
            ("Registry.example:5000/a/b:1", "registry.example:5000", "a/b"),
            ("localhost/app", "localhost", "app"),
        ] {
            assert_eq!(registry(image), (host.to_owned(), repository.to_owned()), "{image}");
        }
    }

    #[test]
    fn an_entry_is_found_by_the_registrys_name_in_every_spelling() {
        let bob = r#"{"username": "bob", "password": "pw"}"#;
        for (name, image, server) in [
            ("registry.example:5000", "registry.example:5000/app:1", "registry.example:5000"),
            ("https://Registry.example/v1/", "registry.example/app", "registry.example"),
            ("https://index.docker.io/v1/", "app", "https://index.docker.io/v1/"),
            ("docker.io", "team/app:1", "https://index.docker.io/v1/"),
            ("registry-1.docker.io", "docker.io/team/app:1", "https://index.docker.io/v1/"),
            ("ghcr.io/team", "ghcr.io/team/app", "ghcr.io"),
        ] {
            let config = format!(r#"{{"auths": {{"{name}": {bob}}}}}"#);
            assert_eq!(login(&config, image), of(server, "bob", "pw"), "{name} for {image}");
        }
        // "eve:a:b" in base64; the longest that fits
        let config = format!(r#"{{"auths": {{"ghcr.io": {bob}, "ghcr.io/team": {{"auth": "ZXZlOmE6Yg=="}}}}}}"#);
        assert_eq!(login(&config, "ghcr.io/team/app"), of("ghcr.io", "eve", "a:b"));
        assert_eq!(login(&config, "ghcr.io/teamster/app"), of("ghcr.io", "bob", "pw"));
    }

    #[test]
    fn what_is_wrong_is_told_without_the_login() {
        let told = |config: &str| login(config, "registry.example/app:1").unwrap_err().to_string();
        assert!(told("7").contains("no Docker configuration") && told("hunter2").contains("no Docker configuration"));
        assert_eq!(
            told(r#"{"auths": {"other.example": {"username": "bob", "password": "hunter2"}}}"#),
            "it has no login for registry.example, where the image registry.example/app:1 is; it has some for other.example"
        );
        assert!(told("{}").ends_with("it has none at all"));
        assert!(told(r#"{"auths": {"registry.example": {}}}"#).contains("neither a username nor a token"));
        let bad = told(r#"{"auths": {"registry.example": {"auth": "hunter2!"}}}"#);
        assert!(bad.contains("for registry.example cannot be read") && !bad.contains("hunter2"), "{bad}");
        let good = find(br#"{"auths": {"a.b": {"username": "bob", "password": "hunter2"}}}"#, "a.b/c").unwrap();
        assert!(!format!("{good:?}").contains("hunter2"));
    }
}
