//! One request from its head to its answer: authenticate, parse the path, authorize, dispatch.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::access::audit::{Deed, EndOf};
use super::access::authenticate::Caller;
use super::access::limits::Use;
use super::access::tokens::Lease;
use super::access::{self, Attributes, PeerAddress, PeerIdentity, Session, User, review};
use super::admit::Part;
use super::apply::{Operation, Writer, manager_of_agent};
use super::body::{self, Parsed};
use super::columns::Facts;
use super::connections::{Connection, MOST_OF_USER};
use super::delete::DeleteOptions;
use super::error::ApiError;
use super::patch::Patch;
use super::query::{Query, WriteOptions};
use super::registry::What;
use super::reply::Reply;
use super::selector::Selector;
use super::table::Include;
use super::target::{self, Place, Target};
use super::views::{self, View, events_v1, eviction, nodes, pods};
use super::{
    ApiState, apply, compress, create, delete, discovery, drain, exposition, host_containers, list, logs, metrics,
    negotiate, openapi, patch, scale, streams, update, watch, why,
};
use crate::model::{Key, Kind};

/// How long the head of an answer may take; watches, logs and exec stream on after it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What every request sees.
#[derive(Clone)]
pub struct Shared {
    pub state: ApiState,
    pub shutdown: CancellationToken,
}

/// A request for records, authenticated and authorized.
pub struct Call {
    pub state: ApiState,
    pub shutdown: CancellationToken,
    pub user: User,
    /// What is to be held as long as the request goes on; the server binds the answer's body to it.
    pub session: Session,
    pub query: Query,
    pub headers: HeaderMap,
    pub place: Place,
}

impl Call {
    pub fn selector(&self, view: View) -> Result<Selector, ApiError> {
        Selector::parse(self.query.get("labelSelector"), self.query.get("fieldSelector"), view.selectable())
    }

    /// Who writes with this request, unless it is an apply: the `fieldManager`, or the program that sent it.
    pub fn writer(&self, kind: Kind, options: &WriteOptions) -> Writer {
        let agent = || self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        Writer {
            operation: Operation::Update,
            manager: options.manager.clone().unwrap_or_else(|| manager_of_agent(agent())),
            subresource: self.place.subresource.clone().unwrap_or_default(),
            api_version: kind.api_version(),
        }
    }
}

/// The router. Only the health checks are answered without credentials.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/healthz", get(ready))
        .route("/readyz", get(ready))
        .fallback(answer)
        .layer(middleware::map_response(common_headers))
        .layer(middleware::from_fn_with_state(compress::Encoders::new(), compress::large))
        .layer(middleware::from_fn(drain::unread))
        .with_state(shared)
}

async fn ready(State(shared): State<Shared>) -> Response {
    if shared.state.cache.is_ready() && !shared.shutdown.is_cancelled() {
        "ok".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the cache is not ready").into_response()
    }
}

async fn common_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let address = request.extensions().get::<PeerAddress>().map(|a| a.0);
    let deed = Arc::new(Deed::new(shared.state.audit.clone(), shared.state.clock.clone(), address));
    let _end = EndOf(deed.clone());
    let (stats, method) = (shared.state.stats.clone(), request.method().clone());
    let work = dispatch(shared, request, deed.clone());
    let mut response = match tokio::time::timeout(ANSWER_TIMEOUT, work).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => error.into_response(),
        Err(_) => ApiError::timeout("the request took too long").into_response(),
    };
    stats.responded(&method, response.status());
    deed.ends(response.status().as_u16());
    if let Ok(id) = HeaderValue::from_str(&deed.request_id) {
        response.headers_mut().insert("audit-id", id);
    }
    response
}

/// Whose credentials they are, or a refusal that tells a stranger nothing.
async fn bearer(
    state: &ApiState,
    headers: &HeaderMap,
    peer: Option<&PeerIdentity>,
    deed: &Deed,
) -> Result<(User, Lease), ApiError> {
    let result = state.auth.authenticate(headers, peer, &state.store, &state.clock).await;
    if let (Err(error), Some(address)) = (&result, deed.source())
        && error.code() == StatusCode::UNAUTHORIZED
    {
        state.limits.failed(address, state.clock.monotonic())?;
        tracing::info!(%address, "a request without good credentials was refused");
    }
    result
}

