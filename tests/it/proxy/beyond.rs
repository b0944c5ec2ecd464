//! What routes' access asks beyond the proxy: Secrets, issuers' keys and authentication services. Simulated, and told of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use portreeve::model::{Instance, Resource as _};
use portreeve::proxy::{Fetch, Looked, Secrets, Witness};
use serde_json::{Value, json};

type Answer = Arc<dyn Fn(&Request<()>) -> Result<Response<Bytes>, String> + Send + Sync>;

/// The values of Secrets by `namespace/name/key`, and servers by their URL.
#[derive(Default)]
pub struct Beyond {
    secrets: Mutex<HashMap<String, Result<Vec<u8>, String>>>,
    servers: Mutex<HashMap<String, Answer>>,
    /// URL and headers of all that was asked.
    asked: Mutex<Vec<(String, HeaderMap)>>,
    /// What was told of routes that are closed: instance, reason and message.
    told: Mutex<Vec<[String; 3]>>,
}

impl Beyond {
    pub fn set_secret(&self, path: &str, value: Result<&str, &str>) {
        let value = value.map(|v| v.as_bytes().to_vec()).map_err(str::to_owned);
        self.secrets.lock().unwrap().insert(path.into(), value);
    }

    pub fn remove_secret(&self, path: &str) {
        self.secrets.lock().unwrap().remove(path);
    }

    pub fn serve(
        &self,
        url: &str,
        answer: impl Fn(&Request<()>) -> Result<Response<Bytes>, String> + Send + Sync + 'static,
    ) {
        self.servers.lock().unwrap().insert(url.into(), Arc::new(answer));
    }

    /// A set of keys at a URL, until another takes its place.
    pub fn serve_keys(&self, url: &str, keys: &[Value]) {
        let set = json!({"keys": keys}).to_string();
        self.serve(url, move |_| Ok(Response::new(set.clone().into())));
    }

    /// Nobody answers there any more.
    pub fn down(&self, url: &str) {
        self.servers.lock().unwrap().remove(url);
    }

    pub fn told(&self) -> Vec<[String; 3]> {
        self.told.lock().unwrap().clone()
    }

    pub fn asked(&self) -> Vec<(String, HeaderMap)> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Secrets for Beyond {
    async fn value(&self, namespace: &str, name: &str, key: &str) -> Result<Looked, String> {
        let secrets = self.secrets.lock().unwrap();
        let Some(found) = secrets.get(&format!("{namespace}/{name}/{key}")) else {
            let of_it = format!("{namespace}/{name}/");
            let is_there = secrets.keys().any(|path| path.starts_with(&of_it));
            return Ok(if is_there { Looked::NoKey } else { Looked::NoSecret });
        };
        let bytes = found.clone()?;
        Ok(Looked::Value(serde_json::from_value(STANDARD.encode(bytes).into()).unwrap()))
    }
}

impl Witness for Beyond {
    fn obstructed(&self, instance: &Instance, reason: &'static str, message: String) {
        self.told.lock().unwrap().push([instance.key().name, reason.to_owned(), message]);
    }
}

#[async_trait]
impl Fetch for Beyond {
    async fn fetch(&self, request: Request<()>, most: usize) -> Result<Response<Bytes>, String> {
        let url = request.uri().to_string();
        self.asked.lock().unwrap().push((url.clone(), request.headers().clone()));
        let answer = self.servers.lock().unwrap().get(&url).cloned().ok_or("connection refused")?;
        let response = answer(&request)?;
        if response.body().len() > most { Err("length limit exceeded".into()) } else { Ok(response) }
    }
}

/// An issuer's key, with which anything can be signed.
pub struct Signer {
    pub kid: &'static str,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub fn ec(kid: &'static str) -> Signer {
        Signer { kid, pair: Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()) }
    }

    pub fn rsa(kid: &'static str) -> Signer {
        Signer { kid, pair: Pair::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())) }
    }

    pub fn alg(&self) -> &'static str {
        match self.pair {
            Pair::Ec(_) => "ES256",
            Pair::Rsa(_) => "RS256",
        }
    }

    /// The public half.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..])})
            }
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                let n = public.modulus().big_endian_without_leading_zero();
                json!({"kty": "RSA", "n": b64(n), "e": b64(public.exponent().big_endian_without_leading_zero())})
            }
        };
        jwk["kid"] = self.kid.into();
        jwk["alg"] = self.alg().into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// The public half as others might take it for a shared secret.
    pub fn public_bytes(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    pub fn token(&self, claims: &Value) -> String {
        self.with_header(&json!({"alg": self.alg(), "typ": "JWT", "kid": self.kid}), claims)
    }

    pub fn with_header(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ec(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", b64(signature))
    }
}
