//! Which of its hosts an instance has, and what is said where another has one of them.
//!
//! Whose a host is, the cache knows: what is told here is what the proxy does.

use super::super::Context;
use super::plan::Site;
use super::report::Report;
use crate::model::{ConditionStatus, Instance};

/// The condition that is False while another instance has one of its hosts, and absent otherwise.
pub const ROUTES_ACCEPTED: &str = "RoutesAccepted";
/// Its reason.
pub const HOSTNAME_CONFLICT: &str = "HostnameConflict";

/// A host that an instance claims, and another one has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub host: String,
    /// The name of the one that has it, if both are of one namespace: of other namespaces nothing is told here.
    pub by: Option<String>,
}

/// The hosts of it that others have, in the order of its routes.
pub fn taken(ctx: &Context, desired: &Instance) -> Vec<Taken> {
    let own = |holder: &Instance| holder.metadata.namespace == desired.metadata.namespace;
    let taken = ctx.cache.taken(desired).into_iter();
    taken.map(|(host, by)| Taken { host, by: own(&by).then(|| by.metadata.name.clone()) }).collect()
}

/// The address of the first host that is its own, and what is wrong with the others.
pub fn tell(report: &mut Report, site: &Site, desired: &Instance, taken: &[Taken]) {
    let hosts = desired.resolved_routes(&site.domain).into_iter().map(|route| route.host);
    let mut own = hosts.filter(|host| taken.iter().all(|taken| taken.host != *host));
    report.status.url = own.next().map(|host| site.url.replace("{host}", &host)).unwrap_or_default();
    if taken.is_empty() {
        report.status.conditions.retain(|c| c.type_ != ROUTES_ACCEPTED);
        return;
    }
    let has = |taken: &Taken| match &taken.by {
        Some(name) => format!("{} is instance {name}'s", taken.host),
        None => format!("{} is another instance's", taken.host),
    };
    let all: Vec<_> = taken.iter().map(has).collect();
    let message =
        format!("{}, which was there first: no request to it comes here while that one claims it", all.join("; "));
    report.condition(ROUTES_ACCEPTED, ConditionStatus::False, HOSTNAME_CONFLICT, message);
}
