//! Large answers in gzip, as kube-apiserver gives them: JSON of 128 KiB and more, when the client says that it takes gzip.
//!
//! What is of unknown length (watches, followed logs, sessions) is never touched: an encoder would hold back what is to be
//! seen at once. Each piece is encoded when the client takes it, so that one answer costs a bounded time of a thread
//! and a bounded memory; when many are under way, further ones go out as they are.

use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, header};
use hyper::body::{Body as _, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Answers of fewer bytes are not worth it.
const LEAST: u64 = 128 << 10;
/// Most answers being encoded at a time; each holds about 300 KiB for its encoder.
const AT_ONCE: usize = 32;
/// Encoded at a time: about a millisecond.
const PIECE: usize = 64 << 10;

/// Room for encoders, shared by all requests of a server.
#[derive(Clone)]
pub struct Encoders(Arc<Semaphore>);

impl Encoders {
    pub fn new() -> Encoders {
        Encoders(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

/// Middleware: encodes what is worth it.
pub async fn large(State(encoders): State<Encoders>, request: Request, next: Next) -> Response {
    let taken = takes_gzip(request.headers());
    let mut response = next.run(request).await;
    if !is_large_json(&response) {
        return response;
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    let Some(permit) = taken.then(|| encoders.0.try_acquire_owned().ok()).flatten() else { return response };
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    // The same content in other bytes: a strong tag would say that they are the same.
    let tag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).filter(|tag| !tag.starts_with("W/"));
    if let Some(weak) = tag.and_then(|tag| HeaderValue::from_str(&format!("W/{tag}")).ok()) {
        headers.insert(header::ETAG, weak);
    }
    response.map(|body| {
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        Body::new(Encoded { body, piece: Bytes::new(), encoder: Some(encoder), _permit: permit })
    })
}

fn is_large_json(response: &Response) -> bool {
    let headers = response.headers();
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    response.body().size_hint().exact().is_some_and(|bytes| bytes >= LEAST)
        && media_type.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("application/json"))
        && !headers.contains_key(header::CONTENT_ENCODING)
}

/// Whether the client names gzip, and with a weight that is not 0. `*` is not taken at its word, as by kube-apiserver.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let named = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    named.flat_map(|v| v.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refused = parts.filter_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q="))).any(|weight| {
            // What is no number is no wish either.
            weight.trim().parse::<f32>().is_ok_and(|w| w <= 0.0)
        });
        gzip && !refused
    })
}

/// A body as its encoder makes it.
struct Encoded {
    body: Body,
    /// Of the body, not yet encoded.
    piece: Bytes,
    /// `None` once all of it was given out.
    encoder: Option<GzEncoder<Vec<u8>>>,
    _permit: OwnedSemaphorePermit,
}

impl Encoded {
    /// Encodes the next part of the piece; empty when the encoder keeps it all for now.
    fn encode(&mut self) -> std::io::Result<Bytes> {
        let Some(encoder) = &mut self.encoder else { return Ok(Bytes::new()) };
        let part = self.piece.split_to(self.piece.len().min(PIECE));
        encoder.write_all(&part)?;
        Ok(std::mem::take(encoder.get_mut()).into())
    }
}

