//! What keeps everybody out of an instance's routes now, for `portreeve why`: looked up where that asks nobody but the store,
//! else as the last visitor found it.

use super::{Access, Denied, forward, jwt, obstacles::Obstacle, token};
use crate::model::{AuthMode, Instance, JwtAuth, RouteProblem, TokenAuth};

impl Access {
    /// `domain`: the server's, for the host names. No server is asked, and nothing is told of a route that is open.
    pub async fn problems(&self, instance: &Instance, domain: &str) -> Vec<RouteProblem> {
        let mut found = vec![];
        for (at, route) in instance.spec.routes.iter().enumerate() {
            let of = |obstacle: Obstacle| RouteProblem {
                host: instance.resolved_host(route, domain),
                reason: obstacle.reason.to_owned(),
                field: obstacle.path(at),
                message: format!("{}: {}", obstacle.whom(), obstacle.why),
                ..RouteProblem::default()
            };
            let auth = &route.auth;
            match auth.mode {
                AuthMode::None => {}
                AuthMode::Token => {
                    let Some(TokenAuth { secret_key_ref, .. }) = &auth.token else { continue };
                    let looked = token::expected(&instance.metadata.namespace, secret_key_ref, &*self.secrets).await;
                    if let Err(Denied::Unavailable(obstacle) | Denied::Closed(obstacle)) = looked {
                        let last = self.obstacles.last(instance, at);
                        let since = last.filter(|(last, _)| *last == obstacle).map(|(_, since)| since.into());
                        found.push(RouteProblem { since, ..of(obstacle) });
                    }
                }
                AuthMode::Jwt => {
                    if instance.spec.owner.is_empty() {
                        found.push(of(jwt::no_owner()));
                    }
                    found.extend(auth.jwt.as_ref().and_then(|settings| self.keys_problem(settings, of)));
                }
                AuthMode::ForwardAuth => {
                    let last = self.obstacles.last(instance, at).filter(|(last, _)| last.reason == forward::AWAY);
                    found.extend(
                        last.map(|(obstacle, since)| RouteProblem { since: Some(since.into()), ..of(obstacle) }),
                    );
                }
            }
        }
        found
    }

    fn keys_problem(&self, settings: &JwtAuth, of: impl Fn(Obstacle) -> RouteProblem) -> Option<RouteProblem> {
        let failing = self.keys.failing(&settings.jwks_url)?;
        let obstacle = jwt::keys_away(&settings.jwks_url, &failing.why);
        let still = failing.counts.map(|end| format!("{}; those that are known count until {end}", obstacle.why));
        let mut problem = of(obstacle);
        if let Some(message) = still {
            problem.message = message;
        }
        Some(RouteProblem { since: Some(failing.since.into()), next: Some(failing.again.into()), ..problem })
    }
}
