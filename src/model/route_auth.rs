//! Who is let through a route, and how much: the fields, their defaults and rules.
//!
//! Unions are a `mode` and one field for each that has settings, as in Kubernetes. What the proxy makes of them is
//! `proxy::access`'s.

use core::net::IpAddr;

use http::Uri;
use http::header::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::is_default;
use super::secret::key_rule;
use super::validate::quoted;
use super::{FieldError, FieldErrors, is_subdomain};

/// What in a loginURL stands for the address that was asked for.
pub const URL_PLACEHOLDER: &str = "{url}";

const URL_RULE: &str = "must be https:// and a host, or http:// and a loopback address, with neither user nor fragment";
const HEADER_RULE: &str =
    "must be the name of a header that tells of the visitor, not of the message or the connection";
const COOKIE_RULE: &str = "must be the name of a cookie: letters, digits and !#$%&'*+-.^_`|~";

/// Fields that say how a message is framed, where it goes and by which way it came: no word of an authentication service.
const NOT_IDENTITY: [&str; 18] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Who is let through a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteAuth {
    /// By what it is known who is let in. Default: None.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: AuthMode,
    /// The settings of the mode Token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenAuth>,
    /// The settings of the mode JWT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtAuth>,
    /// The settings of the mode ForwardAuth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_auth: Option<ForwardAuth>,
    /// Where a browser without valid credentials is sent, in the modes Token and JWT; `{url}`, in the path or the query, stands for the
    /// address that it asked for, percent-encoded. Default: nowhere; it gets 401, as everything else does.
    #[serde(rename = "loginURL", default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 2048))]
    pub login_url: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthMode {
    /// Everybody is.
    #[default]
    None,
    /// Who has the value of a Secret.
    Token,
    /// The owner, by a signed token of an issuer.
    #[serde(rename = "JWT")]
    Jwt,
    /// Whom a service of yours lets in.
    ForwardAuth,
}

/// Access by a secret text, as `Authorization: Bearer` or a cookie. The app gets neither.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenAuth {
    /// Where the text is. While it is not there, or empty, nobody is let in.
    pub secret_key_ref: SecretKey,
    /// The name of a cookie that may hold the text. Default: none may.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 253))]
    pub cookie: String,
}

/// One value of a Secret of the Instance's namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key of the value; line breaks at the end of the value do not count.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Access by a JSON Web Token whose subject is spec.owner. The app gets the token as well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JwtAuth {
    /// The `iss` of the tokens, exactly.
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: String,
    /// What must be among the `aud` of a token. Default: any audience will do.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 2048))]
    pub audience: String,
    /// Where the issuer's keys are (RFC 7517): https, or http on a loopback address. The control plane asks it, so only
    /// administrators may set it.
    #[serde(rename = "jwksURL")]
    #[schemars(length(min = 1, max = 2048))]
    pub jwks_url: String,
    /// The name of a cookie that may hold the token, beside `Authorization: Bearer`; Clerk's is `__session`. Default: none may.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 253))]
    pub cookie: String,
    /// The claim that must be spec.owner. Default: sub.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 253))]
    pub subject_claim: String,
}

/// Access by the word of a service, as Traefik's ForwardAuth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForwardAuth {
    /// Whom to ask for each request: https, or http on a loopback address. 2xx lets it in; any other answer is the visitor's. The
    /// control plane asks it, so only administrators may set it.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// Headers of the service's answer that the app gets. A visitor's own of these names are dropped.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub response_headers: Vec<String>,
}

/// How much of a route's traffic is let through at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteLimits {
    /// Requests a second, in the long run; those beyond it are answered 429. Default: as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub requests_per_second: Option<u32>,
    /// Requests that may come at once after a quiet time. Default: requestsPerSecond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub burst: Option<u32>,
    /// Requests, held ones too, and upgraded connections that may be open at a time; those beyond it are answered 503.
    /// Default: as many as the server has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub connections: Option<u32>,
}

impl JwtAuth {
    pub fn subject_claim(&self) -> &str {
        if self.subject_claim.is_empty() { "sub" } else { &self.subject_claim }
    }
}

