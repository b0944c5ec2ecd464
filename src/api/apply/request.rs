//! PATCH with `application/apply-patch+yaml`: of an object (made if it is not there), of its status, of its scale.

use serde_json::{Value, json};

use super::managers::{HOST_OF_NODE, NODE_VERSION, NODE_VIEW, Operation, Writer};
use super::{Applied, Conflict, Managers, Schema, list_problems, takeover};
use crate::api::access::{self, Attributes};
use crate::api::admit::{self, Part};
use crate::api::body::{self, Parsed};
use crate::api::create::{self, ATTEMPTS};
use crate::api::error::{ApiError, Subject};
use crate::api::handler::Call;
use crate::api::object;
use crate::api::query::{WriteOptions, bad_options};
use crate::api::reply::Reply;
use crate::api::update::{Candidate, modify};
use crate::model::{FieldError, FieldErrors, Key, Kind, schema};

/// Who owns what an object held before anyone applied to it and its writers were known.
const BEFORE: &str = "before-first-apply";
/// Most conflicts that are told one by one.
const MOST_CAUSES: usize = 256;

/// An apply, understood but for the live object.
struct Request {
    kind: Kind,
    writer: Writer,
    force: bool,
    options: WriteOptions,
}

impl Request {
    fn of(call: &Call, kind: Kind) -> Result<Request, ApiError> {
        let options = WriteOptions::of(&call.query)?;
        let writer = Writer { operation: Operation::Apply, ..call.writer(kind, &options) };
        if options.manager.is_none() {
            let problem = FieldError::required("fieldManager", "is required for apply patch");
            return Err(bad_options("PatchOptions", problem));
        }
        Ok(Request { kind, writer, force: call.query.flag("force"), options })
    }

    fn schema(&self) -> Schema<'static> {
        Schema::new(schema::schema(self.kind))
    }

    /// The live object with `config` applied, ready to be admitted. It holds to `config`'s resourceVersion, if any.
    fn candidate(&self, live: &Value, config: &Value) -> Result<Candidate, ApiError> {
        let mut before = Managers::stored(live);
        if before.is_empty() {
            self.found(live, &mut before);
        }
        takeover::adopt(&mut before, &self.writer);
        let mut bare = live.clone();
        object::take_managers(&mut bare);
        let applied = self.merged(&bare, config, &before)?;
        let mut new = applied.object;
        takeover::remember(live, config, &self.writer, &mut new);
        let held = object::text(config, "resourceVersion").to_owned();
        object::meta_mut(&mut new).insert("resourceVersion".into(), held.into());
        Ok(Candidate { object: new, warnings: vec![], managers: Some(applied.managers) })
    }

    /// Makes what is there of an object without entries someone's, so that it is not changed unawares.
    fn found(&self, live: &Value, managers: &mut Managers) {
        let mut settled = live.clone();
        object::take_managers(&mut settled);
        admit::without_status(self.kind, &mut settled);
        let created = object::text(live, "creationTimestamp").parse().unwrap_or_default();
        let writer = Writer {
            operation: Operation::Update,
            manager: BEFORE.into(),
            subresource: String::new(),
            api_version: self.kind.api_version(),
        };
        managers.track(self.schema(), &json!({"metadata": {}}), &settled, &writer, created);
    }

    fn merged(&self, live: &Value, config: &Value, before: &Managers) -> Result<Applied, ApiError> {
        let (schema, writer) = (self.schema(), &self.writer);
        match super::apply(schema, live, config, before, writer, self.force) {
            Ok(applied) => Ok(applied),
            Err(conflicts) => {
                let left = takeover::excuse(schema, live, writer, conflicts);
                if !left.is_empty() {
                    return Err(refusal(&left, writer));
                }
                super::apply(schema, live, config, before, writer, true).map_err(|c| refusal(&c, writer))
            }
        }
    }
}

/// Parses an apply's body: YAML, and so JSON too.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ApiError> {
    // Clients send JSON mostly; only its parser tells of keys that stand twice without failing.
    if bytes.trim_ascii_start().starts_with(b"{")
        && let Ok(parsed) = body::parse_json(bytes)
    {
        return Ok(parsed);
    }
    body::parse_yaml(bytes)
}

