//! What is wrong with fields, in the words of kube-apiserver, and no more of it than an answer should hold.
//!
//! Every check of admission reports here: the schema's, the rules between fields, metadata, apply's lists. An object of
//! 256 KiB can have a million things wrong with it, each with its path, its value and its reason. So [`FieldErrors`]
//! keeps the first [`MOST_ERRORS`], says that there are more, and lets no single text grow with the object.

use std::fmt::Display;
use std::ops::Deref;

/// Most problems of one object that are told one by one.
pub const MOST_ERRORS: usize = 64;
/// Most characters of a refused value that are repeated.
const MOST_VALUE: usize = 512;
/// Most characters of a path, and of a message in which a path or a rule stands beside the value.
const MOST_TEXT: usize = 2048;

/// Why a value is refused; the names are Kubernetes' cause reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldReason {
    Required,
    Invalid,
    TypeInvalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
}

impl FieldReason {
    /// The `reason` of a cause in a Kubernetes Status.
    pub fn as_str(self) -> &'static str {
        match self {
            FieldReason::Required => "FieldValueRequired",
            FieldReason::Invalid => "FieldValueInvalid",
            FieldReason::TypeInvalid => "FieldValueTypeInvalid",
            FieldReason::NotSupported => "FieldValueNotSupported",
            FieldReason::Duplicate => "FieldValueDuplicate",
            FieldReason::Forbidden => "FieldValueForbidden",
            FieldReason::TooLong => "FieldValueTooLong",
            FieldReason::TooMany => "FieldValueTooMany",
        }
    }
}

/// One refused field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub reason: FieldReason,
    /// `spec.ports[0].containerPort`
    pub field: String,
    /// Without the path: `Invalid value: 0: must be between 1 and 65535`
    pub message: String,
}

impl Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl FieldError {
    pub fn required(field: impl Into<String>, why: &str) -> FieldError {
        let message = if why.is_empty() { "Required value".into() } else { format!("Required value: {why}") };
        FieldError { reason: FieldReason::Required, field: field.into(), message }
    }

    pub fn invalid(field: impl Into<String>, value: impl Display, why: &str) -> FieldError {
        FieldError {
            reason: FieldReason::Invalid,
            field: field.into(),
            message: format!("Invalid value: {}: {why}", cut(value.to_string(), MOST_VALUE)),
        }
    }

    pub fn duplicate(field: impl Into<String>, value: impl Display) -> FieldError {
        let message = format!("Duplicate value: {}", cut(value.to_string(), MOST_VALUE));
        FieldError { reason: FieldReason::Duplicate, field: field.into(), message }
    }

    /// `allowed`: as it is told, quoted and separated.
    pub fn not_supported(field: impl Into<String>, value: impl Display, allowed: &str) -> FieldError {
        let value = cut(value.to_string(), MOST_VALUE);
        let message = format!("Unsupported value: {value}: supported values: {allowed}");
        FieldError { reason: FieldReason::NotSupported, field: field.into(), message }
    }

    pub fn too_many(field: impl Into<String>, count: usize, most: u64) -> FieldError {
        let message = format!("Too many: {count}: must have at most {most} items");
        FieldError { reason: FieldReason::TooMany, field: field.into(), message }
    }

    pub fn forbidden(field: impl Into<String>, why: &str) -> FieldError {
        FieldError { reason: FieldReason::Forbidden, field: field.into(), message: format!("Forbidden: {why}") }
    }
}

/// The text, or its beginning and a mark that there is more.
fn cut(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The problems of one object, in the order in which they were found: at most [`MOST_ERRORS`], and after them one that
/// says that more were left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    pub fn push(&mut self, error: FieldError) {
        self.add(|| error);
    }

    /// As [`FieldErrors::push`], for places that are many: nothing is written out that would not be told.
    pub fn add(&mut self, error: impl FnOnce() -> FieldError) {
        match self.0.len() {
            MOST_ERRORS => {
                let message = format!("Too many: more than {MOST_ERRORS} problems were found, only the first are told");
                self.0.push(FieldError { reason: FieldReason::TooMany, field: String::new(), message });
            }
            told if told > MOST_ERRORS => {}
            _ => {
                let FieldError { reason, field, message } = error();
                self.0.push(FieldError { reason, field: cut(field, MOST_TEXT), message: cut(message, MOST_TEXT) });
            }
        }
    }

    /// Whether further problems would not be told.
    pub fn is_full(&self) -> bool {
        self.0.len() > MOST_ERRORS
    }
}

impl Deref for FieldErrors {
    type Target = [FieldError];
    fn deref(&self) -> &[FieldError] {
        &self.0
    }
}

impl Extend<FieldError> for FieldErrors {
    fn extend<T: IntoIterator<Item = FieldError>>(&mut self, errors: T) {
        for error in errors {
            self.push(error);
            if self.is_full() {
                return;
            }
        }
    }
}

impl FromIterator<FieldError> for FieldErrors {
    fn from_iter<T: IntoIterator<Item = FieldError>>(errors: T) -> FieldErrors {
        let mut all = FieldErrors::default();
        all.extend(errors);
        all
    }
}

impl IntoIterator for FieldErrors {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<FieldErrors> for Vec<FieldError> {
    fn from(errors: FieldErrors) -> Vec<FieldError> {
        errors.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_problems_are_told_and_that_there_are_more() {
        let many = |n: usize| (0..n).map(|i| FieldError::required(format!("f[{i}]"), "")).collect::<FieldErrors>();
        assert_eq!(many(MOST_ERRORS).len(), MOST_ERRORS);
        assert_eq!(many(MOST_ERRORS)[MOST_ERRORS - 1].field, "f[63]", "as many as there is room for need no mark");
        let mut all = many(1_000_000);
        assert_eq!(all.len(), MOST_ERRORS + 1);
        assert_eq!(all[MOST_ERRORS].to_string(), "Too many: more than 64 problems were found, only the first are told");
        let before = all.clone();
        all.add(|| panic!("what is not told is not written out"));
        assert_eq!(all, before);
        let mut joined = many(10);
        joined.extend(many(1000));
        assert_eq!((joined.len(), &joined[MOST_ERRORS]), (MOST_ERRORS + 1, &before[MOST_ERRORS]));
    }

    #[test]
    fn no_text_grows_with_the_object() {
        let huge = "ä".repeat(100_000);
        let mut errors = FieldErrors::default();
        errors.push(FieldError::invalid(format!("a.{huge}"), &huge, "must be small"));
        errors.push(FieldError { reason: FieldReason::TypeInvalid, field: "a".into(), message: huge.clone() });
        for error in errors.iter() {
            assert!(error.to_string().len() < 10_000, "{} bytes", error.to_string().len());
        }
        assert!(errors[0].message.ends_with("ä…: must be small"), "the reason is still told");
    }
}
