//! The API's [`Explains`], by the controllers' own decision and the proxy's counts.

use std::sync::Arc;

use crate::api::Explains;
use crate::controllers::Context;
use crate::controllers::instance::explain;
use crate::model::{Instance, InstanceExplanation};

pub struct Explainer(pub Arc<Context>);

impl Explains for Explainer {
    fn explain(&self, instance: &Instance) -> InstanceExplanation {
        explain(&self.0, instance)
    }
}
