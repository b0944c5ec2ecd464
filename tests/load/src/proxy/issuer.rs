//! An issuer of JSON Web Tokens: keys of its own, served on loopback, and a token signed with each. A process of its own.

use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::upstream::until_left;

/// Serves its keys until standard input ends; tells first where they are, and a token of these claims by each algorithm.
pub async fn serve(claims: &str) -> Result<()> {
    let claims: Value = serde_json::from_str(claims).context("reading the claims")?;
    let (rsa, ec) =
        (Rsa(RsaKeyPair::generate(KeySize::Rsa2048)?), Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?));
    let keys = json!({"keys": [rsa.jwk(), ec.jwk()]}).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/keys", listener.local_addr()?);
    println!("{}", json!({"url": url, "rs256": token(&rsa, &claims)?, "es256": token(&ec, &claims)?}));
    tokio::spawn(async move {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, keys.clone()));
            }
        }
    });
    until_left().await;
    Ok(())
}

/// One request, whatever it is.
async fn answer(mut stream: TcpStream, keys: String) -> std::io::Result<()> {
    let (mut buffer, mut have) = ([0; 4096], 0);
    while !buffer[..have].windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut buffer[have..]).await? {
            0 => return Ok(()),
            n => have += n,
        }
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ";
    stream.write_all(format!("{head}{}\r\n\r\n{keys}", keys.len()).as_bytes()).await
}

trait Signer {
    const ALG: &str;
    fn public(&self) -> Value;
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>>;

    /// RFC 7517. It goes by the name of its algorithm.
    fn jwk(&self) -> Value {
        let mut jwk = self.public();
        jwk["kid"] = Self::ALG.into();
        jwk["alg"] = Self::ALG.into();
        jwk["use"] = "sig".into();
        jwk
    }
}

struct Rsa(RsaKeyPair);
struct Ec(EcdsaKeyPair);

impl Signer for Rsa {
    const ALG: &str = "RS256";

    fn public(&self) -> Value {
        // RFC 8017 §A.1.1: the modulus, of 2,048 bits, and the exponent, which is 65537 in all keys that are made.
        let der = self.0.public_key().as_ref();
        let (n, e) = der[der.len() - 261..].split_at(256);
        json!({"kty": "RSA", "n": b64(n), "e": b64(&e[2..])})
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)?;
        Ok(signature)
    }
}

impl Signer for Ec {
    const ALG: &str = "ES256";

    fn public(&self) -> Value {
        // Of the uncompressed point the first byte says that it is one.
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y)})
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(self.0.sign(&SystemRandom::new(), message)?.as_ref().to_vec())
    }
}

fn token<S: Signer>(signer: &S, claims: &Value) -> Result<String> {
    let header = json!({"alg": S::ALG, "typ": "JWT", "kid": S::ALG});
    let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let signature = signer.sign(message.as_bytes())?;
    Ok(format!("{message}.{}", b64(signature)))
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    };

    use super::*;

    /// The parts of a token: what is signed, the signature, the claims.
    fn parts(token: &str) -> (&str, Vec<u8>, Value) {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let claims = decoded(message.split_once('.').unwrap().1);
        (message, decoded(signature), serde_json::from_slice(&claims).unwrap())
    }

    fn decoded(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    #[test]
    fn tokens_are_signed_by_the_keys_that_are_shown() {
        let claims = json!({"sub": "a"});
        let member = |jwk: &Value, name: &str| decoded(jwk[name].as_str().unwrap());

        let ec = Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());
        let made = token(&ec, &claims).unwrap();
        let (message, signature, said) = parts(&made);
        let point = [vec![4], member(&ec.jwk(), "x"), member(&ec.jwk(), "y")].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message.as_bytes(), &signature).unwrap();
        assert_eq!(said, claims);

        let rsa = Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
        let made = token(&rsa, &claims).unwrap();
        let (message, signature, said) = parts(&made);
        let key = RsaPublicKeyComponents { n: member(&rsa.jwk(), "n"), e: member(&rsa.jwk(), "e") };
        key.verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &signature).unwrap();
        assert_eq!(said, claims);
    }
}
