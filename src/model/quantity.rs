//! Quantities (`256Mi`, `500m`) and durations (`30m`, `1h30m`, `250ms`), parsed as Kubernetes and Go parse them.

use std::time::Duration;

use schemars::{Schema, json_schema};

use super::written::{Meaning, Written};

/// A fixed-point number with a Kubernetes suffix. Keeps the text it was written as; compares by value.
///
/// Source: `k8s.io/apimachinery/pkg/api/resource` (suffixes `n u m k M G T P E`, `Ki Mi Gi Ti Pi Ei`, exponents).
pub type Quantity = Written<Thousandths>;

/// Rounded up, as Kubernetes rounds at its finest supported scale for our uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Thousandths(i128);

impl Quantity {
    /// Thousandths of the unit: millicores of CPU.
    pub fn milli(&self) -> i64 {
        self.meaning().0.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// Whole units, rounded up: bytes of memory.
    pub fn value(&self) -> i64 {
        let Thousandths(milli) = *self.meaning();
        (milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0)).clamp(i64::MIN.into(), i64::MAX.into())
            as i64
    }

    /// A quantity of whole units, written with the largest binary suffix that divides it.
    pub fn from_bytes(bytes: i64) -> Quantity {
        let mut n = bytes;
        let mut suffix = "";
        for s in ["Ki", "Mi", "Gi", "Ti"] {
            if n == 0 || n % 1024 != 0 {
                break;
            }
            n /= 1024;
            suffix = s;
        }
        Quantity::new(format!("{n}{suffix}"), Thousandths(i128::from(bytes) * 1000))
    }

    /// A quantity of thousandths, written in whole units where it is whole.
    pub fn from_milli(milli: i64) -> Quantity {
        let text = if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") };
        Quantity::new(text, Thousandths(milli.into()))
    }
}

impl Meaning for Thousandths {
    const EXPECTED: &'static str = "a quantity such as 500m, 2, 256Mi or 1.5G";
    const TAKES_NUMBERS: bool = true;
    const SCHEMA_NAME: &'static str = "Quantity";

    fn schema() -> Schema {
        json_schema!({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true, "format": "quantity"})
    }

    fn read(text: &str) -> Option<Thousandths> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() + fraction.len() > 18 {
            return None;
        }
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        // value = digits * factor / (10^fraction * divisor)
        let (factor, divisor): (i128, i128) = match suffix {
            "" => (1, 1),
            "n" => (1, 1_000_000_000),
            "u" => (1, 1_000_000),
            "m" => (1, 1000),
            "k" => (1000, 1),
            "M" => (1_000_000, 1),
            "G" => (1_000_000_000, 1),
            "T" => (1_000_000_000_000, 1),
            "P" => (1_000_000_000_000_000, 1),
            "E" => (1_000_000_000_000_000_000, 1),
            "Ki" => (1 << 10, 1),
            "Mi" => (1 << 20, 1),
            "Gi" => (1 << 30, 1),
            "Ti" => (1 << 40, 1),
            "Pi" => (1 << 50, 1),
            "Ei" => (1 << 60, 1),
            _ => {
                let exponent: i32 = suffix.strip_prefix(['e', 'E']).and_then(|e| e.parse().ok())?;
                match exponent {
                    0..=18 => (10i128.pow(exponent as u32), 1),
                    -18..=-1 => (1, 10i128.pow(exponent.unsigned_abs())),
                    _ => return None,
                }
            }
        };
        let denominator = 10i128.pow(fraction.len() as u32).checked_mul(divisor)?;
        let numerator = digits.checked_mul(factor).and_then(|n| n.checked_mul(1000))?;
        let magnitude = numerator / denominator + i128::from(numerator % denominator != 0);
        if magnitude > i128::from(i64::MAX) * 1000 {
            return None;
        }
        let milli = if text.starts_with('-') { -magnitude } else { magnitude };
        Some(Thousandths(milli))
    }
}

