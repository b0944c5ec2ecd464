//! Choosing a subnet that nothing on this machine uses.

use std::fs;

use anyhow::{Context, Result};

use super::state::{Fleet, ROOT};
use crate::process;

/// Candidates, the usual one first.
fn candidates() -> impl Iterator<Item = String> {
    (0..16).flat_map(|third| [88, 87, 86, 85, 84, 83, 82, 81, 80].map(|second| format!("10.{second}.{third}")))
}

/// A free one. The caller holds the lock until the fleet's file names it.
pub fn choose() -> Result<String> {
    let mut taken = process::tool("ip -o route show table all")?;
    taken.push_str(&process::tool("ip -o address show")?);
    for entry in fs::read_dir(ROOT).with_context(|| format!("reading {ROOT}"))?.flatten() {
        if let Ok(fleet) = Fleet::read(&entry.path()) {
            taken.push_str(&format!(" {}.0/24", fleet.subnet));
        }
    }
    let taken: Vec<Range> = taken.split_whitespace().filter_map(Range::parse).collect();
    let free = candidates().find(|subnet| {
        let range = Range::parse(&format!("{subnet}.0/24"));
        range.is_some_and(|range| !taken.iter().any(|t| t.overlaps(&range)))
    });
    free.context("no free subnet: 10.80.0.0/24 to 10.88.15.0/24 are all in use")
}

/// First and last address of a block.
struct Range(u32, u32);

impl Range {
    /// `10.88.0.0/24` or a single address; anything else, the default route too, is no range.
    fn parse(word: &str) -> Option<Range> {
        let (address, bits) = word.split_once('/').unwrap_or((word, "32"));
        let address: std::net::Ipv4Addr = address.parse().ok()?;
        let bits: u32 = bits.parse().ok().filter(|b| (1..=32).contains(b))?;
        let mask = u32::MAX << (32 - bits);
        let first = u32::from(address) & mask;
        Some(Range(first, first | !mask))
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.0 <= other.1 && other.0 <= self.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_overlap_when_one_address_is_in_both() {
        let overlap = |a, b| Range::parse(a).unwrap().overlaps(&Range::parse(b).unwrap());
        assert!(overlap("10.88.0.0/24", "10.0.0.0/8"));
        assert!(overlap("10.88.0.7", "10.88.0.0/24"));
        assert!(!overlap("10.88.0.0/24", "10.88.1.0/24"));
        for word in ["default", "dev", "fd00::/8", "0.0.0.0/0", "10.0.0/8", "1.2.3.4/33"] {
            assert!(Range::parse(word).is_none(), "{word}");
        }
    }

    #[test]
    fn the_usual_subnet_is_tried_first() {
        assert_eq!(candidates().next().as_deref(), Some("10.88.0"));
        assert_eq!(candidates().count(), 144);
    }
}
