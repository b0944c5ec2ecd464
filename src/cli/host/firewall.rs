//! The rules that keep a worker's instances from the worker itself and from one another, as its installer brings them. Pure.

use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::model::{Subnet, SubnetPool};

const SCRIPT: &str = include_str!("../../../examples/worker-firewall/portreeve-firewall.sh");
const UNIT: &str = include_str!("../../../examples/worker-firewall/portreeve-firewall.service");
/// The arguments in the unit, which are an example's.
const EXAMPLE: &str = "10.213.0.0/16 169.254.0.0/16 10.0.0.2:7443";
/// Where clouds answer who asks for the machine's own credentials (RFC 3927).
const METADATA: &str = "169.254.0.0/16";

/// What instances must not reach beyond their host: `ADDRESS`, `ADDRESS:PORT` (of TCP) or a range, as the rules take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied(String);

impl FromStr for Denied {
    type Err = String;

    fn from_str(text: &str) -> Result<Denied, String> {
        let wrong = || format!("{text:?} is no IPv4 ADDRESS, ADDRESS:PORT or range such as 192.168.0.0/16");
        let (to, port) = text.rsplit_once(':').map_or((text, None), |(to, port)| (to, Some(port)));
        let known = to.parse::<Ipv4Addr>().is_ok() || to.parse::<Subnet>().is_ok();
        let well = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|n| n > 0 && n.to_string() == port));
        if known && well { Ok(Denied(text.to_owned())) } else { Err(wrong()) }
    }
}

/// The rules of one worker.
#[derive(Clone, Debug)]
pub struct Firewall {
    /// Of its instances' networks: its `spec.subnetPool`.
    pub pool: Subnet,
    pub denied: Vec<Denied>,
}

impl Firewall {
    pub const DEFAULT_POOL: Subnet = SubnetPool::DEFAULT_RANGE;

    /// What the script is called with, after `apply`.
    pub fn arguments(&self) -> String {
        let mut words = vec![self.pool.to_string(), METADATA.to_owned()];
        words.extend(self.denied.iter().map(|denied| denied.0.clone()));
        words.join(" ")
    }

    pub fn script() -> &'static str {
        SCRIPT
    }

    /// For systemd: at boot, and with each start of Docker. The example's comment is about the example's own arguments.
    pub fn unit(&self) -> String {
        let unit = UNIT.replace(EXAMPLE, &self.arguments());
        let lines = unit.lines().skip_while(|line| line.starts_with('#'));
        let body = lines.collect::<Vec<_>>().join("\n");
        format!("# Made by `portreeve host certs`: the instances' pool, and what they must not reach.\n{body}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_names_the_workers_own_pool_and_all_that_is_denied() {
        let denied = vec!["10.0.0.2:7443".parse().unwrap(), "192.168.0.0/16".parse().unwrap()];
        let unit = Firewall { pool: "10.77.0.0/20".parse().unwrap(), denied }.unit();
        let line = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        let wanted =
            "/usr/local/sbin/portreeve-firewall.sh apply 10.77.0.0/20 169.254.0.0/16 10.0.0.2:7443 192.168.0.0/16";
        assert_eq!(line, format!("ExecStart={wanted}"));
        assert!(!unit.contains("enable it") && unit.contains("\n[Unit]\n"), "the example's comment: {unit}");
    }

    #[test]
    fn what_is_denied_can_be_no_other_rule() {
        for good in ["10.0.0.2", "10.0.0.2:22", "10.0.0.0/8"] {
            assert!(good.parse::<Denied>().is_ok(), "{good}");
        }
        for bad in
            ["", "host", "10.0.0.2:0", "10.0.0.2:+1", "10.0.0.2:70000", "10.0.0.1/8", "10.0.0.2 -j ACCEPT", "::1"]
        {
            assert!(bad.parse::<Denied>().is_err(), "{bad}");
        }
    }
}
