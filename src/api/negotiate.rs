//! What form of answer a client wants: plain objects, a Table, metadata only, or aggregated discovery.
//!
//! Media type parameters come in any order and with optional spaces, so they are parsed, never compared as text.

use http::{HeaderMap, header};

use super::error::ApiError;

/// The form of an answer about objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    /// Rows for people; the version of `meta.k8s.io` to name in it.
    Table(&'static str),
    /// Objects without spec and status.
    Metadata(&'static str),
}

/// The versions of `apidiscovery.k8s.io` that are spoken.
pub const AGGREGATED_VERSIONS: [&str; 2] = ["v2", "v2beta1"];

/// The form of a discovery answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscoveryForm {
    Legacy,
    /// One of [`AGGREGATED_VERSIONS`].
    Aggregated(&'static str),
}

/// One range of an Accept header.
struct Range<'a> {
    media: String,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Range<'_> {
    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v)
    }

    fn takes_json(&self) -> bool {
        matches!(self.media.as_str(), "application/json" | "application/*" | "*/*")
    }
}

/// `as=Table`
fn pair(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
}

fn ranges(headers: &HeaderMap) -> Vec<Range<'_>> {
    let texts = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .filter(|range| !range.trim().is_empty())
        .map(|range| {
            let mut parts = range.split(';');
            let media = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
            let parameters = parts.filter_map(pair).collect();
            Range { media, parameters }
        })
        .collect()
}

/// The version, if the parameters ask for something of `meta.k8s.io` that we write.
fn meta_version(range: &Range<'_>) -> Option<&'static str> {
    match (range.parameter("g"), range.parameter("v")) {
        ("meta.k8s.io", "v1") => Some("v1"),
        ("meta.k8s.io", "v1beta1") => Some("v1beta1"),
        _ => None,
    }
}

/// Whether the client names one of these media types.
pub fn names(headers: &HeaderMap, media_types: &[&str]) -> bool {
    ranges(headers).iter().any(|range| media_types.contains(&range.media.as_str()))
}

/// The first form in the client's list that we can give.
pub fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    let ranges = ranges(headers);
    if ranges.is_empty() {
        return Ok(Form::Json);
    }
    for range in ranges.iter().filter(|r| r.takes_json()) {
        match range.parameter("as") {
            "" => return Ok(Form::Json),
            "Table" => {
                if let Some(version) = meta_version(range) {
                    return Ok(Form::Table(version));
                }
            }
            "PartialObjectMetadata" | "PartialObjectMetadataList" => {
                if let Some(version) = meta_version(range) {
                    return Ok(Form::Metadata(version));
                }
            }
            _ => {}
        }
    }
    Err(ApiError::not_acceptable("application/json"))
}

/// The first form of discovery that we can give. Never an error: a 406 would break discovery altogether.
pub fn discovery_form(headers: &HeaderMap) -> DiscoveryForm {
    for range in ranges(headers).iter().filter(|r| r.takes_json()) {
        match (range.parameter("as"), range.parameter("g"), range.parameter("v")) {
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => return DiscoveryForm::Aggregated("v2"),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => return DiscoveryForm::Aggregated("v2beta1"),
            ("", _, _) => return DiscoveryForm::Legacy,
            _ => {}
        }
    }
    DiscoveryForm::Legacy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> HeaderMap {
        [(header::ACCEPT, text.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn parameters_are_understood_in_any_order() {
        for text in [
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            "application/json; g=meta.k8s.io; v=v1; as=Table",
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io",
        ] {
            assert_eq!(form(&accept(text)).unwrap(), Form::Table("v1"), "{text}");
        }
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Json);
        assert_eq!(form(&accept("application/vnd.kubernetes.protobuf,application/json")).unwrap(), Form::Json);
        assert_eq!(form(&accept("application/json;as=Table;v=v9;g=meta.k8s.io, */*")).unwrap(), Form::Json);
        assert!(form(&accept("text/html")).is_err());
    }

    #[test]
    fn the_newest_discovery_that_is_asked_for_is_given() {
        let text = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery_form(&accept(text)), DiscoveryForm::Aggregated("v2"));
        assert_eq!(discovery_form(&accept("application/json")), DiscoveryForm::Legacy);
        assert_eq!(discovery_form(&accept("text/html")), DiscoveryForm::Legacy);
    }
}
