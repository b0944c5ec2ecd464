//! Sending a browser to where one signs in. Pure.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HOST, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::Asked;
use crate::model::URL_PLACEHOLDER;

/// Longest path and query that one comes back to; of a longer one, to the root.
const MOST_PATH: usize = 2048;

/// `None` when there is no such place.
pub fn redirect(asked: &Asked<'_>, login_url: &str) -> Option<Response<Bytes>> {
    if login_url.is_empty() {
        return None;
    }
    let original = original(asked);
    let target = login_url.replace(URL_PLACEHOLDER, &utf8_percent_encode(&original, NON_ALPHANUMERIC).to_string());
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(&target).ok()?);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// The address in the browser, as far as it is known here.
fn original(Asked { head, visitor, host, .. }: &Asked<'_>) -> String {
    let scheme = if visitor.secure { "https" } else { "http" };
    let told = visitor.host.as_ref().and_then(|host| host.to_str().ok());
    let sent = || head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = told.or(head.uri.authority().map(http::uri::Authority::as_str)).or_else(sent).unwrap_or(host);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.len() > MOST_PATH { "/" } else { path };
    format!("{scheme}://{authority}{path}")
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::model::Instance;
    use crate::proxy::forwarded::Visitor;

    fn location(uri: &str, secure: bool, told: Option<&'static str>, login: &str) -> Option<String> {
        let (head, ()) = Request::get(uri).header(HOST, "alice.test:81").body(()).unwrap().into_parts();
        let host = told.map(HeaderValue::from_static);
        let visitor = Visitor { hops: vec![], secure, host, port: None };
        let asked =
            Asked { head: &head, visitor: &visitor, instance: &Instance::default(), route: None, host: "alice.test" };
        let response = redirect(&asked, login)?;
        assert_eq!(response.status(), 302);
        Some(response.headers()[LOCATION].to_str().unwrap().to_owned())
    }

    #[test]
    fn the_way_back_is_one_value_of_the_login_url() {
        assert_eq!(location("/", false, None, ""), None);
        assert_eq!(location("/a", true, None, "https://l.test/in").unwrap(), "https://l.test/in");
        assert_eq!(
            location("/a?b=c&d#e", false, None, "https://l.test/in?back={url}&x=1").unwrap(),
            "https://l.test/in?back=http%3A%2F%2Falice%2Etest%3A81%2Fa%3Fb%3Dc%26d&x=1"
        );
        assert_eq!(
            location("/", true, Some("shown.test"), "https://l.test/{url}").unwrap(),
            "https://l.test/https%3A%2F%2Fshown%2Etest%2F"
        );
        let long = format!("/{}", "x".repeat(MOST_PATH));
        assert_eq!(
            location(&long, true, Some("shown.test"), "https://l.test/{url}").unwrap(),
            "https://l.test/https%3A%2F%2Fshown%2Etest%2F"
        );
    }
}
