//! How long the certificates of a host are good for, told while there is time: pure.

use jiff::{SignedDuration, Timestamp};

use crate::model::{CREDENTIALS_INVALID, Condition, ConditionStatus, DockerHost, HostTls};
use crate::pki::RENEW_BEFORE;

/// The type of the condition.
pub const TLS_VALID: &str = "TLSValid";

/// What is to be said; nothing about a host without TLS, or one whose certificates nobody has seen yet. `fault`: why
/// there are none for another connection.
pub fn condition(host: &DockerHost, ends: Option<Timestamp>, fault: Option<&str>, now: Timestamp) -> Option<Condition> {
    let tls = host.spec.tls.as_ref()?;
    let (status, reason, message) = match fault {
        None if tls.is_plaintext() => (ConditionStatus::False, "Plaintext", PLAINTEXT.to_owned()),
        Some(fault) => (ConditionStatus::False, CREDENTIALS_INVALID, fault.to_owned()),
        None => validity(&host.metadata.name, tls, ends?, now),
    };
    Some(Condition {
        type_: TLS_VALID.into(),
        status,
        reason: reason.into(),
        message,
        observed_generation: host.metadata.generation,
        last_transition_time: now.into(),
    })
}

const PLAINTEXT: &str = "nothing on the way to the daemon is encrypted, and whoever reaches it is root on its machine";

fn validity(name: &str, tls: &HostTls, ends: Timestamp, now: Timestamp) -> (ConditionStatus, &'static str, String) {
    let left = ends.duration_since(now);
    let secret = if tls.secret.is_empty() { "" } else { " --secret" };
    let cure = format!("renew by `portreeve host rotate {name}{secret}`");
    if left <= SignedDuration::ZERO {
        (ConditionStatus::False, "Expired", format!("a certificate of the host has ended at {ends}; {cure}"))
    } else if left <= RENEW_BEFORE {
        (ConditionStatus::False, "ExpiresSoon", format!("a certificate of the host ends at {ends}; {cure}"))
    } else {
        (ConditionStatus::True, "Valid", format!("the certificates are good until {ends}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_tls_is_told_as_long_as_it_is_one() {
        let mut host = DockerHost::default();
        host.spec.tls = Some(HostTls { insecure_plaintext: true, ..Default::default() });
        let told = condition(&host, None, None, Timestamp::UNIX_EPOCH).expect("told");
        assert_eq!((told.status, told.reason.as_str()), (ConditionStatus::False, "Plaintext"));
    }

    #[test]
    fn the_end_of_a_certificate_is_told_a_month_ahead() {
        let day = |n: i64| Timestamp::from_second(1_767_225_600 + n * 86_400).expect("a time");
        let mut host = DockerHost::default();
        host.metadata.name = "w1".into();
        assert_eq!(condition(&host, Some(day(1)), Some("lost"), day(0)), None, "no TLS");
        host.spec.tls = Some(HostTls { directory: "/certs".into(), ..Default::default() });
        assert_eq!(condition(&host, None, None, day(0)), None, "nobody has seen one");
        let reason = |now| condition(&host, Some(day(100)), None, day(now)).map(|c| (c.status, c.reason));
        for (now, status, told) in [
            (0, ConditionStatus::True, "Valid"),
            (69, ConditionStatus::True, "Valid"),
            (70, ConditionStatus::False, "ExpiresSoon"),
            (100, ConditionStatus::False, "Expired"),
        ] {
            assert_eq!(reason(now), Some((status, told.to_owned())), "day {now}");
        }
        assert!(condition(&host, Some(day(100)), None, day(99)).is_some_and(|c| c.message.contains("host rotate w1")));
    }
}
