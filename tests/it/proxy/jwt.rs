//! The mode JWT: which tokens open an instance, and what happens when its issuer is away.

use http::StatusCode;
use portreeve::clock::SystemClock;
use portreeve::model::Instance;
use serde_json::{Value, json};

use super::access::{get, mirror, with, with_auth};
use super::beyond::{Signer, b64};
use super::world::*;

const JWKS: &str = "https://issuer.test/jwks";

fn jwt_auth() -> Value {
    json!({"mode": "JWT", "jwt": {"issuer": "https://issuer.test", "audience": "apps", "jwksURL": JWKS, "cookie": "__session"}})
}

fn owned(mut inst: Instance, owner: &str) -> Instance {
    inst.spec.owner = owner.into();
    with_auth(inst, jwt_auth())
}

fn now() -> i64 {
    SystemClock::new().now().as_second()
}

/// Claims that open alice's, with changes; a null takes one away.
fn claims(change: Value) -> Value {
    let mut claims = json!({"sub": "user_alice", "iss": "https://issuer.test", "aud": "apps", "exp": now() + 600});
    json_patch::merge(&mut claims, &change);
    claims
}

async fn status(world: &World, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    world.connect().await.send(get("alice.test", &[("authorization", &bearer)])).await.status.as_u16()
}

#[tokio::test]
async fn the_owner_is_let_in_by_header_or_cookie_and_the_app_is_told_who_it_is() {
    let (world, app) = (World::new().await, mirror().await);
    let (ec, rsa) = (Signer::ec("ec"), Signer::rsa("rsa"));
    world.beyond.serve_keys(JWKS, &[json!({"kty": "LATER", "kid": "x"}), rsa.jwk(), ec.jwk()]);
    world.put(&owned(awake("alice", app.address), "user_alice")).await;
    let (good, other) = (ec.token(&claims(json!({}))), ec.token(&claims(json!({"sub": "user_bob"}))));
    let by_rsa = rsa.token(&claims(json!({"aud": ["x", "apps"], "nbf": now() + 10, "exp": now() - 10})));
    for fields in [
        &[("authorization", format!("Bearer {good}"))][..],
        &[("authorization", format!("Bearer {by_rsa}"))],
        &[("cookie", format!("a=b; __session={good}"))],
        // The app has bearer tokens of its own.
        &[("authorization", "Bearer something".into()), ("cookie", format!("__session={good}"))],
        &[("authorization", format!("Bearer {other}")), ("cookie", format!("__session={good}"))],
        &[("cookie", format!("__session={other}; __session={good}"))],
    ] {
        let shown: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let forged = with(get("alice.test", &shown), &[("x-forwarded-user", "root"), ("x_forwarded_user", "root")]);
        let reply = world.connect().await.send(forged).await;
        assert_eq!(reply.status, StatusCode::OK, "{shown:?}");
        assert!(reply.text().contains("x-forwarded-user: user_alice\n"), "{}", reply.text());
        assert!(!reply.text().contains("root"), "{}", reply.text());
        // The app may look for itself: it gets what the visitor sent.
        assert!(shown.iter().all(|(name, value)| reply.text().contains(&format!("{name}: {value}\n"))));
    }
    assert_eq!(world.beyond.asked().len(), 1, "keys are kept");
}