impl RouteAuth {
    /// The URLs that this server asks because of it: the field below `auth`, and the URL.
    pub fn urls(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let RouteAuth { mode: _, token: _, jwt, forward_auth, login_url: _ } = self;
        let keys = jwt.as_ref().map(|jwt| ("jwt.jwksURL", jwt.jwks_url.as_str()));
        keys.into_iter().chain(forward_auth.as_ref().map(|service| ("forwardAuth.url", service.url.as_str())))
    }
}

/// Whether this server may ask this URL.
pub fn is_askable(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    // A user would be sent to whoever answers, and http's Uri drops a fragment unseen.
    let (Some(authority), false) = (uri.authority(), url.contains('#')) else { return false };
    let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
    let port_ok = authority.as_str().rsplit_once(':').is_none_or(|(_, p)| p.ends_with(']') || p.parse::<u16>().is_ok());
    let bare = authority.host().trim_start_matches('[').trim_end_matches(']');
    plain
        && port_ok
        && match uri.scheme_str() {
            Some("https") => true,
            Some("http") => bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback()),
            Some(_) | None => false,
        }
}

/// Checks what a schema cannot say. `path`: of the `auth`.
pub(super) fn validate_auth(path: &str, auth: &RouteAuth, errors: &mut FieldErrors) {
    let RouteAuth { mode, token, jwt, forward_auth, login_url } = auth;
    for (field, of, is_set) in [
        ("token", AuthMode::Token, token.is_some()),
        ("jwt", AuthMode::Jwt, jwt.is_some()),
        ("forwardAuth", AuthMode::ForwardAuth, forward_auth.is_some()),
    ] {
        let field = format!("{path}.{field}");
        let name = if of == AuthMode::Jwt { "JWT".to_owned() } else { format!("{of:?}") };
        if *mode == of && !is_set {
            errors.push(FieldError::required(field, &format!("the mode {name} needs it")));
        } else if *mode != of && is_set {
            errors.push(FieldError::forbidden(field, &format!("may be set only with the mode {name}")));
        }
    }
    for (field, url) in auth.urls().filter(|(_, url)| !is_askable(url)) {
        errors.push(FieldError::invalid(format!("{path}.{field}"), quoted(url), URL_RULE));
    }
    if let Some(TokenAuth { secret_key_ref: SecretKey { name, key }, cookie }) = token {
        if !is_subdomain(name) {
            let why = "must be the name of a Secret: lower case letters, digits, '-' and '.'";
            errors.push(FieldError::invalid(format!("{path}.token.secretKeyRef.name"), quoted(name), why));
        }
        if let Some(why) = key_rule(key) {
            errors.push(FieldError::invalid(format!("{path}.token.secretKeyRef.key"), quoted(key), why));
        }
        validate_cookie(&format!("{path}.token.cookie"), cookie, errors);
    }
    if let Some(jwt) = jwt {
        validate_cookie(&format!("{path}.jwt.cookie"), &jwt.cookie, errors);
    }
    for (i, name) in forward_auth.iter().flat_map(|service| &service.response_headers).enumerate() {
        // Many apps read `Content_Length` as `Content-Length`.
        let read: String =
            name.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        if HeaderName::from_bytes(name.as_bytes()).is_err() || NOT_IDENTITY.contains(&read.as_str()) {
            errors.push(FieldError::invalid(
                format!("{path}.forwardAuth.responseHeaders[{i}]"),
                quoted(name),
                HEADER_RULE,
            ));
        }
    }
    validate_login(&format!("{path}.loginURL"), *mode, login_url, errors);
}

