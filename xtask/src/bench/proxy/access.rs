//! What access to a route costs: the same request without it, with a token that is the value of a Secret, and with a JSON
//! Web Token signed by each of the two usual algorithms, whose keys are served on loopback.

use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::own::{self, Own};
use super::report::{self, Ratio};
use super::{ACCESS, CONNECTIONS, DOMAIN, Helper, SECONDS, Tools, Upstream, ask};
use crate::bench::Out;
use crate::bench::api::load_average;
use crate::sys;

/// The instances, each with the access that it is named after.
const MODES: [&str; 4] = ["open", "token", "rs256", "es256"];
const ISSUER: &str = "https://issuer.test";
/// As random as one that somebody made with care.
const TOKEN: &str = "5b1f0a6e3c9d48f7a2e4c6b8d0f1a3957e6c4b2a0f8d7e5c";

pub fn measure(out: Out, tools: &Tools, cycles: usize) -> Result<Value> {
    let upstream = Upstream::start(&tools.load, MODES.len())?;
    let own = Own::start(tools, "access")?;
    let claims = claims()?;
    let (_issuer, said) = Helper::start(&tools.load, &["issuer", &claims.to_string()])?;
    let issued: Value = serde_json::from_str(&said).context("the issuer did not start")?;
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "door"}, "stringData": {"token": TOKEN},
    })];
    for (mode, app) in MODES.iter().zip(&upstream.apps) {
        let mut object = own::instance(mode, Some(*app), &json!([{"auth": auth(mode, &issued["url"])}]));
        object["spec"]["owner"] = claims["sub"].clone();
        objects.push(object);
    }
    own::apply(&own.server, &own.sim, &own.dir, &objects)?;
    let before = load_average();
    let mut rounds = vec![];
    for cycle in 0..cycles {
        let mut round = json!({"cycle": cycle, "load": load_average()});
        for at in 0..MODES.len() {
            let mode = MODES[(at + cycle) % MODES.len()];
            let bearer = match mode {
                "open" => Value::Null,
                "token" => TOKEN.into(),
                algorithm => issued[algorithm].clone(),
            };
            let job = json!({
                "address": own.server.proxy, "host": format!("{mode}.{DOMAIN}"), "pid": own.pid, "bearer": bearer,
                "what": {"closed": {"path": "/1k", "bytes": 1 << 10, "connections": CONNECTIONS, "seconds": SECONDS}},
            });
            round[ACCESS][mode] = ask(&tools.load, &job).with_context(|| format!("access by {mode}"))?;
            if sys::interrupted() {
                bail!("interrupted");
            }
        }
        rounds.push(round);
        eprint!(".");
    }
    eprintln!();
    let parts = report::say(out, &[ACCESS], &MODES, Ratio::EachByFirst, &rounds)?;
    Ok(json!({"parts": parts, "rounds": rounds, "loadBefore": before, "loadAfter": load_average()}))
}

/// As much as a usual issuer says of somebody, for two hours.
#[expect(clippy::disallowed_methods, reason = "the server looks at the machine's clock")]
fn claims() -> Result<Value> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    Ok(json!({
        "iss": ISSUER, "aud": "apps", "sub": "user_2NNEqL2nrIRdJ194ndJqAHwEfxC", "iat": now, "nbf": now,
        "exp": now + 7200, "azp": "https://apps.test", "sid": "sess_2OAOVyVVkFDGYzYtL4bqKdfgBOT",
        "email": "alice@example.com", "roles": ["member", "editor"],
    }))
}

fn auth(mode: &str, keys: &Value) -> Value {
    match mode {
        "open" => json!({"mode": "None"}),
        "token" => json!({"mode": "Token", "token": {"secretKeyRef": {"name": "door", "key": "token"}}}),
        _ => json!({"mode": "JWT", "jwt": {"issuer": ISSUER, "audience": "apps", "jwksURL": keys}}),
    }
}
