//! The mode Token: a text that is the value of a Secret.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::credentials::{Hidden, shown};
use super::obstacles::Obstacle;
use super::{Asked, Denied, Granted, Looked, Secrets};
use crate::model::{SecretBytes, SecretKey, TokenAuth};

/// Looks the value up for each request that shows something: a Secret that is changed counts from the next request on.
pub async fn check(asked: &Asked<'_>, settings: &TokenAuth, secrets: &dyn Secrets) -> Result<Granted, Denied> {
    let TokenAuth { secret_key_ref: secret, cookie } = settings;
    let headers = &asked.head.headers;
    let tried = shown(headers, cookie);
    if tried.is_empty() {
        return Err(Denied::Unknown);
    }
    let found = expected(&asked.instance.metadata.namespace, secret, secrets).await?;
    let expected = without_line_breaks(found.expose());
    if !tried.iter().any(|text| is_same(text, expected)) {
        return Err(Denied::Unknown);
    }
    let hidden = Hidden::of(headers, cookie, |bearer| is_same(bearer, expected));
    Ok(Granted { hidden, ..Granted::default() })
}

/// The text that lets in, which is not empty.
pub async fn expected(namespace: &str, secret: &SecretKey, secrets: &dyn Secrets) -> Result<SecretBytes, Denied> {
    let SecretKey { name, key } = secret;
    let obstacle = |why| Obstacle::secret("token.secretKeyRef", why);
    let why = match secrets.value(namespace, name, key).await {
        Ok(Looked::Value(found)) if !without_line_breaks(found.expose()).is_empty() => return Ok(found),
        Ok(Looked::Value(_)) => format!("the value of the key {key:?} of the Secret {name:?} is empty"),
        Ok(Looked::NoKey) => format!("the Secret {name:?} has no key {key:?}"),
        Ok(Looked::NoSecret) => format!("there is no Secret {name:?} in the namespace {namespace:?}"),
        Err(why) => return Err(Denied::Unavailable(obstacle(format!("the Secret {name:?} cannot be read: {why}")))),
    };
    Err(Denied::Closed(obstacle(why)))
}

/// Editors end files with one, and no header can hold it.
fn without_line_breaks(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |last| last + 1);
    &value[..end]
}

/// Takes as long for every text of a length: of what is compared nobody knows the hash.
fn is_same(shown: &[u8], expected: &[u8]) -> bool {
    Sha256::digest(shown).ct_eq(&Sha256::digest(expected)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_file_is_no_part_of_its_text() {
        for (value, text) in
            [(&b"a\n"[..], &b"a"[..]), (b"a\r\n\n", b"a"), (b"a\nb", b"a\nb"), (b"\n", b""), (b"", b"")]
        {
            assert_eq!(without_line_breaks(value), text);
        }
        assert!(is_same(b"a", b"a") && !is_same(b"a", b"b") && !is_same(b"", b"b"));
    }
}
