//! Header blocks: names and values, compressed with one zlib state per direction for the whole connection.
//!
//! Pure. A block that is inflated must be small, whatever its compressed size: a bomb is an error, not memory.

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;

/// Inflated, with names, values and their lengths.
pub const MOST_BYTES: usize = 64 << 10;
const MOST_HEADERS: usize = 128;

/// The dictionary of SPDY/3 begins with these words, each after its length in four bytes.
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
/// … and ends with this text.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
    Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct \
    Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=\
    utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        put_text(&mut bytes, word);
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
});

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// The headers of a stream. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn parse(mut bytes: &[u8]) -> Result<Headers, SpdyError> {
        const SHORT: SpdyError = SpdyError::Protocol("a header block that is cut off");
        let number = |bytes: &mut &[u8]| -> Result<usize, SpdyError> {
            let (head, rest) = bytes.split_first_chunk::<4>().ok_or(SHORT)?;
            *bytes = rest;
            Ok(u32::from_be_bytes(*head) as usize)
        };
        let text = |bytes: &mut &[u8]| -> Result<String, SpdyError> {
            let length = number(bytes)?;
            let (head, rest) = bytes.split_at_checked(length).ok_or(SHORT)?;
            *bytes = rest;
            String::from_utf8(head.to_vec()).map_err(|_| SpdyError::Protocol("a header that is no text"))
        };
        let count = number(&mut bytes)?;
        if count > MOST_HEADERS {
            return Err(SpdyError::Protocol("too many headers"));
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            headers.push((text(&mut bytes)?, text(&mut bytes)?));
        }
        Ok(Headers(headers))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = u32::try_from(self.0.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        for (name, value) in &self.0 {
            put_text(&mut bytes, name);
            put_text(&mut bytes, value);
        }
        bytes
    }
}

/// The receiving side's state.
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Inflater {
        Inflater(Decompress::new(true))
    }
}

impl Inflater {
    pub fn headers(&mut self, mut block: &[u8]) -> Result<Headers, SpdyError> {
        const BROKEN: SpdyError = SpdyError::Protocol("a header block that does not inflate");
        let mut out = Vec::with_capacity(1024);
        loop {
            let (read, written) = (self.0.total_in(), out.len());
            let result = self.0.decompress_vec(block, &mut out, FlushDecompress::Sync);
            let used = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            block = block.get(used..).unwrap_or_default();
            match result {
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err(BROKEN),
                Err(e) if e.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| BROKEN)?;
                    continue;
                }
                Err(_) => return Err(BROKEN),
            }
            if out.len() > MOST_BYTES {
                return Err(SpdyError::Protocol("a header block that is too large"));
            }
            if out.len() == out.capacity() {
                out.reserve(4096);
            } else if block.is_empty() {
                return Headers::parse(&out);
            } else if used == 0 && out.len() == written {
                return Err(BROKEN);
            }
        }
    }
}

/// The sending side's state.
pub struct Deflater(Compress);

impl Default for Deflater {
    fn default() -> Deflater {
        // Replies hold next to nothing: the smallest window that takes the dictionary.
        let mut state = Compress::new_with_window_bits(Compression::fast(), true, 11);
        state.set_dictionary(&DICTIONARY).expect("a fresh state takes a dictionary");
        Deflater(state)
    }
}

impl Deflater {
    pub fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let bytes = headers.bytes();
        let mut rest = bytes.as_slice();
        let mut out = Vec::with_capacity(64 + bytes.len());
        loop {
            let before = self.0.total_in();
            self.0.compress_vec(rest, &mut out, FlushCompress::Sync).expect("the state is never finished");
            rest = &rest[usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX).min(rest.len())..];
            // A flush is complete only when it leaves room.
            if rest.is_empty() && out.len() < out.capacity() {
                return out;
            }
            out.reserve(256);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn the_dictionary_is_that_of_the_draft() {
        assert_eq!(DICTIONARY.len(), 1423);
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in DICTIONARY.iter() {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2, "the Adler-32 that every peer names in its first block");
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = Deflater::default().block(&headers(&[("a", &"x".repeat(MOST_BYTES))]));
        assert!(bomb.len() < 1000, "{}", bomb.len());
        assert!(Inflater::default().headers(&bomb).is_err());
        let many: Vec<_> = (0..=MOST_HEADERS).map(|_| ("", "")).collect();
        assert!(Inflater::default().headers(&Deflater::default().block(&headers(&many))).is_err());
        assert!(Inflater::default().headers(b"nonsense").is_err());
        assert!(Inflater::default().headers(b"").is_err());
    }

    proptest! {
        #[test]
        fn blocks_of_one_connection_come_back(
            blocks in prop::collection::vec(prop::collection::vec(("[a-z]{0,12}", ".{0,300}"), 0..6), 1..6)
        ) {
            let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
            for block in blocks {
                let sent = Headers(block);
                prop_assert_eq!(inflater.headers(&deflater.block(&sent)).unwrap(), sent);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), prefix in any::<bool>()) {
            let mut all = if prefix { Deflater::default().block(&headers(&[("port", "80")])) } else { vec![] };
            all.extend(bytes);
            let _ = Inflater::default().headers(&all);
        }
    }
}
