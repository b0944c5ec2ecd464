//! Who set which fields: `metadata.managedFields`, read, written and kept up with every write. Pure.
//!
//! Invariants: no entry is empty; no two entries have the same manager, operation and subresource (and version, of an
//! `Update`); at most [`MOST_UPDATES`] entries are of updates.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fieldset::FieldSet;
use super::typed::{Schema, compare};
use crate::api::object;
use crate::model::{FieldError, FieldReason, Time};

/// More entries of updates than this are made one, the oldest first.
const MOST_UPDATES: usize = 10;
/// Who the merged entries of the oldest updates are ascribed to.
const ANCIENT: &str = "ancient-changes";
/// Most entries that a client may hand in.
const MOST_ENTRIES: usize = 256;
/// The subresource of what is written to a DockerHost as a Node: a writer of both has an entry for each.
pub const NODE_VIEW: &str = "node";
/// The subresource by which a Node shows what was written to its DockerHost.
pub const HOST_OF_NODE: &str = "dockerhost";
/// The apiVersion of all entries that a Node shows.
pub const NODE_VERSION: &str = "v1";
/// Longest name of a manager, in bytes, as in Kubernetes.
pub const MOST_MANAGER_BYTES: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Who writes, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Writer {
    pub operation: Operation,
    pub manager: String,
    /// `status`, `scale`, [`NODE_VIEW`], or empty.
    pub subresource: String,
    pub api_version: String,
}

impl Writer {
    /// Whether two writes go to one entry. An applier has one, whatever version it speaks.
    fn is(&self, other: &Writer) -> bool {
        let version = self.operation == Operation::Apply || self.api_version == other.api_version;
        (self.operation, &self.manager, &self.subresource) == (other.operation, &other.manager, &other.subresource)
            && version
    }
}

/// The manager of a write that names none: the program of the User-Agent.
pub fn manager_of_agent(agent: &str) -> String {
    let program = agent.split('/').next().unwrap_or_default();
    let mut name = String::new();
    for c in program.chars().filter(|c| is_printable(*c)) {
        if name.len() + c.len_utf8() > MOST_MANAGER_BYTES {
            break;
        }
        name.push(c);
    }
    if name.is_empty() { "unknown".into() } else { name }
}

/// What is wrong with the name of a manager.
pub fn manager_problem(field: &str, name: &str) -> Option<FieldError> {
    if name.len() > MOST_MANAGER_BYTES {
        let message = format!("Too long: may not be more than {MOST_MANAGER_BYTES} bytes");
        return Some(FieldError { reason: FieldReason::TooLong, field: field.into(), message });
    }
    let unprintable = name.chars().any(|c| !is_printable(c));
    unprintable.then(|| FieldError::invalid(field, format!("{name:?}"), "should only contain printable characters"))
}