async fn dispatch(shared: Shared, request: Request, deed: Arc<Deed>) -> Result<Response, ApiError> {
    let peer = request.extensions().get::<PeerIdentity>();
    let connection = request.extensions().get::<Arc<Connection>>();
    let bearer = bearer(&shared.state, request.headers(), peer, &deed).await?;
    if connection.is_some_and(|connection| !connection.greet(&bearer.0.name)) {
        let why = format!("more than {MOST_OF_USER} connections are open for {:?}", bearer.0.name);
        return Err(ApiError::too_many(why, Duration::from_secs(1)));
    }
    let at_work = connection.map(|connection| Arc::new(connection.at_work()));
    let caller = Caller::of(bearer, request.headers(), &deed)?;
    let (what, query) = (target::parse(request.uri().path()), Query::of(request.uri())?);
    let taken = match &what {
        Some(Target::Records(place)) => kind_of_use(request.method(), place, &query),
        _ => Use::Request,
    };
    let permit = shared.state.limits.take(&caller.bearer().name, taken)?;
    let (store, clock) = (shared.state.store.clone(), shared.state.clock.clone());
    let session = Session::new(deed, caller.lease.clone(), permit, (store, clock), at_work);
    let target = what.ok_or_else(ApiError::no_such_path)?;
    let Target::Records(place) = target else {
        if request.method() != Method::GET {
            return Err(ApiError::method_not_allowed(""));
        }
        let path = request.uri().path();
        access::authorize_path(&caller.user, "get", path.strip_suffix('/').unwrap_or(path))?;
        return about_the_api(&shared.state, &target, request.headers());
    };
    let wanted = resource_name(&place);
    let only = one_namespace(&place, &query);
    let attributes = Attributes {
        verb: verb(request.method(), &place, &query)?,
        group: place.resource.group,
        resource: &wanted,
        // A namespace is in itself, as Kubernetes has it.
        namespace: match place.resource.what {
            What::Stored(Kind::Namespace) => place.name.as_deref().unwrap_or(&only),
            _ => place.namespace.as_deref().unwrap_or_default(),
        },
        name: place.name.as_deref().unwrap_or(&only),
    };
    if !is_review(&place) {
        session.deed.begins(&caller, &attributes, query.all("dryRun").any(|v| v == "All"));
    }
    access::authorize(&caller.user, &attributes)?;
    if let Some(sub) = &place.subresource
        && place.resource.subresource(sub).is_none()
    {
        return Err(ApiError::no_such_path());
    }
    let headers = request.headers().clone();
    let (state, shutdown, user) = (shared.state, shared.shutdown, caller.user);
    let call = Call { state, shutdown, user, session: session.clone(), query, headers, place };
    let mut response = records(call, request).await?;
    // For the server, which binds the body to it.
    response.extensions_mut().insert(session);
    Ok(response)
}

/// The one Namespace that a list or a watch selects, as `get ns NAME -w` does: it shows no more than a GET by name, and is
/// allowed to whom that is.
fn one_namespace(place: &Place, query: &Query) -> String {
    let all = matches!(place.resource.what, What::Stored(Kind::Namespace)) && place.name.is_none();
    let fields = query.get("fieldSelector").filter(|_| all);
    let selector = Selector::parse(None, fields, View::Records(Kind::Namespace).selectable());
    selector.ok().and_then(|selector| selector.only_name().map(str::to_owned)).unwrap_or_default()
}

fn is_review(place: &Place) -> bool {
    match place.resource.what {
        What::SelfSubjectReviews | What::SelfSubjectAccessReviews | What::SelfSubjectRulesReviews => true,
        What::Stored(_) | What::Pods | What::Nodes | What::EventsV1 | What::ReadOnly(_) | What::Measured(_) => false,
    }
}

/// Whether the answer goes on after its head.
fn kind_of_use(method: &Method, place: &Place, query: &Query) -> Use {
    let goes_on = match place.subresource.as_deref() {
        Some("log") => query.flag("follow"),
        Some(sub) => streams::Kind::of(sub).is_some(),
        None => method == Method::GET && query.flag("watch"),
    };
    if goes_on { Use::Stream } else { Use::Request }
}

/// Discovery, OpenAPI and the version, the same for everyone with credentials; and metrics.
fn about_the_api(state: &ApiState, target: &Target, headers: &HeaderMap) -> Result<Response, ApiError> {
    match *target {
        Target::Metrics => exposition::answer(&*state.exposition),
        Target::Version => Ok(discovery::version()),
        Target::CoreVersions => Ok(discovery::core_versions(headers)),
        Target::Groups => Ok(discovery::groups(headers)),
        Target::Group(group) => Ok(discovery::group(group)),
        Target::Resources(group, version) => Ok(discovery::resources(group, version)),
        Target::OpenApiV2 => Ok(openapi::v2(headers)),
        Target::OpenApiIndex => Ok(openapi::index()),
        Target::OpenApi(group, version) => Ok(openapi::document(group, version, headers)),
        Target::Records(_) => Err(ApiError::no_such_path()),
    }
}

