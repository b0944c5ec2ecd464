//! Who is let through a route, with the real program: a sleeper that strangers cannot wake, by a Secret and by an issuer.

use std::io::{Read, Write};
use std::net::TcpListener;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portreeve::clock::SystemClock;
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, instance_with, within};

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A server on loopback that has one set of keys, until the test ends.
fn issuer(key: &EcdsaKeyPair) -> String {
    let point = key.public_key().as_ref();
    let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": b64(&point[1..33]), "y": b64(&point[33..])});
    let body = json!({"keys": [jwk]}).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/jwks", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    url
}

fn token(key: &EcdsaKeyPair, claims: &Value) -> String {
    let message = format!("{}.{}", b64(json!({"alg": "ES256", "kid": "k"}).to_string()), b64(claims.to_string()));
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
    format!("{message}.{}", b64(signature))
}

/// The status of a GET with one more header.
fn status(plane: &ControlPlane, name: &str, header: &str) -> u16 {
    let get = || -> std::io::Result<String> {
        let mut stream = plane.connect()?;
        let host = ControlPlane::host(name);
        write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{header}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = get().unwrap_or_else(|e| panic!("{e}"));
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

/// It may take longer to start than a request is held.
fn lets_in(plane: &ControlPlane, name: &str, header: &str) {
    let tried = within(PATIENCE, || match status(plane, name, header) {
        200 => Ok(()),
        other => Err(format!("{other}")),
    });
    tried.unwrap_or_else(|why| plane.fail(name, &why));
}

#[test]
fn only_whoever_may_wakes_a_sleeper_and_a_change_of_access_makes_no_new_container() {
    let mut plane = ControlPlane::start(32_160);
    let name = "guarded";
    plane.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "door"}, "stringData": {"token": "sesame\n"}}));
    let by_token =
        json!({"mode": "Token", "token": {"secretKeyRef": {"name": "door", "key": "token"}, "cookie": "door"}});
    let spec = |auth: &Value| json!({"owner": "user_1", "idle": {"after": "2s"}, "routes": [{"auth": auth}]});
    plane.apply(&instance_with(name, &spec(&by_token)));
    plane.until(name, "it has started", |o| !o["status"]["containerID"].is_null());
    let asleep = |plane: &ControlPlane| plane.until(name, "it sleeps", |o| o["status"]["phase"] == "Asleep");
    let before = asleep(&plane);
    for wrong in ["x: y", "authorization: Bearer sesam", "cookie: door=open", "x-forwarded-user: user_1"] {
        assert_eq!(status(&plane, name, wrong), 401, "{wrong}");
    }
    let after = asleep(&plane);
    assert_eq!(after["status"]["startedAt"], before["status"]["startedAt"], "nobody woke it");
    lets_in(&plane, name, "authorization: Bearer sesame");
    lets_in(&plane, name, "cookie: a=b; door=sesame");

    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let jwt = json!({"issuer": "https://issuer.test", "jwksURL": issuer(&key), "cookie": "__session"});
    plane.apply(&instance_with(name, &spec(&json!({"mode": "JWT", "jwt": jwt}))));
    let claims = |subject: &str| json!({"iss": "https://issuer.test", "sub": subject, "exp": SystemClock::new().now().as_second() + 3600});
    lets_in(&plane, name, &format!("cookie: __session={}", token(&key, &claims("user_1"))));
    lets_in(&plane, name, &format!("authorization: Bearer {}", token(&key, &claims("user_1"))));
    assert_eq!(status(&plane, name, &format!("authorization: Bearer {}", token(&key, &claims("user_2")))), 403);
    assert_eq!(status(&plane, name, "authorization: Bearer sesame"), 401);
    let now_is = plane.get(name);
    assert_eq!(now_is["status"]["containerID"], before["status"]["containerID"], "the container is the same");
}
