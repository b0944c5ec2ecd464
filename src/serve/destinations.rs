//! Where instances can go: the API's [`Destinations`] over the scheduler.

use std::sync::Arc;

use crate::api::Destinations;
use crate::controllers::Context;
use crate::controllers::instance::elsewhere;
use crate::model::Instance;

/// Asks the scheduler, with the fleet as the cache shows it.
pub struct Scheduled(pub Arc<Context>);

impl Destinations for Scheduled {
    fn elsewhere(&self, instance: &Instance) -> Result<(), String> {
        elsewhere(instance, &self.0.loads.fleet()).map(drop)
    }
}
