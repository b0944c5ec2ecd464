//! IPv4 subnets: the networks of instances, cut from the pool of their host. Pure.
//!
//! ```text
//! DockerHost.spec.subnetPool ──▶ SubnetPool ──▶ scheduler chooses ──▶ Instance.status.subnet ──▶ Docker network
//! ```
//!
//! A [`Subnet`] is always written as its first address and its prefix, so that equal subnets have equal texts.

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;
use std::collections::BTreeSet;

use super::validate::quoted;
use super::{DockerHostSpec, FieldError, FieldErrors};

/// `10.213.4.16/28`: an aligned range of IPv4 addresses. Ordered by the first address, wider ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    first: u32,
    prefix: u8,
}

/// What is expected of the text of a subnet.
const FORM: &str = "must be an IPv4 range in CIDR notation that begins at its first address, such as 10.213.0.0/16";

impl Subnet {
    /// The subnet of this size around an address.
    fn around(address: u32, prefix: u8) -> Subnet {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Subnet { first: address & mask, prefix }
    }

    /// As others write it, who may have named it by any of its addresses; `None` for what is not IPv4.
    pub fn read(text: &str) -> Option<Subnet> {
        let (address, prefix) = text.split_once('/')?;
        let prefix = prefix.parse().ok().filter(|p| *p <= 32)?;
        Some(Subnet::around(address.parse::<Ipv4Addr>().ok()?.to_bits(), prefix))
    }

    /// The last address.
    fn last(self) -> u32 {
        self.first | u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0)
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last()).contains(&address.to_bits())
    }

    /// Whether they have an address in common: then one lies in the other.
    pub fn overlaps(self, other: Subnet) -> bool {
        self.first <= other.last() && other.first <= self.last()
    }

    /// The address of the host in the instance's network, and the way out of it: the first after the network's own.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first + 1)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.first), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Subnet, &'static str> {
        let (address, prefix) = text.split_once('/').ok_or(FORM)?;
        // A number for people may begin with a sign or a zero; one of a subnet may not.
        let plain = prefix == "0" || (!prefix.starts_with('0') && prefix.bytes().all(|b| b.is_ascii_digit()));
        let prefix = plain.then(|| prefix.parse::<u8>().ok()).flatten().filter(|p| *p <= 32).ok_or(FORM)?;
        let first = address.parse::<Ipv4Addr>().map_err(|_| FORM)?.to_bits();
        let subnet = Subnet::around(first, prefix);
        if subnet.first == first { Ok(subnet) } else { Err(FORM) }
    }
}

/// Subnets that are in use, of any sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubnetSet(BTreeSet<Subnet>);

impl SubnetSet {
    /// Whether it was not in use before.
    pub fn insert(&mut self, subnet: Subnet) -> bool {
        self.0.insert(subnet)
    }

    pub fn remove(&mut self, subnet: Subnet) {
        self.0.remove(&subnet);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether any of them has an address in common with this one. Takes time with the logarithm of their number.
    pub fn overlaps(&self, subnet: Subnet) -> bool {
        let widest_at = |address| Subnet { first: address, prefix: 0 };
        let within = self.0.range(widest_at(subnet.first)..).next().is_some_and(|s| s.first <= subnet.last());
        within || (0..subnet.prefix).any(|prefix| self.0.contains(&Subnet::around(subnet.first, prefix)))
    }
}

impl Extend<Subnet> for SubnetSet {
    fn extend<I: IntoIterator<Item = Subnet>>(&mut self, subnets: I) {
        self.0.extend(subnets);
    }
}

/// The subnets of a host, all of one size, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetPool {
    range: Subnet,
    prefix: u8,
}

impl SubnetPool {
    /// Sixteen addresses: the network's own, the gateway's, the broadcast's, and thirteen for an app with companions.
    pub const DEFAULT_SIZE: u8 = 28;
    /// Where hosts take them from unless told otherwise: away from the daemon's own default pools.
    pub const DEFAULT_RANGE: Subnet = Subnet { first: u32::from_be_bytes([10, 213, 0, 0]), prefix: 16 };
    /// Below 5 addresses for containers there is no room for companions; above 253 a pool is soon empty.
    const SIZES: core::ops::RangeInclusive<u8> = 24..=29;
    /// Ranges that no public address is in.
    const PRIVATE: [Subnet; 4] = [
        Subnet { first: u32::from_be_bytes([10, 0, 0, 0]), prefix: 8 },
        Subnet { first: u32::from_be_bytes([172, 16, 0, 0]), prefix: 12 },
        Subnet { first: u32::from_be_bytes([192, 168, 0, 0]), prefix: 16 },
        Subnet { first: u32::from_be_bytes([100, 64, 0, 0]), prefix: 10 },
    ];