impl hyper::body::Body for Encoded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            if self.encoder.is_none() {
                return Poll::Ready(None);
            }
            if !self.piece.is_empty() {
                match self.encode() {
                    Ok(encoded) if encoded.is_empty() => {
                        // A piece that compresses to nothing yet: let others have the thread before the next one.
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Ok(encoded) => return Poll::Ready(Some(Ok(Frame::data(encoded)))),
                    Err(e) => {
                        self.encoder = None;
                        return Poll::Ready(Some(Err(axum::Error::new(e))));
                    }
                }
            }
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.piece = data;
                    }
                }
                Some(Err(e)) => {
                    // Without its end the client sees that it is broken off.
                    self.encoder = None;
                    return Poll::Ready(Some(Err(e)));
                }
                None => {
                    let Some(encoder) = self.encoder.take() else { return Poll::Ready(None) };
                    let last = encoder.finish().map_err(axum::Error::new);
                    return Poll::Ready(Some(last.map(|bytes| Frame::data(bytes.into()))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use http_body_util::BodyExt;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn gzip_is_taken_when_it_is_named_and_not_refused() {
        for yes in ["gzip", "deflate, gzip;q=0.5", "br,GZIP", "gzip; q=1, *;q=0", "gzip;q=x"] {
            assert!(takes_gzip(&headers(yes)), "{yes}");
        }
        for no in ["", "identity", "*", "gzip;q=0", "gzip; q=0.0, br", "x-gzip", "gzipped"] {
            assert!(!takes_gzip(&headers(no)), "{no}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    /// What comes out for these frames, piece by piece.
    async fn encoded(frames: Vec<Bytes>) -> Vec<Bytes> {
        let body = Body::from_stream(futures::stream::iter(frames.into_iter().map(Ok::<_, std::io::Error>)));
        let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        let permit = Encoders::new().0.try_acquire_owned().unwrap();
        let mut encoded = Encoded { body, piece: Bytes::new(), encoder, _permit: permit };
        let mut pieces = vec![];
        while let Some(frame) = encoded.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        assert!(encoded.is_end_stream());
        pieces
    }

    #[tokio::test]
    async fn what_goes_in_comes_out() {
        for sizes in [vec![0], vec![1], vec![200_000], vec![PIECE, 1, 0, 3 * PIECE + 7], vec![5 << 20]] {
            // Noise, so that no size is compressed away, and zeros, which are.
            for noise in [0_u32, 1] {
                let mut state = 1_u32;
                let frames: Vec<Bytes> = sizes
                    .iter()
                    .map(|size| {
                        let byte = |_| {
                            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                            u8::try_from(state >> 24).unwrap() * u8::try_from(noise).unwrap()
                        };
                        (0..*size).map(byte).collect()
                    })
                    .collect();
                let pieces = encoded(frames.clone()).await;
                assert!(pieces.iter().all(|p| p.len() <= 2 * PIECE), "one piece at a time");
                let mut plain = vec![];
                GzDecoder::new(&pieces.concat()[..]).read_to_end(&mut plain).unwrap();
                assert!(plain == frames.concat(), "{sizes:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_has_no_end() {
        let frames = [Ok(Bytes::from(vec![7; 1000])), Err(std::io::Error::other("gone"))];
        let body = Body::from_stream(futures::stream::iter(frames));
        let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        let permit = Encoders::new().0.try_acquire_owned().unwrap();
        let encoded = Encoded { body, piece: Bytes::new(), encoder, _permit: permit };
        assert!(encoded.collect().await.is_err());
    }

    #[tokio::test]
    async fn without_room_for_an_encoder_an_answer_goes_out_as_it_is() {
        use tower::ServiceExt;

        let large_json = || async {
            let mut response = Response::new(Body::from(vec![b' '; 200 << 10]));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"t\""));
            response
        };
        let one = Encoders(Arc::new(Semaphore::new(1)));
        let app = axum::Router::new()
            .route("/", axum::routing::get(large_json))
            .layer(axum::middleware::from_fn_with_state(one, large));
        let ask = || {
            let request =
                Request::builder().uri("/").header(header::ACCEPT_ENCODING, "gzip").body(Body::empty()).unwrap();
            let app = app.clone();
            async move { app.oneshot(request).await.unwrap() }
        };
        let packed = |response: &Response| response.headers().contains_key(header::CONTENT_ENCODING);
        let first = ask().await;
        let second = ask().await;
        assert!(packed(&first) && !packed(&second));
        assert_eq!(
            (&first.headers()[header::ETAG], &second.headers()[header::ETAG]),
            (&"W/\"t\"".parse().unwrap(), &"\"t\"".parse().unwrap())
        );
        assert_eq!(second.into_body().collect().await.unwrap().to_bytes().len(), 200 << 10);
        drop(first);
        assert!(packed(&ask().await), "a client that has gone leaves its room");
    }
}
