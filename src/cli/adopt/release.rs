//! `portreeve adopt --release`: the record goes, and the container that it began with stays as it is.

use serde_json::{Value, json};

use super::super::apply::DryRun;
use super::super::client::JSON;
use super::super::error::{Error, Exit, Result};
use super::super::kinds::ResourceType;
use super::super::output::print;
use super::super::session::Session;
use super::super::until::{Seen, Target, until};
use super::super::url::with_query;
use super::AdoptArgs;
use crate::model::{Instance, RELEASE_ANNOTATION};

pub async fn run(args: &AdoptArgs, session: &Session) -> Result<Exit> {
    if args.containers.is_empty() {
        return Err(Error::usage("--release: name the Instances"));
    }
    let resource = ResourceType::instances();
    let mut asked = vec![];
    // All are looked at before the first is let go.
    for name in &args.containers {
        let path = resource.object(&session.namespace, name)?;
        let object = session.client.get(&path, JSON).await?;
        let instance: Instance = serde_json::from_value(object)
            .map_err(|e| Error::failed(format!("{} cannot be read: {e}", resource.named(name))))?;
        asked.push((name, path, release_of(&instance)?, instance));
    }
    for (name, path, patch, instance) in asked {
        let dry = args.dry_run != DryRun::None;
        if !dry {
            session.client.merge_patch(&with_query(&path, &[("fieldManager", "portreeve")]), &patch).await?;
            let options = json!({"preconditions": {"uid": instance.metadata.uid}});
            session.client.delete(&path, &options).await?;
        }
        if !dry && args.wait.wait {
            let target = Target { resource: &resource, namespace: &session.namespace, name };
            until(&session.client, &target, args.wait.timeout.duration(), |object| {
                let same = |o: &Value| o["metadata"]["uid"] == instance.metadata.uid.as_str();
                Ok(match object.filter(|o| same(o)) {
                    Some(_) => Seen::NotYet("being let go".into()),
                    None => Seen::Done,
                })
            })
            .await?;
        }
        print(&format!("{} released{}\n", resource.named(name), if dry { " (dry run)" } else { "" }))?;
        let adopted = instance.status.adopted.unwrap_or_default();
        if !["", "no"].contains(&adopted.restart_policy.as_str()) {
            let id = adopted.container_id.get(..12).unwrap_or_default();
            let policy = adopted.restart_policy;
            eprintln!("note: nothing starts it again; as before by `docker update --restart {policy} {id}`");
        }
    }
    Ok(Exit::Done)
}

/// What marks the container to stay; only one that was adopted, and has not been replaced, can.
fn release_of(instance: &Instance) -> Result<Value> {
    let name = &instance.metadata.name;
    let Some(adopted) = &instance.status.adopted else {
        return Err(Error::failed(format!("instance {name:?} has adopted no container; use `portreeve delete`")));
    };
    if instance.status.container_id != adopted.container_id {
        return Err(Error::failed(format!(
            "instance {name:?} has a container of Portreeve's own by now, in place of the one that it adopted; use \
             `portreeve delete`, which keeps volumes that are to be retained"
        )));
    }
    Ok(json!({"metadata": {"annotations": {RELEASE_ANNOTATION: adopted.container_id}}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Adopted;

    #[test]
    fn only_what_was_adopted_and_is_still_there_is_let_go() {
        let mut instance = Instance::default();
        assert!(release_of(&instance).unwrap_err().to_string().contains("adopted no container"));
        instance.status.adopted = Some(Adopted { container_id: "c1".into(), ..Adopted::default() });
        instance.status.container_id = "c2".into();
        assert!(release_of(&instance).unwrap_err().to_string().contains("Portreeve's own"));
        instance.status.container_id = "c1".into();
        assert_eq!(release_of(&instance).unwrap()["metadata"]["annotations"][RELEASE_ANNOTATION], "c1");
    }
}