    /// How many there are: at least one.
    pub fn count(self) -> u32 {
        1 << (self.prefix - self.range.prefix)
    }

    /// The subnet of this number, from 0 on; the count begins anew behind the last.
    pub fn nth(self, number: u32) -> Subnet {
        let addresses = 1u32 << (32 - self.prefix);
        Subnet { first: self.range.first + (number % self.count()) * addresses, prefix: self.prefix }
    }

    pub fn range(self) -> Subnet {
        self.range
    }
}

impl DockerHostSpec {
    /// Where the networks of instances are. A pool that cannot be read, which validation refuses, gives the default.
    pub fn subnets(&self) -> SubnetPool {
        let default = SubnetPool { range: SubnetPool::DEFAULT_RANGE, prefix: SubnetPool::DEFAULT_SIZE };
        let prefix = self.subnet_size.unwrap_or(SubnetPool::DEFAULT_SIZE);
        let range = if self.subnet_pool.is_empty() { Ok(default.range) } else { self.subnet_pool.parse() };
        let pool = range.map(|range| SubnetPool { range, prefix });
        pool.ok().filter(|p| SubnetPool::SIZES.contains(&prefix) && p.range.prefix <= prefix).unwrap_or(default)
    }
}

/// Checks that the pool is a private range that holds what may be placed on the host, and not the host itself.
pub(super) fn validate_subnets(spec: &DockerHostSpec, errors: &mut FieldErrors) {
    let before = errors.len();
    let invalid = |why: &str| FieldError::invalid("spec.subnetPool", quoted(&spec.subnet_pool), why);
    if let Some(size) = spec.subnet_size.filter(|size| !SubnetPool::SIZES.contains(size)) {
        let why = "must be a prefix length from 24 (253 containers) to 29 (5 containers)";
        errors.push(FieldError::invalid("spec.subnetSize", size, why));
    }
    if !spec.subnet_pool.is_empty() {
        match spec.subnet_pool.parse::<Subnet>() {
            Err(why) => errors.push(invalid(why)),
            Ok(range) if !SubnetPool::PRIVATE.iter().any(|p| p.prefix <= range.prefix && p.overlaps(range)) => {
                let why = "must lie in a private range: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10";
                errors.push(invalid(why));
            }
            Ok(range) if range.prefix > spec.subnet_size.unwrap_or(SubnetPool::DEFAULT_SIZE) => {
                errors.push(invalid(&format!("must hold a subnet of /{}", spec.subnet_size.unwrap_or(28))));
            }
            Ok(_) => {}
        }
    }
    if errors.len() > before {
        return;
    }
    let pool = spec.subnets();
    if let Ok(address) = spec.reach_address().parse::<Ipv4Addr>()
        && pool.range.contains(address)
    {
        let why = format!("must not hold the host's own address {address}");
        errors.push(FieldError::invalid("spec.subnetPool", quoted(&pool.range.to_string()), &why));
    }
    let most = spec.capacity.most_instances();
    if most > i64::from(pool.count()) {
        let why = format!(
            "has {} subnets of /{} for up to {most} instances: write a larger pool, smaller subnets (a larger \
             spec.subnetSize) or fewer spec.capacity.instances",
            pool.count(),
            pool.prefix
        );
        errors.push(FieldError::invalid("spec.subnetPool", quoted(&pool.range.to_string()), &why));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{DockerHost, validate_docker_host};

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_is_written_in_one_way() {
        for text in ["10.213.0.0/16", "10.213.4.16/28", "0.0.0.0/0", "255.255.255.255/32"] {
            assert_eq!(subnet(text).to_string(), text);
        }
        for bad in ["", "10.213.0.0", "10.213.0.1/16", "10.213.0.0/33", "10.213.0.0/+8", "10.213.0.0/016", "10.213/16"]
        {
            assert_eq!(bad.parse::<Subnet>(), Err(FORM), "{bad}");
        }
        assert_eq!(("fd00::/64".parse::<Subnet>(), Subnet::read("fd00::/64")), (Err(FORM), None));
        assert_eq!(Subnet::read("10.213.7.1/16"), Some(subnet("10.213.0.0/16")));
        assert_eq!(subnet("10.213.4.16/28").gateway(), Ipv4Addr::new(10, 213, 4, 17));
    }

    fn errors(spec: serde_json::Value) -> Vec<String> {
        let mut host = DockerHost { spec: serde_json::from_value(spec).unwrap(), ..Default::default() };
        host.spec.endpoint = "unix:///x".into();
        validate_docker_host(&host).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pool_is_private_large_enough_and_not_where_the_host_is() {
        let none: [&str; 0] = [];
        for good in [
            serde_json::json!({}),
            serde_json::json!({"subnetPool": "192.168.0.0/16"}),
            serde_json::json!({"subnetPool": "100.64.0.0/10", "subnetSize": 24}),
            serde_json::json!({"subnetPool": "10.1.2.0/24", "subnetSize": 29, "capacity": {"instances": 32}}),
            serde_json::json!({"subnetPool": "10.1.2.0/28", "capacity": {"instances": 1}}),
        ] {
            assert_eq!(errors(good.clone()), none, "{good}");
        }
        for (bad, field, why) in [
            (serde_json::json!({"subnetPool": "10.213.0.0"}), "spec.subnetPool", "CIDR"),
            (serde_json::json!({"subnetPool": "fd00::/64"}), "spec.subnetPool", "IPv4"),
            (serde_json::json!({"subnetPool": "11.0.0.0/8"}), "spec.subnetPool", "private"),
            (serde_json::json!({"subnetPool": "172.0.0.0/8"}), "spec.subnetPool", "private"),
            (serde_json::json!({"subnetPool": "10.1.0.0/29"}), "spec.subnetPool", "must hold a subnet of /28"),
            (serde_json::json!({"subnetSize": 30}), "spec.subnetSize", "from 24"),
            (serde_json::json!({"subnetSize": 23}), "spec.subnetSize", "from 24"),
            (serde_json::json!({"subnetPool": "10.1.0.0/24"}), "spec.subnetPool", "16 subnets of /28 for up to 1000"),
            (serde_json::json!({"capacity": {"instances": 4097}}), "spec.subnetPool", "4096 subnets"),
            (serde_json::json!({"address": "10.213.9.9"}), "spec.subnetPool", "host's own address 10.213.9.9"),
        ] {
            let found = errors(bad.clone());
            assert!(found.len() == 1 && found[0].starts_with(field) && found[0].contains(why), "{bad}: {found:?}");
        }
    }

    #[test]
    fn subnets_of_a_pool_fill_it_from_end_to_end() {
        let mut spec = DockerHostSpec { subnet_pool: "10.1.2.0/24".into(), ..Default::default() };
        let pool = spec.subnets();
        let all: Vec<String> = (0..=pool.count()).map(|n| pool.nth(n).to_string()).collect();
        assert_eq!((pool.count(), all[1].as_str(), all[15].as_str()), (16, "10.1.2.16/28", "10.1.2.240/28"));
        assert_eq!(all[16], all[0], "the count begins anew");
        spec.subnet_pool = "10.1.2.0/30".into();
        assert_eq!(spec.subnets().range().to_string(), "10.213.0.0/16", "one that cannot be read is the default");
    }

    proptest! {
        #[test]
        fn a_set_knows_what_overlaps_whatever_the_sizes(
            taken in proptest::collection::vec((0u32..4096, 16u8..=32), 0..12), asked in (0u32..4096, 16u8..=32),
        ) {
            let of = |(address, prefix): (u32, u8)| Subnet::around(0x0ad5_0000 | address, prefix);
            let mut set = SubnetSet::default();
            set.extend(taken.iter().copied().map(of));
            let any = taken.iter().copied().map(of).any(|s| s.overlaps(of(asked)));
            prop_assert_eq!(set.overlaps(of(asked)), any);
        }
    }
}