/// A length of time in Go's notation: decimal numbers with a unit each, `ns us µs ms s m h`, and days as `d`.
pub type Span = Written<Duration>;

impl Span {
    pub fn duration(&self) -> Duration {
        *self.meaning()
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Span {
        let millis = duration.as_millis();
        let text = match millis {
            0 => "0s".to_owned(),
            n if n % 3_600_000 == 0 => format!("{}h", n / 3_600_000),
            n if n % 60_000 == 0 => format!("{}m", n / 60_000),
            n if n % 1000 == 0 => format!("{}s", n / 1000),
            n => format!("{n}ms"),
        };
        Span::new(text, duration)
    }
}

impl Meaning for Duration {
    const EXPECTED: &'static str = "a duration such as 250ms, 30s, 30m or 1h30m";
    const SCHEMA_NAME: &'static str = "Duration";

    fn schema() -> Schema {
        json_schema!({"type": "string", "format": "duration"})
    }

    fn read(text: &str) -> Option<Duration> {
        if text == "0" {
            return Some(Duration::ZERO);
        }
        let mut rest = text;
        let mut nanos: u128 = 0;
        if rest.is_empty() || rest.len() > 40 {
            return None;
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, tail) = rest.split_at(end);
            let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, next) = tail.split_at(unit_end);
            let unit: u128 = match unit {
                "ns" => 1,
                "us" | "µs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60 * 1_000_000_000,
                "h" => 3_600 * 1_000_000_000,
                "d" => 86_400 * 1_000_000_000,
                _ => return None,
            };
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() + fraction.len() > 15
            {
                return None;
            }
            let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
            nanos += digits * unit / 10u128.pow(fraction.len() as u32);
            rest = next;
        }
        let nanos = u64::try_from(nanos).ok()?;
        Some(Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_have_the_values_that_kubernetes_gives_them() {
        for (text, milli) in [
            ("0", 0),
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("1.5G", 1_500_000_000_000),
            ("256Mi", 256 * 1024 * 1024 * 1000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("12e-1", 1200),
            ("100n", 1),
            ("-2", -2000),
            ("2k", 2_000_000),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().milli(), milli, "{text}");
        }
        for bad in ["", "Mi", "1Mb", "1 Mi", "1.2.3", "e3", "1e99", "0x10", "99999999999E", "1KiB", "∞"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad:?} was taken for a quantity");
        }
    }

    #[test]
    fn a_number_in_json_is_a_quantity_too() {
        assert_eq!(serde_json::from_str::<Quantity>("2").unwrap().milli(), 2000);
        assert_eq!(serde_json::from_str::<Quantity>("0.25").unwrap().milli(), 250);
        assert!(serde_json::from_str::<Quantity>("true").is_err());
    }

    #[test]
    fn spans_have_the_values_that_go_gives_them() {
        for (text, millis) in
            [("0", 0), ("250ms", 250), ("30m", 1_800_000), ("1h30m", 5_400_000), ("1.5s", 1500), ("1d", 86_400_000)]
        {
            assert_eq!(text.parse::<Span>().unwrap().duration().as_millis(), millis, "{text}");
        }
        for bad in ["", "5", "m", "-5m", "5 m", "1x", "1.2.3s", "999999999999999h"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?} was taken for a duration");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "[0-9a-zA-Z.+µ-]{0,24}") {
            let _ = text.parse::<Quantity>();
            let _ = text.parse::<Span>();
        }

        #[test]
        fn written_quantities_read_back(bytes in 0i64..1 << 50, milli in 0i64..1 << 40) {
            prop_assert_eq!(Quantity::from_bytes(bytes).to_string().parse::<Quantity>().unwrap().value(), bytes);
            prop_assert_eq!(Quantity::from_milli(milli).to_string().parse::<Quantity>().unwrap().milli(), milli);
        }
    }
}