#[tokio::test]
async fn no_other_token_opens_it() {
    let (world, app) = (World::new().await, mirror().await);
    let (rsa, ec, stranger) = (Signer::rsa("rsa"), Signer::ec("ec"), Signer::ec("ec"));
    // A key of a shared secret among the others: never one to check a signature with.
    let shared = json!({"kty": "oct", "k": b64("shared"), "kid": "oct", "alg": "HS256"});
    let encrypts = {
        let mut jwk = ec.jwk();
        jwk["kid"] = "enc".into();
        jwk["use"] = "enc".into();
        jwk
    };
    world.beyond.serve_keys(JWKS, &[rsa.jwk(), ec.jwk(), shared, encrypts]);
    world.put(&owned(awake("alice", app.address), "user_alice")).await;
    let good = claims(json!({}));
    assert_eq!(status(&world, &rsa.token(&good)).await, 200, "or nothing below proves anything");
    let with_claims = |change: Value| ec.token(&claims(change));
    let header = |change: Value| {
        let mut header = json!({"alg": "ES256", "typ": "JWT", "kid": "ec"});
        json_patch::merge(&mut header, &change);
        ec.with_header(&header, &good)
    };
    assert_eq!(status(&world, &header(json!({}))).await, 200, "or nothing below proves anything");
    let hmac = |secret: &[u8], kid: &str| {
        let message = format!("{}.{}", b64(json!({"alg": "HS256", "kid": kid}).to_string()), b64(good.to_string()));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        format!("{message}.{}", b64(aws_lc_rs::hmac::sign(&key, message.as_bytes())))
    };
    let unsigned =
        |alg: &str| format!("{}.{}.", b64(json!({"alg": alg, "kid": "ec"}).to_string()), b64(good.to_string()));
    let tampered = {
        let token = ec.token(&claims(json!({"sub": "user_bob"})));
        let parts: Vec<&str> = token.split('.').collect();
        format!("{}.{}.{}", parts[0], b64(good.to_string()), parts[2])
    };
    for (what, token) in [
        ("over", with_claims(json!({"exp": now() - 60}))),
        ("without an end", with_claims(json!({"exp": null}))),
        ("an end that is no number", with_claims(json!({"exp": "9999999999"}))),
        ("not yet", with_claims(json!({"nbf": now() + 600}))),
        ("another issuer", with_claims(json!({"iss": "https://issuer.test/"}))),
        ("no issuer", with_claims(json!({"iss": null}))),
        ("another audience", with_claims(json!({"aud": "other"}))),
        ("no audience", with_claims(json!({"aud": null}))),
        ("other audiences", with_claims(json!({"aud": ["other", 1]}))),
        ("no subject", with_claims(json!({"sub": null}))),
        ("a subject that is no text", with_claims(json!({"sub": ["user_alice"]}))),
        ("a stranger's key of the same name", stranger.token(&good)),
        ("HS256 with the public key", hmac(&rsa.public_bytes(), "rsa")),
        ("HS256 with the modulus", hmac(rsa.jwk()["n"].as_str().unwrap().as_bytes(), "rsa")),
        ("HS256 with an EC key", hmac(&ec.public_bytes(), "ec")),
        ("HS256 with the issuer's shared secret", hmac(b"shared", "oct")),
        ("unsigned", unsigned("none")),
        ("unsigned in capitals", unsigned("NONE")),
        ("an empty signature", unsigned("ES256")),
        ("an algorithm that is not the key's", header(json!({"kid": "rsa"}))),
        ("a name for an algorithm that is not the key's", header(json!({"alg": "ES384"}))),
        ("a key for something else", header(json!({"kid": "enc"}))),
        ("no name of a key, of which there are several", header(json!({"kid": null}))),
        ("something critical", header(json!({"crit": ["b64"], "b64": false}))),
        ("claims of another token", tampered),
        ("three points", "a.b.c".into()),
        ("nothing", "..".into()),
        ("its own key in its header", {
            let mut header = json!({"alg": "ES256", "jwk": stranger.jwk()});
            header["jku"] = "https://evil.test/jwks".into();
            stranger.with_header(&header, &good)
        }),
    ] {
        assert_eq!(status(&world, &token).await, 401, "{what}");
    }
    for owner in ["user_bob", "User_alice", "", "user_alice "] {
        let reply = {
            let bearer = format!("Bearer {}", ec.token(&claims(json!({"sub": owner}))));
            world.connect().await.send(get("alice.test", &[("authorization", &bearer)])).await
        };
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{owner:?}");
        assert!(!reply.text().contains("alice") && !reply.text().contains("bob"), "{}", reply.text());
    }
    assert_eq!(world.beyond.asked().iter().map(|(url, _)| url.as_str()).collect::<Vec<_>>(), [JWKS]);
}

#[tokio::test]
async fn an_instance_without_an_owner_is_nobodys_and_another_claim_may_name_it() {
    let (world, app) = (World::new().await, mirror().await);
    let ec = Signer::ec("ec");
    world.beyond.serve_keys(JWKS, &[ec.jwk()]);
    world.put(&owned(awake("alice", app.address), "")).await;
    assert_eq!(status(&world, &ec.token(&claims(json!({"sub": ""})))).await, 403);
    assert_eq!(status(&world, &ec.token(&claims(json!({})))).await, 403);
    let mut inst = owned(awake("alice", app.address), "alice@example.com");
    inst.spec.routes[0].auth.jwt.as_mut().unwrap().subject_claim = "email".into();
    inst.spec.routes[0].auth.jwt.as_mut().unwrap().audience = String::new();
    world.put(&inst).await;
    let by_mail = json!({"email": "alice@example.com", "aud": null});
    assert_eq!(status(&world, &ec.token(&claims(by_mail))).await, 200);
    assert_eq!(status(&world, &ec.token(&claims(json!({"sub": "alice@example.com"})))).await, 401);
    // The only key there is needs no name.
    let unnamed = ec.with_header(&json!({"alg": "ES256"}), &claims(json!({"email": "alice@example.com"})));
    assert_eq!(status(&world, &unnamed).await, 200);
}