/// Applies to an object or its status. `may_begin` is asked about what is not there and would be made.
pub async fn apply(
    call: &Call,
    key: &Key,
    part: Part,
    bytes: &[u8],
    may_begin: impl Fn(&Value) -> Result<(), ApiError>,
) -> Result<Reply, ApiError> {
    let request = Request::of(call, key.kind)?;
    let parsed = parse(bytes)?;
    let mut config = admit::typed(key.kind, parsed.value)?;
    if object::meta(&config).is_some_and(|m| m.contains_key("managedFields")) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    admit::place(key.kind, &mut config, call.place.namespace.as_deref())?;
    if object::text(&config, "name").is_empty() {
        object::meta_mut(&mut config).insert("name".into(), key.name.clone().into());
    }
    admit::same_name(object::text(&config, "name"), &key.name)?;
    let warnings = admit::known_fields(key.kind, &mut config, &parsed.duplicates, request.options.fields)?;
    match part {
        Part::Main => admit::without_status(key.kind, &mut config),
        Part::Status => retain(&mut config, &["apiVersion", "kind", "metadata", "status"]),
        Part::Finalize => retain(&mut config, &["apiVersion", "kind", "metadata", "spec"]),
    }
    let metadata = object::meta(&config).cloned().unwrap_or_default();
    if part == Part::Status {
        // Status is all that this path writes, and so all that it claims.
        let named = ["name", "namespace", "uid", "resourceVersion"];
        let named = metadata.into_iter().filter(|(name, _)| named.contains(&name.as_str()));
        config["metadata"] = Value::Object(named.collect());
    }
    let mut problems = FieldErrors::default();
    list_problems(request.schema(), &config, "", &mut problems);
    if !problems.is_empty() {
        return Err(ApiError::invalid(&Subject::from(key), &problems));
    }
    for _ in 0..ATTEMPTS {
        let written =
            modify(call, key, part, &request.writer, request.options.dry_run, |live| request.candidate(live, &config));
        match written.await {
            Err(e) if e.code() == http::StatusCode::NOT_FOUND && part == Part::Main => {}
            other => return other.map(|reply| reply.with_warnings(warnings.clone())),
        }
        match make(call, &request, key, &config, &may_begin).await {
            // Someone else made it meanwhile: apply to that.
            Err(e) if e.code() == http::StatusCode::CONFLICT && e.reason() == "AlreadyExists" => {}
            other => return other.map(|reply| reply.with_warnings(warnings.clone())),
        }
    }
    Err(ApiError::timeout("the object is being made and deleted all the time"))
}

fn retain(object: &mut Value, names: &[&str]) {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|name, _| names.contains(&name.as_str()));
    }
}

/// Makes an object that is not there. That is a create, and so must be allowed as one.
async fn make(
    call: &Call,
    request: &Request,
    key: &Key,
    config: &Value,
    may_begin: impl Fn(&Value) -> Result<(), ApiError>,
) -> Result<Reply, ApiError> {
    let info = key.kind.info();
    let wanted = Attributes {
        verb: "create",
        group: info.group,
        resource: info.plural,
        // A namespace is in itself, as Kubernetes has it.
        namespace: if key.kind == Kind::Namespace { &key.name } else { &key.namespace },
        name: &key.name,
    };
    access::authorize(&call.user, &wanted)?;
    for (field, name) in [("uid", "uid"), ("resourceVersion", "resource version")] {
        if !object::text(config, field).is_empty() {
            let why = format!("the provided object specifies a {name}, and no existing object was found");
            return Err(ApiError::conflict_because(&Subject::from(key), &why));
        }
    }
    may_begin(config)?;
    let none = Managers::default();
    let nothing = json!({"metadata": {}});
    let applied = super::apply(request.schema(), &nothing, config, &none, &request.writer, false);
    let Applied { object, mut managers } = applied.map_err(|c| refusal(&c, &request.writer))?;
    managers.stamp(&request.writer, call.state.clock.now());
    create::store(call, key.kind, &object, &managers, request.options.dry_run).await
}

