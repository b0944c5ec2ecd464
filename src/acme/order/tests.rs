//! The client against an ACME server of a few lines: what it asks about renewals, and what it makes of the answers.

use std::pin::Pin;
use std::sync::Mutex as StdMutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use instant_acme::{BodyWrapper, BytesResponse};
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::*;
use crate::clock::VirtualClock;

const SERVER: &str = "https://acme.test/dir";

/// Makes accounts, refuses orders, and answers what it is told to about renewals: a status, `Retry-After`, and a body.
struct Server {
    renewals: Option<(u16, &'static str, Value)>,
    /// Method and path of what came, and the payloads of orders.
    asked: StdMutex<Vec<String>>,
    orders: StdMutex<Vec<Value>>,
}

impl Server {
    fn answer(&self, method: &str, path: &str, payload: &Value) -> (u16, &'static str, Value) {
        match (method, path) {
            ("GET", "/dir") => {
                let url = |name: &str| format!("https://acme.test/{name}");
                let mut directory =
                    json!({"newNonce": url("nonce"), "newAccount": url("account"), "newOrder": url("order")});
                if self.renewals.is_some() {
                    directory["renewalInfo"] = url("renewal").into();
                }
                (200, "", directory)
            }
            ("POST", "/account") => (201, "", json!({"status": "valid"})),
            ("POST", "/order") => {
                self.orders.lock().unwrap().push(payload.clone());
                let type_ = if payload["replaces"].is_null() { "rejectedIdentifier" } else { "alreadyReplaced" };
                (409, "", json!({"type": format!("urn:ietf:params:acme:error:{type_}"), "detail": type_}))
            }
            ("GET", path) if path.starts_with("/renewal/") => self.renewals.clone().unwrap(),
            _ => (200, "", json!({})),
        }
    }
}

/// The way to it.
struct Wire(Arc<Server>);

impl HttpClient for Wire {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let server = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let signed: Value = serde_json::from_slice(&body).unwrap_or_default();
            let payload = URL_SAFE_NO_PAD.decode(signed["payload"].as_str().unwrap_or_default()).unwrap();
            let payload = serde_json::from_slice(&payload).unwrap_or_default();
            server.asked.lock().unwrap().push(format!("{} {}", head.method, head.uri.path()));
            let (status, wait, answer) = server.answer(head.method.as_str(), head.uri.path(), &payload);
            let mut response = Response::builder().status(status).header("replay-nonce", "n");
            response = response.header("location", "https://acme.test/account/1");
            if !wait.is_empty() {
                response = response.header("retry-after", wait);
            }
            let (parts, ()) = response.body(()).unwrap().into_parts();
            Ok(BytesResponse { parts, body: Box::new(Bytes::from(answer.to_string())) })
        })
    }
}

struct World {
    server: Arc<Server>,
    client: Client,
    leaf: CertificateDer<'static>,
    _dir: tempfile::TempDir,
}

fn world(renewals: Option<(u16, &'static str, Value)>) -> World {
    let (dir, clock) = (tempfile::tempdir().unwrap(), VirtualClock::new());
    let directory = Directory::open(dir.path(), SERVER).unwrap();
    let settings = Settings { server: SERVER.into(), contact: vec![], binding: None, kind: Kind::Http01 };
    let server = Arc::new(Server { renewals, asked: StdMutex::default(), orders: StdMutex::default() });
    let ca = pki::make_ca("test", clock.now()).unwrap();
    let pair = pki::make_server(&ca, "a", &["a.example".to_owned()], clock.now()).unwrap();
    let leaf = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    let client = Client::new(settings, directory, Arc::new(Wire(server.clone())), Arc::default(), clock);
    World { server, client, leaf, _dir: dir }
}

fn window(start: &str, end: &str) -> Value {
    json!({"suggestedWindow": {"start": start, "end": end}, "explanationURL": "https://acme.test/why"})
}

#[tokio::test]
async fn the_window_of_a_certificate_is_asked_by_its_id_and_nothing_that_cannot_be_is_taken_for_one() {
    let good = window("2026-02-01T00:00:00Z", "2026-02-03T00:00:00.5Z");
    let World { server, client, leaf, _dir } = world(Some((200, "21600", good.clone())));
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let expected = Said::Window {
        window: Window::new(at("2026-02-01T00:00:00Z"), at("2026-02-03T00:00:00Z")).unwrap(),
        again: Duration::from_secs(21_600),
        explained: Some("https://acme.test/why".into()),
    };
    let Said::Window { window: found, again, explained } = client.renewal(&leaf).await else { panic!("no window") };
    // The library counts from the machine's clock.
    assert!(again > Duration::from_secs(21_500) && again <= Duration::from_secs(21_600), "{again:?}");
    assert_eq!(Said::Window { window: found, again: Duration::from_secs(21_600), explained }, expected);
    let id = CertificateIdentifier::try_from(&leaf).unwrap();
    let asked = server.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(asked, format!("GET /renewal/{id}"));
    assert!(id.serial.len() > 4 && id.authority_key_identifier.len() > 4, "{id}");

    let longest = format!("{}", u64::MAX);
    let answered = world(Some((200, Box::leak(longest.into_boxed_str()), good.clone())));
    assert!(matches!(answered.client.renewal(&answered.leaf).await, Said::Window { .. }), "nothing ends with it");
    for (status, wait, body) in [
        (200, "60", window("2026-02-03T00:00:00Z", "2026-02-01T00:00:00Z")),
        (200, "60", window("2026-02-01T00:00:00Z", "2026-02-01T00:00:00Z")),
        (200, "60", window("soon", "later")),
        (200, "", good),
        (404, "60", json!({"type": "about:blank", "detail": "no such certificate"})),
        (500, "60", json!("?")),
    ] {
        let asked = world(Some((status, wait, body.clone())));
        let said = asked.client.renewal(&asked.leaf).await;
        assert!(matches!(said, Said::Failed(_)), "{status} {body}: {said:?}");
    }
    let without = world(None);
    assert_eq!(without.client.renewal(&without.leaf).await, Said::Nothing);
    let unknown = CertificateDer::from(vec![1, 2, 3]);
    assert_eq!(without.client.renewal(&unknown).await, Said::Nothing);
}

#[tokio::test]
async fn an_order_names_what_it_replaces_and_one_that_is_refused_for_that_is_made_without() {
    let taking = world(Some((200, "60", json!({}))));
    let refusal = taking.client.certificate("a.example", Some(&taking.leaf)).await.unwrap_err();
    assert_eq!(refusal.why, "rejectedIdentifier", "the second order's");
    let id = CertificateIdentifier::try_from(&taking.leaf).unwrap().to_string();
    let orders = taking.server.orders.lock().unwrap().clone();
    assert_eq!((orders.len(), &orders[0]["replaces"], &orders[1]["replaces"]), (2, &json!(id), &Value::Null));
    assert_eq!(orders[0]["identifiers"], json!([{"type": "dns", "value": "a.example"}]));

    let without = world(None);
    without.client.certificate("a.example", Some(&without.leaf)).await.unwrap_err();
    let orders = without.server.orders.lock().unwrap().clone();
    assert!(orders.len() == 1 && orders[0]["replaces"].is_null(), "the server knows no such thing: {orders:?}");
}
