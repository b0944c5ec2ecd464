//! What of a permitted write only administrators may ask for: an Instance's reach into its host.
//!
//! Rights say who may write Instances; this says that doing so makes nobody root on a host. It looks at what would be
//! stored, so it does not matter how a write was put: POST, PUT, any patch, an apply, a scale, a dry run. Called by
//! the two ways in which a record is written, [`super::super::create::store`] and [`super::super::update::modify`].
//!
//! It fails closed: a stored object that cannot be read has granted nothing.

use serde::Deserialize;
use serde_json::Value;

use super::super::error::{ApiError, Subject};
use super::authenticate::User;
use super::authorize::is_admin;
use crate::model::{Instance, Key, Kind};

/// Most fields that are told one by one.
const MOST_CAUSES: usize = 64;

/// Checks what `user` (the impersonated one, if one is) would store in the place of `old`.
///
/// # Errors
/// 403 that names each field which takes something of the host that `old` did not take.
pub fn check(user: &User, key: &Key, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
    match key.kind {
        Kind::Instance => {}
        // Of these, what reaches a host is the administrators' alone, or there is nothing.
        Kind::DockerHost | Kind::Namespace | Kind::Event | Kind::Secret | Kind::ConfigMap | Kind::AccessToken => {
            return Ok(());
        }
    }
    if is_admin(user) {
        return Ok(());
    }
    let read = |object: &Value| Instance::deserialize(object);
    // It was validated, so this cannot be; should it be, nobody knows what it asks for.
    let new = read(new).map_err(|e| ApiError::internal(format!("{key}: the object cannot be read: {e}")))?;
    let old = old.and_then(|old| read(old).ok());
    let added = new.spec.new_host_access(old.as_ref().map(|o| &o.spec));
    if added.is_empty() {
        return Ok(());
    }
    let mut told: Vec<String> = added.iter().take(MOST_CAUSES).map(|a| format!("{}: {}", a.field, a.grant)).collect();
    if added.len() > MOST_CAUSES {
        told.push(format!("and {} more", added.len() - MOST_CAUSES));
    }
    let why = format!(
        "User {:?} may not give an instance access to its host, only administrators may: {}",
        user.name,
        told.join(", ")
    );
    let refused = ApiError::forbidden(&Subject::from(key), &why);
    Err(added.iter().take(MOST_CAUSES).fold(refused, |refused, access| {
        refused.with_cause("FieldValueForbidden", &format!("Forbidden: {}", access.grant), &access.field)
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::access::authorize::role_group;
    use crate::model::Role;

    fn user(groups: &[String]) -> User {
        User::new("u", groups.iter().cloned())
    }

    fn instance(security: Value) -> Value {
        json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": {"image": "i", "security": security}})
    }

    #[test]
    fn only_administrators_reach_into_hosts() {
        let (key, wanted) = (Key::instance("ns", "a"), instance(json!({"privileged": true})));
        for admin in [role_group(Role::Admin, None), "system:masters".to_owned()] {
            assert!(check(&user(&[admin]), &key, None, &wanted).is_ok());
        }
        for other in [
            vec![],
            vec![role_group(Role::Editor, None)],
            vec![role_group(Role::Editor, Some("ns")), role_group(Role::Viewer, None)],
            // There is no admin of one namespace.
            vec!["portreeve:admin:ns".to_owned()],
        ] {
            let refused = check(&user(&other), &key, None, &wanted).unwrap_err();
            assert_eq!((refused.code().as_u16(), refused.reason()), (403, "Forbidden"));
            let status = refused.to_status();
            assert_eq!(status["details"]["causes"][0]["field"], "spec.security.privileged", "{status}");
            assert!(check(&user(&other), &key, Some(&wanted), &wanted).is_ok(), "it was so before");
            assert!(check(&user(&other), &key, Some(&wanted), &instance(json!({}))).is_ok());
        }
    }

    #[test]
    fn what_cannot_be_read_has_granted_nothing() {
        let (key, wanted) = (Key::instance("ns", "a"), instance(json!({"privileged": true})));
        let mut odd = wanted.clone();
        odd["spec"]["ports"] = "none".into();
        let editor = user(&[role_group(Role::Editor, None)]);
        assert_eq!(check(&editor, &key, Some(&odd), &wanted).unwrap_err().code(), 403);
        assert_eq!(check(&editor, &key, None, &odd).unwrap_err().code(), 500);
    }

    #[test]
    fn a_refusal_is_bounded() {
        let names: Vec<String> = (0..500_u32).map(|i| format!("X_{}", "A".repeat(i as usize % 7))).collect();
        let wanted = instance(json!({"capAdd": names}));
        let status = check(&user(&[]), &Key::instance("ns", "a"), None, &wanted).unwrap_err().to_status();
        assert_eq!(status["details"]["causes"].as_array().unwrap().len(), MOST_CAUSES);
        assert!(status["message"].as_str().unwrap().ends_with("and 436 more"), "{status}");
    }
}