fn validate_login(field: &str, mode: AuthMode, url: &str, errors: &mut FieldErrors) {
    if url.is_empty() {
        return;
    }
    if !matches!(mode, AuthMode::Token | AuthMode::Jwt) {
        let why = "may be set only with the modes Token and JWT; in the mode ForwardAuth the service's answer says where to go";
        errors.push(FieldError::forbidden(field, why));
        return;
    }
    let filled = |asked: &str| url.replace(URL_PLACEHOLDER, asked).parse::<Uri>().ok();
    let whole = |uri: &Uri| uri.authority().is_some() && matches!(uri.scheme_str(), Some("https" | "http"));
    let why = if url.replace(URL_PLACEHOLDER, "").contains(['{', '}']) {
        "must have no placeholder but {url}, and any other brace percent-encoded"
    } else if filled("x").filter(whole).is_none() || !url.is_ascii() {
        "must be an absolute http or https URL, percent-encoded, in whose path or query {url} may stand"
    // What a visitor asks for must not say where its browser is sent.
    } else if filled("x").map(|uri| uri.into_parts().authority) != filled("y").map(|uri| uri.into_parts().authority) {
        "must not have {url} in the host, only in the path or the query"
    } else {
        return;
    };
    errors.push(FieldError::invalid(field, quoted(url), why));
}

/// RFC 6265 §4.1.1: a token, as the names of headers are.
fn validate_cookie(field: &str, name: &str, errors: &mut FieldErrors) {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.bytes().all(allowed) {
        errors.push(FieldError::invalid(field, quoted(name), COOKIE_RULE));
    }
}

