//! How long the certificates of a host are good for, told while there is time: pure.

use jiff::{SignedDuration, Timestamp};

use crate::model::{Condition, ConditionStatus, DockerHost};
use crate::pki::RENEW_BEFORE;

/// The type of the condition.
pub const TLS_VALID: &str = "TLSValid";

/// What is to be said; nothing about a host without TLS, or one whose certificates nobody has seen yet.
pub fn condition(host: &DockerHost, ends: Option<Timestamp>, now: Timestamp) -> Option<Condition> {
    host.spec.tls.as_ref()?;
    let ends = ends?;
    let left = ends.duration_since(now);
    let cure = format!("renew by `portreeve host rotate {}`", host.metadata.name);
    let (status, reason, message) = if left <= SignedDuration::ZERO {
        (ConditionStatus::False, "Expired", format!("a certificate of the host has ended at {ends}; {cure}"))
    } else if left <= RENEW_BEFORE {
        (ConditionStatus::False, "ExpiresSoon", format!("a certificate of the host ends at {ends}; {cure}"))
    } else {
        (ConditionStatus::True, "Valid", format!("the certificates are good until {ends}"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostTls;

    #[test]
    fn the_end_of_a_certificate_is_told_a_month_ahead() {
        let day = |n: i64| Timestamp::from_second(1_767_225_600 + n * 86_400).expect("a time");
        let mut host = DockerHost::default();
        host.metadata.name = "w1".into();
        assert_eq!(condition(&host, Some(day(1)), day(0)), None, "no TLS");
        host.spec.tls = Some(HostTls { directory: "/certs".into() });
        assert_eq!(condition(&host, None, day(0)), None, "nobody has seen one");
        let reason = |now| condition(&host, Some(day(100)), day(now)).map(|c| (c.status, c.reason));
        for (now, status, told) in [
            (0, ConditionStatus::True, "Valid"),
            (69, ConditionStatus::True, "Valid"),
            (70, ConditionStatus::False, "ExpiresSoon"),
            (100, ConditionStatus::False, "Expired"),
        ] {
            assert_eq!(reason(now), Some((status, told.to_owned())), "day {now}");
        }
        assert!(condition(&host, Some(day(100)), day(99)).is_some_and(|c| c.message.contains("host rotate w1")));
    }
}
