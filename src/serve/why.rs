//! The API's [`Explains`], by the controllers' own decision, the proxy's counts, and what the front door knows of its routes.

use std::sync::Arc;

use async_trait::async_trait;

use crate::api::Explains;
use crate::controllers::Context;
use crate::controllers::instance::explain;
use crate::controllers::recorder::{EventType, Recorder};
use crate::model::{Instance, InstanceExplanation, Resource as _};
use crate::proxy::{Access, Witness};

pub struct Explainer {
    pub ctx: Arc<Context>,
    pub access: Arc<Access>,
}

#[async_trait]
impl Explains for Explainer {
    async fn explain(&self, instance: &Instance) -> InstanceExplanation {
        let mut told = explain(&self.ctx, instance);
        told.route_problems = self.access.problems(instance, self.ctx.cache.domain()).await;
        told
    }
}

/// What keeps everybody out of a route, told as Events of the instance.
pub struct Told(pub Arc<Recorder>);

impl Witness for Told {
    fn obstructed(&self, instance: &Instance, reason: &'static str, message: String) {
        self.0.event(&instance.key(), &instance.metadata.uid, EventType::Warning, reason, message);
    }
}
