//! Values that keep the text they were written as: what was applied is what is shown again, and two texts of one meaning are
//! no change.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that means nothing here, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseError {
    text: String,
    expected: &'static str,
}

/// What a text of one kind means.
pub trait Meaning: PartialEq + Sized {
    /// What a text should have been.
    const EXPECTED: &'static str;
    /// Whether a number in JSON stands for the text of its digits.
    const TAKES_NUMBERS: bool = false;
    const SCHEMA_NAME: &'static str;

    fn schema() -> Schema;

    /// `None`: nothing.
    fn read(text: &str) -> Option<Self>;
}

/// A value with its text. Compares by value.
#[derive(Clone)]
pub struct Written<M> {
    text: String,
    meaning: M,
}

impl<M> Written<M> {
    /// `text` must mean this.
    pub(super) fn new(text: String, meaning: M) -> Written<M> {
        Written { text, meaning }
    }

    pub(super) fn meaning(&self) -> &M {
        &self.meaning
    }
}

impl<M: Meaning> FromStr for Written<M> {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Written<M>, ParseError> {
        match M::read(text) {
            Some(meaning) => Ok(Written { text: text.to_owned(), meaning }),
            None => Err(ParseError { text: text.to_owned(), expected: M::EXPECTED }),
        }
    }
}

impl<M: PartialEq> PartialEq for Written<M> {
    fn eq(&self, other: &Written<M>) -> bool {
        self.meaning == other.meaning
    }
}

impl<M: Eq> Eq for Written<M> {}

impl<M> fmt::Display for Written<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<M> fmt::Debug for Written<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<M> Serialize for Written<M> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de, M: Meaning> Deserialize<'de> for Written<M> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Written<M>, D::Error> {
        if M::TAKES_NUMBERS {
            d.deserialize_any(TextOrNumber(PhantomData))
        } else {
            String::deserialize(d)?.parse().map_err(D::Error::custom)
        }
    }
}

struct TextOrNumber<M>(PhantomData<M>);

impl<M: Meaning> Visitor<'_> for TextOrNumber<M> {
    type Value = Written<M>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(M::EXPECTED)
    }
    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Written<M>, E> {
        v.parse().map_err(E::custom)
    }
    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Written<M>, E> {
        self.visit_str(&v.to_string())
    }
    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Written<M>, E> {
        self.visit_str(&v.to_string())
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Written<M>, E> {
        self.visit_str(&v.to_string())
    }
}

impl<M: Meaning> JsonSchema for Written<M> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        M::SCHEMA_NAME.into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        M::schema()
    }
}
