//! The few answers that the proxy gives by itself: plain text, or HTML for whoever asks for it. Pure.
//!
//! A page says what the visitor can do and nothing else: no name of an instance, host or owner, no cause, and the same
//! bytes for a host that never existed as for one that the visitor may not know of.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

use super::waiting;

/// One answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    BadRequest,
    /// A method or transfer coding that is not served.
    NotImplemented,
    NotFound,
    /// The rest of it did not come.
    Incomplete,
    /// It came over a connection that was made for others.
    Misdirected,
    /// Who sent it is not known.
    Unauthorized,
    /// Who sent it is known, and somebody else.
    Forbidden,
    /// Whoever says who may come in does not answer.
    NoSignIn,
    /// More requests than its route lets through.
    TooMany,
    /// Its owner switched it off.
    Stopped,
    /// It is not awake, and such a request does not wake it.
    Resting,
    /// It cannot run at present.
    Unavailable,
    /// Its host has no room for it at present.
    Full,
    /// A browser looks at it, and will see how far it is.
    Waking,
    /// It did not become ready in time.
    StillStarting,
    /// Too many requests wait for it.
    Busy,
    /// This server is going down.
    Closing,
    /// It broke off, or did not speak HTTP.
    BadGateway,
    /// It could not be reached in time.
    Unreachable,
}

struct Text {
    status: StatusCode,
    /// Seconds.
    retry_after: Option<&'static str>,
    plain: &'static str,
    html: &'static str,
}

/// One row of the table: the sentence is written once and appears in both forms.
macro_rules! text {
    ($status:ident, $retry:expr, $title:literal, $sentence:literal) => {
        Text {
            status: StatusCode::$status,
            retry_after: $retry,
            plain: concat!($title, ". ", $sentence, "\n"),
            html: concat!(
                "<!doctype html><html lang=en><meta charset=utf-8>",
                "<meta name=viewport content='width=device-width,initial-scale=1'><title>",
                $title,
                "</title><style>body{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:20vh auto;padding:0 1rem;",
                "color-scheme:light dark}</style><h1>",
                $title,
                "</h1><p>",
                $sentence,
                "</p></html>\n"
            ),
        }
    };
}

impl Page {
    const fn text(self) -> Text {
        match self {
            Page::BadRequest => text!(BAD_REQUEST, None, "Bad request", "The request could not be understood."),
            Page::NotImplemented => {
                text!(NOT_IMPLEMENTED, None, "Not implemented", "This kind of request is not served.")
            }
            Page::NotFound => text!(NOT_FOUND, None, "Not found", "There is nothing at this address."),
            Page::Incomplete => {
                text!(REQUEST_TIMEOUT, None, "Request timeout", "The request did not arrive in full. Please try again.")
            }
            Page::Misdirected => {
                text!(
                    MISDIRECTED_REQUEST,
                    None,
                    "Misdirected",
                    "This address needs a connection of its own. Please try again."
                )
            }
            Page::Unauthorized => text!(UNAUTHORIZED, None, "Please sign in", "This address is not open to everybody."),
            Page::Forbidden => {
                text!(FORBIDDEN, None, "Not yours", "You are signed in, but this address is not open to you.")
            }
            Page::NoSignIn => {
                text!(
                    SERVICE_UNAVAILABLE,
                    Some("10"),
                    "Unavailable",
                    "It cannot be found out at present who you are. Please try again later."
                )
            }
            // The least rate is one a second.
            Page::TooMany => {
                text!(TOO_MANY_REQUESTS, Some("1"), "Too many requests", "Please try again in a moment.")
            }
            Page::Stopped => text!(SERVICE_UNAVAILABLE, Some("60"), "Switched off", "This app has been switched off."),
            Page::Resting => {
                text!(
                    SERVICE_UNAVAILABLE,
                    Some("60"),
                    "Asleep",
                    "This app is asleep, and this request does not wake it."
                )
            }
            Page::Unavailable => {
                text!(
                    SERVICE_UNAVAILABLE,
                    Some("10"),
                    "Unavailable",
                    "This app cannot run at present. Please try again later."
                )
            }
            Page::Full => {
                text!(
                    SERVICE_UNAVAILABLE,
                    Some("30"),
                    "No room at present",
                    "All places on this app's host are in use. Please try again in a while."
                )
            }
            Page::Waking => text!(SERVICE_UNAVAILABLE, Some("1"), "Starting", "This app is starting."),
            Page::StillStarting => {
                text!(
                    SERVICE_UNAVAILABLE,
                    Some("5"),
                    "Still starting",
                    "This app is taking long to start. Please try again."
                )
            }
            Page::Busy => {
                text!(SERVICE_UNAVAILABLE, Some("2"), "Busy", "Too many requests wait for this app. Please try again.")
            }
            Page::Closing => {
                text!(SERVICE_UNAVAILABLE, Some("2"), "Restarting", "This server is restarting. Please try again.")
            }
            Page::BadGateway => text!(BAD_GATEWAY, None, "Bad gateway", "This app did not answer properly."),
            Page::Unreachable => {
                text!(GATEWAY_TIMEOUT, Some("5"), "Unreachable", "This app could not be reached. Please try again.")
            }
        }
    }