fn resource_name(place: &Place) -> String {
    match &place.subresource {
        Some(sub) => format!("{}/{sub}", place.resource.plural),
        None => place.resource.plural.to_owned(),
    }
}

/// The verb that rules speak of.
fn verb(method: &Method, place: &Place, query: &Query) -> Result<&'static str, ApiError> {
    // exec over WebSocket is a GET: a right to read must not give a shell.
    if place.subresource.as_deref().is_some_and(|sub| streams::Kind::of(sub).is_some()) {
        return Ok("create");
    }
    let named = place.name.is_some();
    Ok(match (method.as_str(), named) {
        ("GET", true) => "get",
        ("GET", false) if query.flag("watch") => "watch",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return Err(ApiError::method_not_allowed("")),
    })
}

async fn records(call: Call, request: Request) -> Result<Response, ApiError> {
    match call.place.resource.what {
        What::Stored(kind) => stored(call, kind, request).await,
        What::Pods => view(call, request).await,
        What::Nodes => node(call, request).await,
        What::EventsV1 => events_v1::answer(call, request).await,
        What::ReadOnly(view) => projected(call, view, request.method()).await,
        What::Measured(view) => metrics::answer(&call, view, request.method()).await,
        What::SelfSubjectReviews | What::SelfSubjectAccessReviews | What::SelfSubjectRulesReviews => {
            if request.method() != Method::POST || call.place.name.is_some() {
                return Err(ApiError::method_not_allowed(""));
            }
            let parsed = parsed(request).await?;
            review::answer(&call, parsed).map(Reply::into_response)
        }
    }
}

pub async fn parsed(request: Request) -> Result<Parsed, ApiError> {
    let media_type = body::media_type(request.headers());
    body::parse(&media_type, &body::read(request.into_body()).await?)
}

/// The body of a delete may be missing.
pub async fn delete_options(call: &Call, request: Request) -> Result<DeleteOptions, ApiError> {
    let media_type = body::media_type(request.headers());
    let bytes = body::read(request.into_body()).await?;
    let value = if bytes.is_empty() { Value::Null } else { body::parse(&media_type, &bytes)?.value };
    let options = DeleteOptions::of(&call.query, &value)?;
    if options.dry_run {
        call.session.deed.is_dry();
    }
    Ok(options)
}

async fn stored(call: Call, kind: Kind, request: Request) -> Result<Response, ApiError> {
    let form = negotiate::form(&call.headers)?;
    let include = Include::of(&call.query)?;
    let facts = Facts::of(&call.state);
    let render = |reply: Reply| reply.render(View::Records(kind), form, include, &facts);
    let method = request.method().clone();
    let namespace = call.place.namespace.clone().unwrap_or_default();
    let Some(name) = call.place.name.clone() else {
        let everywhere = kind.info().namespaced && call.place.namespace.is_none();
        return match method.as_str() {
            "GET" if call.query.flag("watch") => watch::watch(&call, View::Records(kind), form, include).await,
            "GET" => list::list(&call, View::Records(kind)).await.map(render),
            _ if everywhere => Err(ApiError::method_not_allowed("name a namespace")),
            "DELETE" if !call.place.resource.verbs.contains(&"deletecollection") => {
                Err(ApiError::method_not_allowed("name one of them"))
            }
            "POST" => create::create(&call, kind, parsed(request).await?).await.map(render),
            "DELETE" => {
                let options = delete_options(&call, request).await?;
                delete::delete_collection(&call, View::Records(kind), &options).await.map(render)
            }
            _ => Err(ApiError::method_not_allowed("")),
        };
    };
    let key = Key::new(kind, namespace, name);
    let part = match call.place.subresource.as_deref() {
        None => Part::Main,
        Some("status") => Part::Status,
        Some("finalize") if method == Method::PUT => Part::Finalize,
        Some("finalize") => return Err(ApiError::method_not_allowed("")),
        Some("scale") => return scale::answer(&call, &key, request).await,
        Some("why") => return why::answer(&call, &key, &method).await,
        Some("containers") => return host_containers::answer(&call, &key, &method).await,
        Some(_) => return Err(ApiError::no_such_path()),
    };
    match method.as_str() {
        "GET" if part == Part::Main && call.query.flag("watch") => {
            Err(ApiError::bad_request("watch one object by fieldSelector=metadata.name=NAME on its collection"))
        }
        "GET" => list::get(&call, &key).await.map(render),
        "PUT" => update::replace(&call, &key, part, parsed(request).await?).await.map(render),
        "PATCH" if body::media_type(request.headers()) == patch::APPLY => {
            let bytes = body::read(request.into_body()).await?;
            apply::request::apply(&call, &key, part, &bytes, |_| Ok(())).await.map(render)
        }
        "PATCH" => {
            let media_type = body::media_type(request.headers());
            let bytes = body::read(request.into_body()).await?;
            let parsed = Patch::parse(kind, &media_type, &bytes)?;
            patch::patch(&call, &key, part, parsed).await.map(render)
        }
        "DELETE" if part == Part::Main => {
            let options = delete_options(&call, request).await?;
            delete::delete(&call, &key, &options).await.map(render)
        }
        _ => Err(ApiError::method_not_allowed("")),
    }
}

