//! Request bodies as typed clients in Go send them: protobuf in Kubernetes' envelope.

/// The header of such a body.
pub const PROTOBUF: [(&str, &str); 1] = [("content-type", "application/vnd.kubernetes.protobuf")];

/// A field of bytes: text, or another message.
pub fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        field.push(0x80 | u8::try_from(length & 0x7f).expect("seven bits"));
        length >>= 7;
    }
    field.push(u8::try_from(length).expect("seven bits"));
    field.extend(content);
    field
}

/// An object of a kind, whose fields are `raw`, in `runtime.Unknown`.
pub fn message(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let types = [bytes(1, version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), bytes(1, &types), bytes(2, raw), bytes(3, b""), bytes(4, b"")].concat()
}