#[tokio::test]
async fn an_issuer_that_is_away_lets_nobody_in_and_strangers_cannot_have_it_asked_again_and_again() {
    let (world, app) = (World::new().await, mirror().await);
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    world.put(&owned(asleep("alice", app.address), "user_alice")).await;
    let good = old.token(&claims(json!({})));
    for _ in 0..5 {
        assert_eq!(status(&world, &good).await, 503, "nobody answers");
    }
    assert_eq!(status(&world, "no.token.atall").await, 401);
    assert_eq!(world.beyond.asked().len(), 1, "within a minute it is asked once");
    assert_eq!(world.waker.calls("alice"), 0);
    for answer in ["", "[]", r#"{"keys": []}"#, "<html>"] {
        let world = World::new().await;
        world.beyond.serve(JWKS, move |_| Ok(http::Response::new(answer.into())));
        world.put(&owned(awake("alice", app.address), "user_alice")).await;
        assert_eq!(status(&world, &good).await, 503, "{answer:?} is no set of keys");
    }

    let world = World::new().await;
    world.put(&owned(awake("alice", app.address), "user_alice")).await;
    world.beyond.serve_keys(JWKS, &[old.jwk()]);
    assert_eq!(status(&world, &good).await, 200);
    world.beyond.down(JWKS);
    for _ in 0..20 {
        assert_eq!(status(&world, &new.token(&claims(json!({})))).await, 401);
        assert_eq!(status(&world, &good).await, 200, "what is known goes on");
    }
    assert_eq!(world.beyond.asked().len(), 1);
}

#[tokio::test]
async fn a_token_that_is_remembered_opens_what_it_is_for_and_nothing_else() {
    let (world, app) = (World::new().await, mirror().await);
    let (ec, stranger) = (Signer::ec("ec"), Signer::ec("ec"));
    let elsewhere = "https://elsewhere.test/jwks";
    world.beyond.serve_keys(JWKS, &[ec.jwk()]);
    world.beyond.serve_keys(elsewhere, &[stranger.jwk()]);
    let door = |name: &str, owner: &str, change: Value| {
        let mut auth = jwt_auth();
        json_patch::merge(&mut auth["jwt"], &change);
        let mut inst = with_auth(awake(name, app.address), auth);
        inst.spec.owner = owner.into();
        inst
    };
    world.put(&door("alice", "user_alice", json!({}))).await;
    world.put(&door("bob", "user_bob", json!({}))).await;
    world.put(&door("audience", "user_alice", json!({"audience": "others"}))).await;
    world.put(&door("issuer", "user_alice", json!({"issuer": "https://other.test"}))).await;
    world.put(&door("claim", "user_alice", json!({"subjectClaim": "email"}))).await;
    world.put(&door("keys", "user_alice", json!({"jwksURL": elsewhere}))).await;
    let bearer = format!("Bearer {}", ec.token(&claims(json!({"email": "user_bob"}))));
    let at = async |name: &str| {
        let host = format!("{name}.test");
        world.connect().await.send(get(&host, &[("authorization", &bearer)])).await.status.as_u16()
    };
    for _ in 0..3 {
        assert_eq!(at("alice").await, 200);
        for (name, status) in [("bob", 403), ("audience", 401), ("issuer", 401), ("claim", 403), ("keys", 401)] {
            assert_eq!(at(name).await, status, "{name}");
        }
    }
    world.put(&door("alice", "user_carol", json!({}))).await;
    assert_eq!(at("alice").await, 403, "it is somebody else's now");
    world.put(&door("alice", "user_alice", json!({"audience": "others"}))).await;
    assert_eq!(at("alice").await, 401, "it takes others now");
    world.put(&door("alice", "user_alice", json!({}))).await;
    assert_eq!(at("alice").await, 200);
}