/// Pods: a view, with logs and sessions, and what moves and renews containers.
async fn view(call: Call, request: Request) -> Result<Response, ApiError> {
    let method = request.method().clone();
    let (form, include) = (negotiate::form(&call.headers), Include::of(&call.query)?);
    let facts = Facts::of(&call.state);
    match (method.as_str(), call.place.name.clone(), call.place.subresource.as_deref()) {
        ("GET", None, None) if call.query.flag("watch") => watch::watch(&call, View::Pods, form?, include).await,
        ("GET", None, None) => Ok(list::list(&call, View::Pods).await?.render(View::Pods, form?, include, &facts)),
        ("GET", Some(name), None) => {
            let namespace = call.place.namespace.as_deref().unwrap_or_default();
            let pod = views::fetch(&call.state, View::Pods, Some(namespace), &name).await?;
            Ok(Reply::ok(pod).render(View::Pods, form?, include, &facts))
        }
        ("GET", Some(name), Some("log")) => logs::answer(&call, &name).await,
        ("GET" | "POST", Some(name), Some(sub)) if let Some(kind) = streams::Kind::of(sub) => {
            if call.query.get("dryRun").is_some() {
                return Err(ApiError::bad_request(
                    "dryRun: a session with a container cannot be tried without having it",
                ));
            }
            streams::answer(kind, call, name, request).await
        }
        ("DELETE", Some(name), None) => {
            // Before anything is done: an answer that cannot be given must not follow a deed.
            let form = form?;
            let options = delete_options(&call, request).await?;
            Ok(pods::delete(&call, &name, &options).await?.render(View::Pods, form, include, &facts))
        }
        ("POST", Some(name), Some("eviction")) => {
            eviction::evict(&call, &name, parsed(request).await?).await.map(Reply::into_response)
        }
        _ => Err(ApiError::method_not_allowed("pods are a view: write the instance of the same name")),
    }
}

/// GET of a view, and nothing else.
pub async fn projected(call: Call, view: View, method: &Method) -> Result<Response, ApiError> {
    let (form, include) = (negotiate::form(&call.headers)?, Include::of(&call.query)?);
    if method != Method::GET {
        return Err(ApiError::method_not_allowed(&format!("a {} is a view, and only read", view.kind())));
    }
    let namespace = call.place.namespace.as_deref();
    let reply = match &call.place.name {
        None if call.query.flag("watch") => return watch::watch(&call, view, form, include).await,
        None => list::list(&call, view).await?,
        Some(name) => Reply::ok(views::fetch(&call.state, view, namespace, name).await?),
    };
    Ok(reply.render(view, form, include, &Facts::of(&call.state)))
}

/// Nodes: a view that is written through to the DockerHost.
async fn node(call: Call, request: Request) -> Result<Response, ApiError> {
    // Before anything is done: an answer that cannot be given must not follow a deed.
    let (form, include) = (negotiate::form(&call.headers)?, Include::of(&call.query)?);
    let render = |reply: Reply, call: &Call| Ok(reply.render(View::Nodes, form, include, &Facts::of(&call.state)));
    let method = request.method().clone();
    match (method.as_str(), call.place.name.clone(), call.place.subresource.as_deref()) {
        ("GET", ..) => projected(call, View::Nodes, &method).await,
        ("PUT", Some(name), None) => render(nodes::replace(&call, &name, parsed(request).await?).await?, &call),
        ("PATCH", Some(name), None) => {
            let media_type = body::media_type(request.headers());
            if media_type == patch::APPLY {
                let bytes = body::read(request.into_body()).await?;
                return render(nodes::apply(&call, &name, &bytes).await?, &call);
            }
            let patch = Patch::parse_core(&media_type, &body::read(request.into_body()).await?)?;
            render(nodes::patch(&call, &name, patch).await?, &call)
        }
        ("POST" | "DELETE", _, None) => Err(nodes::not_by_itself()),
        _ => Err(ApiError::method_not_allowed("the status of a node is its DockerHost's")),
    }
}

/// An answer of plain text, such as a log.
pub fn plain(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
