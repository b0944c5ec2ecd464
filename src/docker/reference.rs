//! How objects of a daemon may be spoken of. A daemon takes any hexadecimal text for an id prefix, so a careless name
//! can hit a stranger's container; what passes here cannot.

use super::engine::{EngineError, EngineErrorKind, EngineResult};

/// The beginning of every name that we give.
pub const NAME_PREFIX: &str = "pr.";

/// Whether this is a full id, as daemons give them.
pub fn is_full_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Passes full ids and names of ours; anything else is `Invalid`, before a daemon hears of it.
pub fn check(op: &'static str, object: &str) -> EngineResult<()> {
    if is_full_id(object) {
        return Ok(());
    }
    check_name(op, object)
}

/// Passes names of ours: the prefix, then what a daemon takes in names, at most 255 bytes.
pub fn check_name(op: &'static str, name: &str) -> EngineResult<()> {
    let rest = name.strip_prefix(NAME_PREFIX).unwrap_or_default();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if !rest.is_empty() && name.len() <= 255 && rest.bytes().all(allowed) {
        return Ok(());
    }
    Err(EngineError {
        op,
        object: name.to_owned(),
        kind: EngineErrorKind::Invalid,
        message: format!("neither a full id nor a name that begins with {NAME_PREFIX:?}"),
    })
}

/// Passes what can be the name of a volume, whoever gave it, and cannot lead elsewhere in a path. A daemon knows volumes by
/// their whole names only.
pub fn check_volume(op: &'static str, name: &str) -> EngineResult<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && name.len() <= 255 && name.bytes().all(allowed) {
        return Ok(());
    }
    let message = "not the name of a volume".to_owned();
    Err(EngineError { op, object: name.to_owned(), kind: EngineErrorKind::Invalid, message })
}

/// Passes full ids only.
pub fn check_id(op: &'static str, id: &str) -> EngineResult<()> {
    if is_full_id(id) {
        return Ok(());
    }
    let message = "not a full id".to_owned();
    Err(EngineError { op, object: id.to_owned(), kind: EngineErrorKind::Invalid, message })
}

/// Passes what can be an image reference and cannot lead elsewhere in a path.
pub fn check_image(op: &'static str, reference: &str) -> EngineResult<()> {
    // Brackets: around the IPv6 address of a registry.
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@[]".contains(&b);
    let segments = reference.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..");
    if reference.len() <= 512 && segments && reference.bytes().all(allowed) {
        return Ok(());
    }
    let message = "invalid reference format".to_owned();
    Err(EngineError { op, object: reference.to_owned(), kind: EngineErrorKind::Invalid, message })
}

/// Passes IP addresses only. A daemon takes any other text for no address, and publishes on every interface.
pub fn check_host_ip(op: &'static str, object: &str, host_ip: &str) -> EngineResult<()> {
    if host_ip.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    let message = format!("cannot publish on {host_ip:?}: not an IP address");
    Err(EngineError { op, object: object.to_owned(), kind: EngineErrorKind::Invalid, message })
}

/// For creating: kept as given, so that it reads back so, unless a daemon could take it for an id prefix.
pub fn image_as_given(reference: &str) -> String {
    let hex = reference.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { image(reference) } else { reference.to_owned() }
}

/// An image reference as it is safe to send: with the tag `latest` when it has neither tag nor digest. Without, a
/// pull would fetch every tag of the repository, and an inspect would take `cafe` for an id prefix.
pub fn image(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or_default();
    let id = reference.strip_prefix("sha256:").unwrap_or(reference);
    if last.contains([':', '@']) || is_full_id(id) { reference.to_owned() } else { format!("{reference}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_ids_and_our_names_pass() {
        check("inspect", &"0af9".repeat(16)).unwrap();
        check("inspect", "pr.default.alice").unwrap();
        for bad in ["", "pr.", "alice", "cafe", &"0AF9".repeat(16), &"0".repeat(63), "pr.a/../b", "pr.a b"] {
            let error = check("inspect", bad).unwrap_err();
            assert_eq!(error.kind, EngineErrorKind::Invalid, "{bad:?}");
        }
        check_name("create", &"0af9".repeat(16)).unwrap_err();
    }

    #[test]
    fn volumes_of_any_maker_pass_and_paths_do_not() {
        for good in ["pr.default.alice.home", "shop_data", "cafe", &"0af9".repeat(16)] {
            check_volume("inspect", good).unwrap();
        }
        for bad in ["", ".", "..", "../x", "a/b", "-a", "a b", "a?b", &"a".repeat(256)] {
            assert_eq!(check_volume("inspect", bad).unwrap_err().kind, EngineErrorKind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn image_references_cannot_lead_elsewhere() {
        for good in ["app", "app:1", "localhost:5000/team/app:1.2", "app@sha256:00ff", "[::1]:5000/app"] {
            check_image("pull", good).unwrap();
        }
        for bad in ["", "a//b", "../containers/x", "a/../b", "a?b", "a b", "/a", "a/"] {
            check_image("pull", bad).unwrap_err();
        }
        assert_eq!((image_as_given("app"), image_as_given("cafe")), ("app".to_owned(), "cafe:latest".to_owned()));
    }

    #[test]
    fn images_without_tag_or_digest_mean_latest() {
        for (given, sent) in [
            ("cafe", "cafe:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("localhost:5000/app:1", "localhost:5000/app:1"),
            ("app@sha256:00", "app@sha256:00"),
            (&"0af9".repeat(16), &"0af9".repeat(16)),
        ] {
            assert_eq!(image(given), sent);
        }
    }
}
