//! Server-side apply: several writers share an object, each owning the fields that it applies.
//!
//! ```text
//! request ──▶ takeover ──▶ apply: claimed ▸ overlay ▸ prune ▸ compare ──▶ object + managedFields ──▶ update::modify
//! every other write ──▶ update::modify / create ──▶ Managers::track ──▶ managedFields
//! ```
//!
//! | file | what |
//! |---|---|
//! | `fieldset` | sets of fields as `FieldsV1` |
//! | `typed` | objects through their schema: what is a field, an item, a leaf; claims and comparisons |
//! | `merge` | laying over and taking away |
//! | `managers` | `metadata.managedFields` and its upkeep |
//! | `takeover` | from client-side to server-side apply |
//! | `request` | PATCH with `application/apply-patch+yaml`: the only part with effects |
//!
//! What the controllers write is not tracked: status goes to the store past the API, and an entry for each would
//! cost a write of metadata with every change of status. So nobody owns it, and whoever applies to it gets no conflict.

mod fieldset;
mod managers;
mod merge;
pub mod request;
mod takeover;
mod typed;

use serde_json::Value;

use fieldset::FieldSet;
pub use managers::{
    HOST_OF_NODE, Managers, NODE_VERSION, NODE_VIEW, Operation, Writer, manager_of_agent, manager_problem,
};
pub use takeover::{LAST_APPLIED, NODE_LAST_APPLIED};
pub use typed::{Schema, list_problems};

/// What applying came to.
pub struct Applied {
    pub object: Value,
    /// The times of its entries are the old ones.
    pub managers: Managers,
}

/// Fields that others own and the applied object would change.
pub struct Conflict {
    pub with: Writer,
    pub fields: FieldSet,
}

/// Lays `config` over `live` in the name of `writer`, and takes away what it applied before, no longer does, and nobody
/// else owns. With `force`, fields of others are taken from them.
///
/// # Errors
/// The conflicts, when there are any and `force` is not given.
pub fn apply(
    schema: Schema<'_>,
    live: &Value,
    config: &Value,
    before: &Managers,
    writer: &Writer,
    force: bool,
) -> Result<Applied, Vec<Conflict>> {
    let untracked = managers::untracked();
    let claimed = typed::claimed(schema, config).difference(&untracked);
    let kept = before.others(writer).fold(claimed.clone(), |kept, entry| kept.union(&entry.fields));
    let merged = merge::overlay(schema, live, config);
    let object = merge::prune(schema, merged, &before.fields_of(writer), &kept).unwrap_or_default();

    let change = typed::compare(schema, live, &object);
    let written = change.written.difference(&untracked);
    let conflict = |e: &managers::Entry| {
        let fields = e.fields.intersection(&written);
        (!fields.is_empty()).then(|| Conflict { with: e.writer.clone(), fields })
    };
    let conflicts: Vec<Conflict> = before.others(writer).filter_map(conflict).collect();
    if !conflicts.is_empty() && !force {
        return Err(conflicts);
    }
    let mut managers = before.clone();
    managers.take_from_others(writer, &written);
    managers.take_from_others(writer, &change.removed);
    managers.set(writer, claimed);
    Ok(Applied { object, managers })
}

#[cfg(test)]
mod tests;