fn is_printable(c: char) -> bool {
    !c.is_control() && (c == ' ' || !c.is_whitespace())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub writer: Writer,
    time: Option<Time>,
    pub fields: FieldSet,
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers(Vec<Entry>);

impl Managers {
    /// Those of a stored object. What cannot be read counts as not there, so that no object becomes unwritable.
    pub fn stored(object: &Value) -> Managers {
        let list = object::meta(object).and_then(|m| m.get("managedFields"));
        list.and_then(|list| Managers::parse(list).ok()).unwrap_or_default()
    }

    /// Those that a client hands in. `[]` and `[{}]` are none.
    ///
    /// # Errors
    /// What is wrong, with the field.
    pub fn parse(list: &Value) -> Result<Managers, FieldError> {
        const FIELD: &str = "metadata.managedFields";
        let bad = |why: &str| FieldError::invalid(FIELD, "list of entries", why);
        let list = list.as_array().ok_or_else(|| bad("must be a list"))?;
        if list.len() > MOST_ENTRIES {
            return Err(bad(&format!("must have at most {MOST_ENTRIES} entries")));
        }
        let mut managers = Managers::default();
        if list.len() == 1 && list[0].as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(managers);
        }
        for (i, entry) in list.iter().enumerate() {
            managers.add(read(entry, &format!("{FIELD}[{i}]"))?);
        }
        managers.tidy();
        Ok(managers)
    }

    fn add(&mut self, entry: Entry) {
        match self.0.iter_mut().find(|e| e.writer.is(&entry.writer)) {
            Some(same) => {
                same.fields = same.fields.union(&entry.fields);
                same.time = same.time.max(entry.time);
            }
            None => self.0.push(entry),
        }
    }

    /// Drops what is empty and sorts as Kubernetes does.
    fn tidy(&mut self) {
        self.0.retain(|e| !e.fields.is_empty());
        self.0.sort_by(|a, b| {
            let order = |e: &Entry| (e.writer.operation, e.time.map_or(0, |t| t.timestamp().as_second()));
            order(a).cmp(&order(b)).then_with(|| a.writer.cmp(&b.writer))
        });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of everyone else.
    pub fn others<'a>(&'a self, writer: &'a Writer) -> impl Iterator<Item = &'a Entry> {
        self.0.iter().filter(move |e| !e.writer.is(writer))
    }

    /// The fields of one writer.
    pub fn fields_of(&self, writer: &Writer) -> FieldSet {
        self.0.iter().find(|e| e.writer.is(writer)).map(|e| e.fields.clone()).unwrap_or_default()
    }

    /// Sets the fields of one writer, keeping the entry's time.
    pub fn set(&mut self, writer: &Writer, fields: FieldSet) {
        match self.0.iter_mut().find(|e| e.writer.is(writer)) {
            Some(entry) => (entry.fields, entry.writer) = (fields, writer.clone()),
            None => self.0.push(Entry { writer: writer.clone(), time: None, fields }),
        }
        self.tidy();
    }

    /// Says that a writer's entry was last written now.
    pub fn stamp(&mut self, writer: &Writer, now: Timestamp) {
        if let Some(entry) = self.0.iter_mut().find(|e| e.writer.is(writer)) {
            entry.time = Some(now.into());
        }
        self.tidy();
    }

    /// Takes fields from everyone but this writer.
    pub fn take_from_others(&mut self, writer: &Writer, fields: &FieldSet) {
        for entry in self.0.iter_mut().filter(|e| !e.writer.is(writer)) {
            entry.fields = entry.fields.difference(fields);
        }
        self.tidy();
    }

    /// Gives one writer's fields to another.
    pub fn hand_over(&mut self, from: &Writer, to: &Writer) {
        let given = self.fields_of(from);
        if given.is_empty() {
            return;
        }
        self.0.retain(|e| !e.writer.is(from));
        self.set(to, self.fields_of(to).union(&given));
    }

    /// Whether both say the same but for times.
    pub fn same_fields(&self, other: &Managers) -> bool {
        let found = |a: &Managers, b: &Managers| a.0.iter().all(|e| b.fields_of(&e.writer) == e.fields);
        self.0.len() == other.0.len() && found(self, other)
    }

    /// Keeps the entries up with a write that is no apply: what it wrote is its writer's, what it removed is nobody's.
    pub fn track(&mut self, schema: Schema<'_>, old: &Value, new: &Value, writer: &Writer, now: Timestamp) {
        let change = compare(schema, old, new);
        let untracked = untracked();
        let written = change.written.difference(&untracked);
        self.take_from_others(writer, &written);
        for entry in &mut self.0 {
            entry.fields = entry.fields.difference(&change.removed);
        }
        if !written.is_empty() {
            self.set(writer, self.fields_of(writer).union(&written));
            self.stamp(writer, now);
        }
        self.tidy();
        self.merge_ancient();
    }

    /// Merges the oldest entries of updates, those of one version with each other, until there are few enough.
    fn merge_ancient(&mut self) {
        let (mut updates, mut rest): (Vec<Entry>, Vec<Entry>) =
            self.0.drain(..).partition(|e| e.writer.operation == Operation::Update);
        updates.sort_by(|a, b| (a.time, &a.writer).cmp(&(b.time, &b.writer)));
        while updates.len() > MOST_UPDATES {
            let twin = (0..updates.len()).find_map(|i| {
                let same = |e: &Entry| e.writer.api_version == updates[i].writer.api_version;
                updates[i + 1..].iter().position(same).map(|j| (i, i + 1 + j))
            });
            // As many versions as entries: none of them can be merged.
            let Some((first, second)) = twin else { break };
            let newer = updates.remove(second);
            let entry = &mut updates[first];
            entry.fields = entry.fields.union(&newer.fields);
            entry.time = newer.time;
            entry.writer.manager = ANCIENT.into();
            entry.writer.subresource.clear();
        }
        self.0.append(&mut rest);
        for entry in updates {
            self.add(entry);
        }
        self.tidy();
    }

    pub fn print(&self) -> Value {
        let entries = self.0.iter().map(|entry| {
            let writer = &entry.writer;
            let mut printed = json!({
                "manager": writer.manager, "operation": writer.operation.as_str(), "apiVersion": writer.api_version,
                "fieldsType": "FieldsV1", "fieldsV1": entry.fields.print(),
            });
            if let Some(time) = entry.time {
                printed["time"] = time.to_string().into();
            }
            if !writer.subresource.is_empty() {
                printed["subresource"] = writer.subresource.clone().into();
            }
            printed
        });
        entries.collect()
    }
}

fn read(entry: &Value, at: &str) -> Result<Entry, FieldError> {
    let bad = |field: &str, value: &Value, why: &str| FieldError::invalid(format!("{at}.{field}"), value, why);
    let text = |field: &str| match entry.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(bad(field, other, "must be a text")),
    };
    if !entry.is_object() {
        return Err(FieldError::invalid(at, entry, "must be an object"));
    }
    let operation = match text("operation")?.as_str() {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        other => {
            let message = format!("Unsupported value: {other:?}: supported values: \"Apply\", \"Update\"");
            return Err(FieldError { reason: FieldReason::NotSupported, field: format!("{at}.operation"), message });
        }
    };
    if text("fieldsType")? != "FieldsV1" {
        return Err(bad("fieldsType", &entry["fieldsType"], "must be `FieldsV1`"));
    }
    let writer = Writer {
        operation,
        manager: text("manager")?,
        subresource: text("subresource")?,
        api_version: text("apiVersion")?,
    };
    for (field, name) in [("manager", &writer.manager), ("subresource", &writer.subresource)] {
        if let Some(problem) = manager_problem(&format!("{at}.{field}"), name) {
            return Err(problem);
        }
    }
    let time = match text("time")?.as_str() {
        "" => None,
        time => Some(
            time.parse::<Timestamp>()
                .map(Time::from)
                .map_err(|_| bad("time", &entry["time"], "must be an RFC 3339 time"))?,
        ),
    };
    let fields = match entry.get("fieldsV1") {
        None | Some(Value::Null) => FieldSet::default(),
        Some(fields) => FieldSet::parse(fields)
            .map_err(|e| FieldError::invalid(format!("{at}.fieldsV1"), "field set", &e.to_string()))?,
    };
    Ok(Entry { writer, time, fields })
}

/// What names an object or is set by the server alone, and so is nobody's.
pub fn untracked() -> FieldSet {
    let mut set = FieldSet::default();
    for name in ["apiVersion", "kind", "metadata"] {
        set.insert_field(&[name]);
    }
    for name in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "managedFields",
    ] {
        set.insert_field(&["metadata", name]);
    }
    set
}
