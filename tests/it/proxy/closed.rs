//! What keeps everybody out of a route is told to the operator, and to no visitor: by `why` whenever that is asked, and once
//! in a while, however many visitors come.

use http::Response;
use portreeve::clock::SystemClock;
use portreeve::model::RouteProblem;
use serde_json::json;

use super::access::{get, with_auth};
use super::beyond::Signer;
use super::world::*;

const DOOR: &str = "default/door/token";
const KEYS: &str = "https://issuer.test/keys";
const SERVICE: &str = "https://auth.test/check?secret=hunter2";

async fn problems(world: &World, name: &str) -> Vec<RouteProblem> {
    let instance = world.cache.instance(&key(name)).unwrap();
    world.access.problems(&instance, "test").await
}

/// Reason and message of the only one.
async fn problem(world: &World, name: &str) -> RouteProblem {
    let mut found = problems(world, name).await;
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

async fn status(world: &World, fields: &[(&'static str, &str)]) -> u16 {
    world.connect().await.send(get("alice.test", fields)).await.status.as_u16()
}

#[tokio::test]
async fn a_secret_that_lets_nobody_in_is_named_with_what_is_wrong_and_whoever_comes_one_event_tells() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    let auth = json!({"mode": "Token", "token": {"secretKeyRef": {"name": "door", "key": "token"}}});
    world.put(&with_auth(awake("alice", app.address), auth)).await;
    let told = problem(&world, "alice").await;
    assert_eq!((told.host.as_str(), told.reason.as_str()), ("alice.test", "SecretUnavailable"));
    assert_eq!(told.field, "spec.routes[0].auth.token.secretKeyRef");
    assert_eq!(told.message, "nobody is let in: there is no Secret \"door\" in the namespace \"default\"");
    assert_eq!((told.since, told.next), (None, None), "nobody has come yet");
    assert_eq!(world.beyond.told().len(), 0);

    for _ in 0..40 {
        assert_eq!(status(&world, &[("authorization", "Bearer x")]).await, 401);
    }
    let field = "spec.routes[0].auth.token.secretKeyRef";
    let message = format!("{field}: nobody is let in: there is no Secret \"door\" in the namespace \"default\"");
    assert_eq!(world.beyond.told(), [["alice".to_owned(), "SecretUnavailable".to_owned(), message]]);
    assert!(problem(&world, "alice").await.since.is_some());

    world.beyond.set_secret("default/door/other", Ok("x"));
    assert!(problem(&world, "alice").await.message.ends_with("the Secret \"door\" has no key \"token\""));
    world.beyond.set_secret(DOOR, Ok("\n"));
    assert!(problem(&world, "alice").await.message.ends_with("is empty"));
    world.beyond.set_secret(DOOR, Err("sealed by a key that is gone"));
    let told = problem(&world, "alice").await.message;
    assert_eq!(told, "nobody is let in: the Secret \"door\" cannot be read: sealed by a key that is gone");
    assert_eq!(status(&world, &[("authorization", "Bearer x")]).await, 503);
    world.beyond.set_secret(DOOR, Ok("open-sesame"));
    assert_eq!(problems(&world, "alice").await, []);
    assert_eq!(status(&world, &[("authorization", "Bearer open-sesame")]).await, 200);
    world.beyond.remove_secret(DOOR);
    assert_eq!(problem(&world, "alice").await.since, None, "it is another time, which nobody has met");
    assert_eq!(world.beyond.told().len(), 1);
}

#[tokio::test]
async fn an_issuer_whose_keys_cannot_be_had_is_told_with_its_words_and_an_instance_of_nobody_too() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    let jwt = json!({"issuer": "https://issuer.test", "jwksURL": KEYS});
    let mut alice = with_auth(awake("alice", app.address), json!({"mode": "JWT", "jwt": jwt}));
    alice.spec.owner = "user_1".into();
    world.put(&alice).await;
    assert_eq!(problems(&world, "alice").await, [], "nobody has asked for the keys");
    let signer = Signer::ec("k1");
    let exp = SystemClock::new().now().as_second() + 600;
    let token = signer.token(&json!({"iss": "https://issuer.test", "sub": "user_1", "exp": exp}));
    let bearer = format!("Bearer {token}");
    for _ in 0..10 {
        assert_eq!(status(&world, &[("authorization", &bearer)]).await, 503);
    }
    let told = problem(&world, "alice").await;
    assert_eq!((told.reason.as_str(), told.field.as_str()), ("KeysUnavailable", "spec.routes[0].auth.jwt.jwksURL"));
    let message = "nobody is let in: the keys at https://issuer.test/keys cannot be fetched: connection refused";
    assert_eq!(told.message, message);
    assert!(told.since.is_some() && told.next > told.since, "{told:?}");
    let events = world.beyond.told();
    assert!(events.len() == 1 && events[0][2].ends_with(message), "{events:?}");

    // Another issuer, which answers, and nobody whose tokens these are.
    world.beyond.serve_keys("https://issuer.test/other", &[signer.jwk()]);
    let jwt = json!({"issuer": "https://issuer.test", "jwksURL": "https://issuer.test/other"});
    world.put(&with_auth(awake("alice", app.address), json!({"mode": "JWT", "jwt": jwt}))).await;
    let told = problem(&world, "alice").await;
    assert_eq!((told.reason.as_str(), told.field.as_str()), ("OwnerMissing", "spec.owner"));
    assert_eq!(status(&world, &[("authorization", &bearer)]).await, 403);
    assert_eq!(problems(&world, "alice").await.len(), 1, "the keys are known");
}

#[tokio::test]
async fn a_service_that_gives_no_answer_is_told_until_it_gives_one_and_no_query_of_its_url() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    world
        .put(&with_auth(awake("alice", app.address), json!({"mode": "ForwardAuth", "forwardAuth": {"url": SERVICE}})))
        .await;
    assert_eq!(problems(&world, "alice").await, []);
    for _ in 0..10 {
        assert_eq!(status(&world, &[]).await, 503);
    }
    let told = problem(&world, "alice").await;
    assert_eq!(
        (told.reason.as_str(), told.field.as_str()),
        ("ServiceUnavailable", "spec.routes[0].auth.forwardAuth.url")
    );
    let message = "a visitor could not be let in: the service at https://auth.test/check gives no answer that can be used: \
                   connection refused";
    assert_eq!(told.message, message);
    assert!(told.since.is_some());
    assert_eq!(world.beyond.told().len(), 1);
    for (answer, left_in) in [(403, 403), (200, 200)] {
        world.beyond.down(SERVICE);
        assert_eq!(status(&world, &[]).await, 503);
        assert_eq!(problems(&world, "alice").await.len(), 1);
        world.beyond.serve(SERVICE, move |_| Ok(Response::builder().status(answer).body("".into()).unwrap()));
        assert_eq!(status(&world, &[]).await, left_in);
        assert_eq!(problems(&world, "alice").await, [], "it answers {answer}");
    }
    assert_eq!(world.beyond.told().len(), 1, "the same words");
}