/// Applies to the scale: `power`, by the words of a Scale.
///
/// # Errors
/// As [`apply`]; `power_of` refuses a Scale that asks for the impossible.
pub async fn apply_scale(
    call: &Call,
    key: &Key,
    bytes: &[u8],
    power_of: impl Fn(&Value, &Value) -> Result<Option<&'static str>, ApiError>,
) -> Result<Reply, ApiError> {
    let request = Request::of(call, key.kind)?;
    let mut scale = parse(bytes)?.value;
    object::strip_nulls(&mut scale);
    if !scale.is_object() {
        return Err(ApiError::bad_request("the request body is not an object"));
    }
    if object::meta(&scale).is_some_and(|m| m.contains_key("managedFields")) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    for (field, expected) in [("kind", "Scale"), ("apiVersion", "autoscaling/v1")] {
        if let Some(given) = scale.get(field).filter(|given| *given != expected) {
            let message = format!("{field} in the request body is {given}, but this path takes {expected:?}");
            return Err(ApiError::bad_request(message));
        }
    }
    admit::place(key.kind, &mut scale, call.place.namespace.as_deref())?;
    let name = object::text(&scale, "name");
    if !name.is_empty() {
        admit::same_name(name, &key.name)?;
    }
    modify(call, key, Part::Main, &request.writer, request.options.dry_run, |live| {
        let mut config = json!({"metadata": {}});
        for field in ["uid", "resourceVersion"] {
            config["metadata"][field] = object::text(&scale, field).into();
        }
        if let Some(power) = power_of(live, &scale)? {
            config["spec"] = json!({"power": power});
        }
        request.candidate(live, &config)
    })
    .await
}

/// Applies to the Node of a DockerHost: `as_host` says what of the DockerHost a Node's configuration means. It owns that
/// apart from what the same manager applied to the DockerHost itself. What is not there is not made.
///
/// # Errors
/// As [`apply`]; those of `as_host`.
pub async fn apply_node(
    call: &Call,
    key: &Key,
    bytes: &[u8],
    as_host: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Result<Reply, ApiError> {
    let mut request = Request::of(call, key.kind)?;
    request.writer.subresource = NODE_VIEW.into();
    let Parsed { value: mut node, duplicates } = parse(bytes)?;
    object::strip_nulls(&mut node);
    if !node.is_object() {
        return Err(ApiError::bad_request("the request body is not an object"));
    }
    if object::meta(&node).is_some_and(|m| m.contains_key("managedFields")) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let mut config = as_host(&node)?;
    let warnings = admit::known_fields(key.kind, &mut config, &duplicates, request.options.fields)?;
    let live = |live: &Value| request.candidate(live, &config);
    let written = modify(call, key, Part::Main, &request.writer, request.options.dry_run, live).await;
    written.map(|reply| reply.with_warnings(warnings))
}

/// The 409 of Kubernetes: who owns which of the fields.
fn refusal(conflicts: &[Conflict], told: &Writer) -> ApiError {
    let mut sorted: Vec<(String, &Conflict)> = conflicts.iter().map(|c| (named(&c.with, told), c)).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let count: usize = conflicts.iter().map(|c| c.fields.len()).sum();
    let (mut causes, mut lines) = (vec![], vec![]);
    for (name, conflict) in sorted {
        let paths = conflict.fields.paths(MOST_CAUSES - causes.len().min(MOST_CAUSES));
        lines.push(format!("conflicts with {name}:"));
        lines.extend(paths.iter().map(|path| format!("- {path}")));
        causes.extend(paths.into_iter().map(|path| (format!("conflict with {name}"), path)));
    }
    let message = match &causes[..] {
        [(with, path)] => format!("Apply failed with 1 conflict: {with}: {path}"),
        _ => format!("Apply failed with {count} conflicts: {}", lines.join("\n")),
    };
    ApiError::apply_conflict(message, causes)
}

/// `"m1"`, or of an update `"m1" using portreeve.dev/v1`. One who applies to a Node is told as its `managedFields` show.
fn named(writer: &Writer, told: &Writer) -> String {
    let (subresource, version) = match (told.subresource.as_str(), writer.subresource.as_str()) {
        (NODE_VIEW, NODE_VIEW) => ("", NODE_VERSION),
        (NODE_VIEW, _) => (HOST_OF_NODE, NODE_VERSION),
        (_, other) => (other, writer.api_version.as_str()),
    };
    let mut name = format!("{:?}", writer.manager);
    if !subresource.is_empty() {
        name.push_str(&format!(" with subresource {subresource:?}"));
    }
    if writer.operation == Operation::Update {
        name.push_str(&format!(" using {version}"));
    }
    name
}
