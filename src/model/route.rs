//! The routes of an Instance: which hosts and paths lead to which of its ports, their defaults and rules.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::is_default;
use super::route_auth::{RouteAuth, RouteLimits, validate_auth, validate_limits};
use super::route_path::{normal_prefix, prefix_problem};
use super::validate::{is_dns_label, quoted, unknown_port};
use super::{FieldError, FieldErrors, Instance};

/// One host name and what its paths lead to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// Host name; `{name}`, `{namespace}` and `{domain}` stand for the instance's and the server's. Default: {name}.{domain}
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 253))]
    pub host: String,
    /// Path prefixes and the ports that they lead to; the longest match wins. Default: / to the first port.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub paths: Vec<RoutePath>,
    /// Who is let through. Default: everybody.
    #[serde(default, skip_serializing_if = "is_default")]
    pub auth: RouteAuth,
    /// How much is let through at a time. Default: all that comes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: RouteLimits,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoutePath {
    /// Absolute path prefix, matched by whole segments: `/api` matches `/api` and `/api/x`, not `/apiary`; `/api/` is the same.
    /// Percent-encoded, as it is compared with paths as they are sent.
    pub prefix: String,
    /// The name of one of the instance's ports.
    pub port: String,
}

impl Instance {
    /// The host name of one of its routes, in lower case.
    pub fn resolved_host(&self, route: &Route, domain: &str) -> String {
        let host = if route.host.is_empty() { "{name}.{domain}" } else { &route.host };
        self.fill(host).replace("{domain}", domain).to_ascii_lowercase()
    }

    /// The routes with every default and placeholder resolved: what the proxy serves. Hosts are in lower case.
    pub fn resolved_routes(&self, domain: &str) -> Vec<Route> {
        let Some(first) = self.spec.ports.first() else { return vec![] };
        let default = [Route::default()];
        let routes = if self.spec.routes.is_empty() { &default[..] } else { &self.spec.routes };
        routes
            .iter()
            .map(|r| {
                let paths = if r.paths.is_empty() {
                    vec![RoutePath { prefix: "/".into(), port: first.name.clone() }]
                } else {
                    r.paths.clone()
                };
                Route { host: self.resolved_host(r, domain), paths, auth: r.auth.clone(), limits: r.limits.clone() }
            })
            .collect()
    }
}

pub fn validate_routes(instance: &Instance, errors: &mut FieldErrors) {
    let mut hosts = BTreeSet::new();
    if !instance.spec.routes.is_empty() && instance.spec.ports.is_empty() {
        errors.push(FieldError::required("spec.ports", "routes need a port to lead to"));
    }
    for (i, route) in instance.spec.routes.iter().enumerate() {
        let path = format!("spec.routes[{i}]");
        let filled = instance.fill(&route.host).replace("{domain}", "domain").to_ascii_lowercase();
        if !route.host.is_empty() && !filled.split('.').all(|label| is_dns_label(label, 63)) {
            errors.push(FieldError::invalid(
                format!("{path}.host"),
                quoted(&route.host),
                "must be a host name, in which {name}, {namespace} and {domain} may stand",
            ));
        }
        if !hosts.insert(filled) {
            errors.push(FieldError::duplicate(format!("{path}.host"), quoted(&route.host)));
        }
        validate_auth(&format!("{path}.auth"), &route.auth, errors);
        validate_limits(&format!("{path}.limits"), &route.limits, errors);
        let mut prefixes = BTreeSet::new();
        for (j, p) in route.paths.iter().enumerate() {
            if let Some(why) = prefix_problem(&p.prefix) {
                errors.push(FieldError::invalid(format!("{path}.paths[{j}].prefix"), quoted(&p.prefix), why));
            }
            if !prefixes.insert(normal_prefix(&p.prefix)) {
                errors.push(FieldError::duplicate(format!("{path}.paths[{j}].prefix"), quoted(&p.prefix)));
            }
            unknown_port(instance, &format!("{path}.paths[{j}].port"), &p.port, errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Port;
    use super::*;

    #[test]
    fn an_instance_without_routes_gets_its_name_under_the_domain() {
        let mut inst = Instance::default();
        inst.metadata.name = "alice".into();
        assert!(inst.resolved_routes("example.com").is_empty(), "no port, nothing to route to");
        inst.spec.ports = vec![Port { name: "web".into(), container_port: 80, host_port: None }];
        let routes = inst.resolved_routes("Example.com");
        assert_eq!(routes[0].host, "alice.example.com");
        assert_eq!(routes[0].paths[0], RoutePath { prefix: "/".into(), port: "web".into() });
    }

    #[test]
    fn a_prefix_that_is_dead_is_refused_where_it_stands() {
        let mut inst = Instance::default();
        inst.spec.ports = vec![Port { name: "web".into(), container_port: 80, host_port: None }];
        let path = |prefix: &str| RoutePath { prefix: prefix.into(), port: "web".into() };
        let told = |prefixes: &[&str]| {
            let mut inst = inst.clone();
            inst.spec.routes = vec![Route { paths: prefixes.iter().map(|p| path(p)).collect(), ..Default::default() }];
            let mut errors = FieldErrors::default();
            validate_routes(&inst, &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(told(&["/", "/a", "/A", "/a/b/"]), [""; 0]);
        assert_eq!(told(&["/a", "/a/"]), ["spec.routes[0].paths[1].prefix: Duplicate value: \"/a/\""]);
        let own = told(&["/", "/.well-known/portreeve/x"]);
        assert!(own[0].starts_with("spec.routes[0].paths[1].prefix: Invalid value:"), "{own:?}");
    }
}
