//! `apply --server-side` and `diff --server-side`: the server lays the manifest over what is there, keeps account of who
//! set which field, and tells of conflicts.

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::error::{Error, Result};
use super::url::with_query;

/// The manager of one who names none; the server lets it take over what `portreeve apply` set.
const MANAGER: &str = "portreeve";

#[derive(Args, Clone, Debug)]
pub struct ServerSideArgs {
    /// Let the server merge, and keep account of who set which field
    #[arg(long)]
    pub server_side: bool,
    /// Take fields that others set
    #[arg(long, requires = "server_side")]
    pub force_conflicts: bool,
    /// In whose name to set fields [default: portreeve]
    #[arg(long, requires = "server_side", value_name = "NAME")]
    pub field_manager: Option<String>,
}

impl ServerSideArgs {
    /// Applies a manifest to the object at `path`, made if it is not there; returns it as it then is.
    ///
    /// # Errors
    /// The server's refusal. A conflict is told with what to do about it.
    pub async fn apply(&self, client: &Client, path: &str, manifest: &Value, dry_run: bool) -> Result<Value> {
        let manager = self.field_manager.as_deref().unwrap_or(MANAGER);
        let mut query = vec![("fieldManager", manager), ("fieldValidation", "Strict")];
        if self.force_conflicts {
            query.push(("force", "true"));
        }
        if dry_run {
            query.push(("dryRun", "All"));
        }
        match client.apply_patch(&with_query(path, &query), manifest).await {
            Err(Error::Server(status)) if status.has_cause("FieldManagerConflict") => Err(Error::failed(format!(
                "{}\nOthers set these fields to other values. To take them over, apply with --force-conflicts; to leave them \
                 to their managers, take them out of the manifest; to share them, give them the same values.",
                status.message
            ))),
            other => other,
        }
    }
}

/// Whether an apply changed more than the status, which is not its to change.
pub fn differs(before: &Value, after: &Value) -> bool {
    let desired = |object: &Value| {
        let mut object = object.clone();
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("resourceVersion");
        }
        object
    };
    desired(before) != desired(after)
}