/// `path`: of the `limits`.
pub(super) fn validate_limits(path: &str, limits: &RouteLimits, errors: &mut FieldErrors) {
    if limits.burst.is_some() && limits.requests_per_second.is_none() {
        let why = "the burst is of a rate, which must be given with it";
        errors.push(FieldError::required(format!("{path}.requestsPerSecond"), why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn problems(auth: Value) -> Vec<String> {
        let auth: RouteAuth = serde_json::from_value(auth).unwrap();
        let mut errors = FieldErrors::default();
        validate_auth("auth", &auth, &mut errors);
        let errors: Vec<FieldError> = errors.into();
        errors.into_iter().map(|e| e.field).collect()
    }

    fn with(mut base: Value, change: Value) -> Vec<String> {
        json_patch::merge(&mut base, &change);
        problems(base)
    }

    fn token() -> Value {
        json!({"mode": "Token", "token": {"secretKeyRef": {"name": "door", "key": "token"}, "cookie": "door"}})
    }

    fn jwt() -> Value {
        json!({"mode": "JWT", "jwt": {"issuer": "https://i.test", "jwksURL": "https://i.test/jwks", "cookie": "__session"},
               "loginURL": "https://login.test/?back={url}"})
    }

    fn forward() -> Value {
        json!({"mode": "ForwardAuth", "forwardAuth": {"url": "http://127.0.0.1:9/auth", "responseHeaders": ["X-Forwarded-User"]}})
    }

    #[test]
    fn what_is_right_passes() {
        for auth in [json!({}), json!({"mode": "None"}), token(), jwt(), forward()] {
            assert_eq!(problems(auth.clone()), [""; 0], "{auth}");
        }
    }

    #[test]
    fn each_mode_has_its_own_settings_and_no_others() {
        assert_eq!(problems(json!({"mode": "Token"})), ["auth.token"]);
        assert_eq!(problems(json!({"mode": "JWT"})), ["auth.jwt"]);
        assert_eq!(problems(json!({"mode": "ForwardAuth"})), ["auth.forwardAuth"]);
        assert_eq!(with(token(), json!({"mode": null})), ["auth.token"], "settings without a mode let everybody in");
        assert_eq!(with(token(), jwt()), ["auth.token"]);
        assert_eq!(with(forward(), json!({"loginURL": "https://login.test"})), ["auth.loginURL"]);
        assert_eq!(problems(json!({"loginURL": "https://login.test"})), ["auth.loginURL"]);
    }

    #[test]
    fn names_and_addresses_are_checked_with_their_paths() {
        let cases = [
            (token(), json!({"token": {"secretKeyRef": {"name": "A b"}}}), "auth.token.secretKeyRef.name"),
            (token(), json!({"token": {"secretKeyRef": {"key": "a/b"}}}), "auth.token.secretKeyRef.key"),
            (token(), json!({"token": {"cookie": "a=b"}}), "auth.token.cookie"),
            (jwt(), json!({"jwt": {"cookie": "a;b"}}), "auth.jwt.cookie"),
            (jwt(), json!({"jwt": {"jwksURL": "http://i.test/jwks"}}), "auth.jwt.jwksURL"),
            (jwt(), json!({"loginURL": "/login"}), "auth.loginURL"),
            (jwt(), json!({"loginURL": "javascript://x/%0aalert(1)"}), "auth.loginURL"),
            (jwt(), json!({"loginURL": "https://a b/"}), "auth.loginURL"),
            (jwt(), json!({"loginURL": "https://a/anmeldung-ü?to={url}"}), "auth.loginURL"),
            (forward(), json!({"forwardAuth": {"url": "file:///etc/passwd"}}), "auth.forwardAuth.url"),
            (
                forward(),
                json!({"forwardAuth": {"responseHeaders": ["A", "a b"]}}),
                "auth.forwardAuth.responseHeaders[1]",
            ),
            (forward(), json!({"forwardAuth": {"responseHeaders": ["Host"]}}), "auth.forwardAuth.responseHeaders[0]"),
            (
                forward(),
                json!({"forwardAuth": {"responseHeaders": ["Transfer_Encoding"]}}),
                "auth.forwardAuth.responseHeaders[0]",
            ),
        ];
        for (base, change, field) in cases {
            assert_eq!(with(base, change.clone()), [field], "{change}");
        }
    }

    #[test]
    fn what_was_asked_for_stands_in_a_login_url_where_it_does_not_lead_astray() {
        let told = |url: &str| {
            let mut errors = FieldErrors::default();
            validate_login("loginURL", AuthMode::Jwt, url, &mut errors);
            errors.iter().map(|e| e.message.rsplit(": ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        for good in [
            "https://login.test",
            "https://login.test/{url}",
            "https://login.test:8443/in?to={url}&again={url}",
            "http://login.test/#to={url}",
            "https://login.test/%7Bfoo%7D?to={url}",
        ] {
            assert_eq!(told(good), [""; 0], "{good}");
        }
        for (bad, why) in [
            ("https://x.test/{url}{foo}", "must have no placeholder but {url}"),
            ("https://x.test/{URL}", "must have no placeholder but {url}"),
            ("https://x.test/{{url}}", "must have no placeholder but {url}"),
            ("https://{url}/", "must not have {url} in the host"),
            ("https://{url}.x.test/", "must not have {url} in the host"),
            ("https://{url}@x.test/", "must not have {url} in the host"),
            ("{url}", "must be an absolute"),
            ("{url}://x.test/", "must be an absolute"),
            ("https:/{url}", "must be an absolute"),
            ("https://x.test:{url}/", "must"),
        ] {
            let told = told(bad);
            assert!(told.len() == 1 && told[0].starts_with(why), "{bad}: {told:?}");
        }
    }

    #[test]
    fn only_https_and_loopback_are_asked() {
        for url in [
            "https://issuer.test/.well-known/jwks.json",
            "https://issuer.test:8443/a?b=c",
            "https://[2001:db8::1]/x",
            "http://127.0.0.1:9000/a",
            "http://127.8.9.1/a",
            "http://[::1]:9000/a",
        ] {
            assert!(is_askable(url), "{url}");
        }
        for url in [
            "",
            "issuer.test",
            "/jwks",
            "https://",
            "https:///x",
            "http://issuer.test/jwks",
            // A name leads wherever the resolver says.
            "http://localhost/jwks",
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1.test/",
            "http://[::2]/",
            "https://user:pw@issuer.test/",
            "https://issuer.test/#x",
            "https://issuer.test:99999/",
            "https://issuer.test/a b",
            "ftp://127.0.0.1/",
            "unix:///var/run/docker.sock",
        ] {
            assert!(!is_askable(url), "{url}");
        }
    }

    #[test]
    fn a_burst_is_of_a_rate() {
        let mut errors = FieldErrors::default();
        let limits = RouteLimits { burst: Some(5), ..Default::default() };
        validate_limits("limits", &limits, &mut errors);
        assert_eq!(errors.len(), 1);
        validate_limits("limits", &RouteLimits { requests_per_second: Some(1), ..limits }, &mut errors);
        assert_eq!(errors.len(), 1);
    }
}
