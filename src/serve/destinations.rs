//! Where instances can go: the API's [`Destinations`] over the scheduler.

use std::sync::Arc;

use crate::api::Destinations;
use crate::cache::Cache;
use crate::controllers::instance::elsewhere;
use crate::model::Instance;
use crate::scheduler::Fleet;

/// Asks the scheduler, with the fleet as the cache shows it.
pub struct Scheduled(pub Arc<Cache>);

impl Destinations for Scheduled {
    fn elsewhere(&self, instance: &Instance) -> Result<(), String> {
        let instances = self.0.instances();
        let fleet = Fleet::new(self.0.hosts(), instances.iter().map(|i| &**i));
        elsewhere(instance, fleet).map(drop)
    }
}
