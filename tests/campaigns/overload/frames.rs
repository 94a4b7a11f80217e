//! HTTP/2 as bytes: frames as an attacker writes them, and the few that one must read.
//! RFC 9113 for the frames, RFC 7541 for the fields of headers.

/// What a client says first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub(super) const HEAD: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is small");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The preface, and settings: of this window for each answer, unless it is the usual one.
pub(super) fn hello(window: Option<u32>) -> Vec<u8> {
    let mut settings = Vec::new();
    if let Some(window) = window {
        settings.extend([0, 4]);
        settings.extend(window.to_be_bytes());
    }
    [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()
}

/// The fields of a call's head.
pub(super) fn call(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A field as it is, which no table keeps.
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &text(name), &text(value)].concat()
}

/// A field that the table of the connection keeps: it is the 62nd from then on.
pub(super) fn kept_field(name: &str, value: &str) -> Vec<u8> {
    [&[0x40][..], &text(name), &text(value)].concat()
}

/// The field that was kept last, in one byte.
pub(super) const LAST_KEPT: u8 = 0x80 + 62;

/// A message of gRPC.
pub(super) fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a message is small");
    [&[0][..], &length.to_be_bytes(), bytes].concat()
}

/// A call with one message, whole.
pub(super) fn whole_call(stream: u32, path: &str, bytes: &[u8]) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, &call(path));
    [head, frame(DATA, END_STREAM, stream, &message(bytes))].concat()
}

/// What a frame that was read says: its kind, its flags, its payload, and how long it is
/// altogether. Nothing while it is not whole.
pub(super) fn read(bytes: &[u8]) -> Option<(u8, u8, &[u8], usize)> {
    let head = bytes.get(..HEAD)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let end = HEAD + usize::try_from(length).expect("24 bits fit");
    Some((head[3], head[4], bytes.get(HEAD..end)?, end))
}

/// A string, not compressed: its length in seven bits and then seven at a time.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = u32::try_from(text.len()).expect("a field is small");
    if length < 127 {
        bytes.push(u8::try_from(length).expect("seven bits fit"));
    } else {
        bytes.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).expect("seven bits fit") | 128);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).expect("seven bits fit"));
    }
    bytes.extend(text.as_bytes());
    bytes
}