    /// The answer, in the form that the request's Accept header asks for.
    pub fn response(self, accept: Option<&HeaderValue>) -> Response<Bytes> {
        let text = self.text();
        let (kind, body) = if wants_html(accept) {
            ("text/html; charset=utf-8", text.html)
        } else {
            ("text/plain; charset=utf-8", text.plain)
        };
        let mut response = Response::new(Bytes::from_static(body.as_bytes()));
        *response.status_mut() = text.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        // The next request may well be answered by the app.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = text.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        if self == Page::Unauthorized {
            // RFC 9110 §15.5.2. The same for what was missing and what was wrong.
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self == Page::Waking { waiting::page(response) } else { response }
    }
}

/// Browsers name text/html first; programs send `*/*` or nothing.
pub fn wants_html(accept: Option<&HeaderValue>) -> bool {
    accept.and_then(|v| v.to_str().ok()).unwrap_or_default().split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        kind.eq_ignore_ascii_case("text/html") && !parts.any(|p| p == "q=0" || p.starts_with("q=0.0"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Page; 19] = [
        Page::BadRequest,
        Page::NotImplemented,
        Page::NotFound,
        Page::Incomplete,
        Page::Misdirected,
        Page::Unauthorized,
        Page::Forbidden,
        Page::NoSignIn,
        Page::TooMany,
        Page::Stopped,
        Page::Resting,
        Page::Unavailable,
        Page::Full,
        Page::Waking,
        Page::StillStarting,
        Page::Busy,
        Page::Closing,
        Page::BadGateway,
        Page::Unreachable,
    ];

    #[test]
    fn browsers_get_html_and_programs_get_text() {
        for (accept, html) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("application/json, TEXT/HTML;q=0.5", true),
            ("*/*", false),
            ("text/html;q=0", false),
            ("application/json", false),
        ] {
            let response = Page::NotFound.response(Some(&HeaderValue::from_static(accept)));
            let kind = response.headers()[CONTENT_TYPE].to_str().unwrap();
            assert_eq!(kind.starts_with("text/html"), html, "{accept}");
            assert_eq!(response.body().starts_with(b"<!doctype html>"), html, "{accept}");
        }
        assert!(Page::NotFound.response(None).body().starts_with(b"Not found. "));
    }

    #[test]
    fn every_page_is_an_error_that_nobody_caches_and_says_when_to_come_back() {
        for page in ALL {
            let response = page.response(None);
            assert!(response.status().is_client_error() || response.status().is_server_error(), "{page:?}");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store", "{page:?}");
            let temporary = matches!(response.status().as_u16(), 429 | 503 | 504);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), temporary, "{page:?}");
            let challenge = response.status() == StatusCode::UNAUTHORIZED;
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), challenge, "{page:?}");
        }
    }
}
