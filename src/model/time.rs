//! Points in time, as the API writes them.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A point in time that is truncated where it is made, so that a value equals itself after a round trip through the store.
macro_rules! time {
    ($(#[$doc:meta])* $name:ident, $truncated:expr, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Timestamp);

        impl $name {
            pub fn timestamp(self) -> Timestamp {
                self.0
            }
        }

        impl From<Timestamp> for $name {
            fn from(t: Timestamp) -> $name {
                let truncated: fn(Timestamp) -> Result<Timestamp, jiff::Error> = $truncated;
                $name(truncated(t).unwrap_or(t))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:.*}", $digits, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<$name, D::Error> {
                let text = String::deserialize(d)?;
                let time = text.parse::<Timestamp>();
                time.map($name::from).map_err(|e| D::Error::custom(format!("not an RFC 3339 time: {e}")))
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "format": "date-time"})
            }
        }
    };
}

time! {
    /// A point in time to the second, written as RFC 3339 with `Z`, as Kubernetes writes `metav1.Time`.
    Time, |t| Timestamp::from_second(t.as_second()), 0
}

time! {
    /// A point in time to the microsecond, as Kubernetes writes `metav1.MicroTime`.
    MicroTime, |t| Timestamp::from_microsecond(t.as_microsecond()), 6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_truncated_to_what_it_shows_and_reads_what_it_writes() {
        let at: Timestamp = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
        let (second, micro) = (Time::from(at), MicroTime::from(at));
        assert_eq!(serde_json::to_string(&second).unwrap(), "\"2026-01-02T03:04:05Z\"");
        assert_eq!(serde_json::to_string(&micro).unwrap(), "\"2026-01-02T03:04:05.678901Z\"");
        assert_eq!(serde_json::from_str::<MicroTime>("\"2026-01-02T03:04:05.678901Z\"").unwrap(), micro);
        assert_eq!(serde_json::from_str::<Time>("\"2026-01-02T03:04:05.9Z\"").unwrap(), second);
        assert_eq!(serde_json::from_str::<MicroTime>("\"2026-01-02T03:04:05Z\"").unwrap(), second.timestamp().into());
        assert!(serde_json::from_str::<Time>("\"soon\"").unwrap_err().to_string().contains("RFC 3339"));
    }
}
