//! What is counted of orders, for whoever scrapes it.

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::plan::Refusal;

type Label = [(&'static str, &'static str); 1];

/// Counters since the start, and how names stand. Cheap to clone: clones count together.
#[derive(Clone, Debug)]
pub struct Stats {
    orders: Family<Label, Counter>,
    names: Family<Label, Gauge>,
    /// None, or one without a label: there may be nothing that ends.
    ends: Family<Vec<(String, String)>, Gauge>,
}

impl Default for Stats {
    fn default() -> Stats {
        let stats = Stats { orders: Family::default(), names: Family::default(), ends: Family::default() };
        for result in ["issued", "failed", "limited"] {
            drop(stats.orders.get_or_create(&[("result", result)]));
        }
        stats.names(0, 0, 0, None);
        stats
    }
}

impl Stats {
    pub fn register(&self, registry: &mut Registry) {
        let help = "Orders of certificates by ACME, by what became of them";
        registry.register("acme_orders", help, self.orders.clone());
        let help = "Host names that are to have a certificate by ACME";
        registry.register("acme_names", help, self.names.clone());
        let help = "When the first of the certificates by ACME ends that are in use, in seconds since 1970";
        registry.register("acme_certificate_expiry_timestamp_seconds", help, self.ends.clone());
    }

    pub(super) fn issued(&self) {
        self.orders.get_or_create(&[("result", "issued")]).inc();
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        let result = if refusal.limited { "limited" } else { "failed" };
        self.orders.get_or_create(&[("result", result)]).inc();
    }

    /// Of so many names so many have one; the last attempt of so many failed; and when the first of them ends.
    pub(super) fn names(&self, wanted: usize, with: usize, failing: usize, ends: Option<Timestamp>) {
        let set = |state, n: usize| {
            self.names.get_or_create(&[("state", state)]).set(i64::try_from(n).unwrap_or(i64::MAX));
        };
        set("covered", with);
        set("waiting", wanted.saturating_sub(with));
        set("failing", failing);
        match ends {
            Some(ends) => drop(self.ends.get_or_create(&vec![]).set(ends.as_second())),
            None => self.ends.clear(),
        }
    }
}
