//! The two servers behind one face: the same objects, of the same size, under the same names.

use anyhow::Result;
use serde_json::json;

use crate::etcd::{Etcd, Grpc, Watching};
use crate::portreeve::{Http, Portreeve};

/// Bytes of an object as it is sent.
pub const SIZE: usize = 512;

#[derive(Clone)]
pub enum Peer {
    Portreeve(Portreeve),
    Etcd(Etcd),
}

pub enum Client {
    Portreeve(Box<Http>),
    Etcd(Grpc),
}

pub enum Watch {
    Portreeve(Box<Http>),
    Etcd(Watching),
}

/// A ConfigMap of [`SIZE`] bytes, with a text in it that can be found again.
pub fn object(name: &str, text: &str) -> String {
    let with = |fill: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": text, "fill": fill}})
            .to_string()
    };
    let bare = with("").len();
    with(&"x".repeat(SIZE.saturating_sub(bare)))
}

impl Peer {
    pub fn pid(&self) -> u32 {
        match self {
            Peer::Portreeve(p) => p.pid,
            Peer::Etcd(e) => e.pid,
        }
    }

    pub async fn connect(&self) -> Result<Client> {
        Ok(match self {
            Peer::Portreeve(p) => Client::Portreeve(Box::new(p.connect().await?)),
            Peer::Etcd(e) => Client::Etcd(e.connect(None).await?),
        })
    }

    /// Watch number `number` of a space; `receive`: the size of the socket's receive buffer.
    pub async fn watch(&self, number: usize, space: &str, receive: Option<u32>) -> Result<Watch> {
        Ok(match self {
            Peer::Portreeve(p) => Watch::Portreeve(Box::new(p.watch(number, space, receive).await?)),
            Peer::Etcd(e) => Watch::Etcd(e.connect(receive).await?.watch(&format!("bench/{space}/")).await?),
        })
    }
}

impl Client {
    pub async fn create(&mut self, space: &str, name: &str) -> Result<()> {
        let body = object(name, "");
        match self {
            Client::Portreeve(http) => {
                let path = format!("/api/v1/namespaces/{space}/configmaps");
                http.call("POST", &path, body.as_bytes()).await.map(drop)
            }
            Client::Etcd(grpc) => grpc.put(&format!("bench/{space}/{name}"), body.as_bytes()).await,
        }
    }

    /// Replaces an object by one with this text.
    pub async fn replace(&mut self, space: &str, name: &str, text: &str) -> Result<()> {
        let body = object(name, text);
        match self {
            Client::Portreeve(http) => {
                let path = format!("/api/v1/namespaces/{space}/configmaps/{name}");
                http.call("PUT", &path, body.as_bytes()).await.map(drop)
            }
            Client::Etcd(grpc) => grpc.put(&format!("bench/{space}/{name}"), body.as_bytes()).await,
        }
    }

    /// The bytes of a list; `limit` 0: of all.
    pub async fn list(&mut self, space: &str, limit: u64) -> Result<usize> {
        match self {
            Client::Portreeve(http) => {
                let limit = if limit > 0 { format!("?limit={limit}") } else { String::new() };
                let path = format!("/api/v1/namespaces/{space}/configmaps{limit}");
                Ok(http.call("GET", &path, b"").await?.len())
            }
            Client::Etcd(grpc) => grpc.range(&format!("bench/{space}/"), limit).await,
        }
    }
}

impl Watch {
    pub async fn next(&mut self, to: &mut Vec<u8>) -> Result<()> {
        match self {
            Watch::Portreeve(http) => to.extend_from_slice(&http.next().await?),
            Watch::Etcd(watching) => to.extend_from_slice(&watching.next().await?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_the_size_that_is_told() {
        assert_eq!(object("a", "").len(), SIZE);
        assert_eq!(object("a-longer-name", "@@1@@").len(), SIZE);
    }
}
