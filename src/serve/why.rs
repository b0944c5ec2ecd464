//! The API's [`Explains`], by the controllers' own decision and the proxy's counts.

use std::sync::Arc;

use crate::api::Explains;
use crate::clock::SharedClock;
use crate::controllers::ActivityView;
use crate::controllers::instance::explain;
use crate::model::{Instance, InstanceExplanation, Resource as _};
use crate::proxy::Activity;

pub struct Explainer {
    pub activity: Arc<Activity>,
    pub clock: SharedClock,
}

impl Explains for Explainer {
    fn explain(&self, instance: &Instance) -> InstanceExplanation {
        explain(instance, self.activity.seen(&instance.key()), self.clock.now())
    }
}
