//! The API's [`Explains`], by the controllers' own decision, the proxy's counts, and what the front door knows of its routes.

use std::sync::Arc;

use async_trait::async_trait;

use crate::acme::Standing;
use crate::api::Explains;
use crate::controllers::Context;
use crate::controllers::instance::explain;
use crate::controllers::recorder::{EventType, Recorder};
use crate::model::{Instance, InstanceExplanation, Resource as _, RouteProblem};
use crate::proxy::{Access, Witness};

pub struct Explainer {
    pub ctx: Arc<Context>,
    pub access: Arc<Access>,
    /// Empty where none are ordered.
    pub certificates: Arc<Standing>,
}

#[async_trait]
impl Explains for Explainer {
    async fn explain(&self, instance: &Instance) -> InstanceExplanation {
        let mut told = explain(&self.ctx, instance);
        told.route_problems = self.access.problems(instance, self.ctx.cache.domain()).await;
        told.route_problems.extend(self.certificate_problems(instance));
        told
    }
}

impl Explainer {
    /// Of the host names that lead to it.
    fn certificate_problems(&self, instance: &Instance) -> Vec<RouteProblem> {
        let (cache, now) = (&self.ctx.cache, self.ctx.clock.now());
        let leads = |host: &String| cache.route(host).is_some_and(|to| to.metadata.uid == instance.metadata.uid);
        let hosts = instance.resolved_routes(cache.domain()).into_iter().map(|route| route.host).filter(leads);
        let found = hosts.filter_map(|host| {
            let problem = self.certificates.problem(&host, now)?;
            Some(RouteProblem {
                host,
                reason: problem.reason.to_owned(),
                message: problem.message,
                next: problem.next.map(Into::into),
                ..RouteProblem::default()
            })
        });
        found.collect()
    }
}

/// What keeps everybody out of a route, told as Events of the instance.
pub struct Told(pub Arc<Recorder>);

impl Witness for Told {
    fn obstructed(&self, instance: &Instance, reason: &'static str, message: String) {
        self.0.event(&instance.key(), &instance.metadata.uid, EventType::Warning, reason, message);
    }
}
