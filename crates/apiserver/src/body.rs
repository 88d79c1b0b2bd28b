//! Bodies of requests and responses. [`Body`] hands out encoded bytes without copying them where it can.
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, from the network or from within the process.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// How large a chunk of a joined list grows before it is handed to the connection.
const CHUNK: usize = 64 << 10;

/// A request body of `bytes`.
pub fn request_body(bytes: impl Into<Bytes>) -> RequestBody {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A response body.
#[derive(Debug)]
pub struct Body(Kind);

enum Kind {
    Full(Bytes),
    Joined(Joined),
    Gzip(Box<GzipJoined>),
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>),
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Full(_) => "Full",
            Kind::Joined(_) => "Joined",
            Kind::Gzip(_) => "Gzip",
            Kind::Stream(_) => "Stream",
        })
    }
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Body(Kind::Full(Bytes::new()))
    }

    /// Whatever another body gives.
    pub fn stream(body: impl http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static) -> Self {
        Body(Kind::Stream(Box::pin(body)))
    }

    /// `head`, `parts` each after `opening` and separated by commas, `tail`: joined in chunks while they are sent, never
    /// all at once.
    pub fn joined(head: Vec<u8>, opening: &'static str, parts: Vec<Bytes>, tail: &'static str) -> Self {
        Body(Kind::Joined(Joined { head, opening, parts: parts.into_iter(), first: true, tail: Some(tail) }))
    }

    /// The length, where it is known before anything is sent.
    pub fn known_length(&self) -> Option<usize> {
        match &self.0 {
            Kind::Full(bytes) => Some(bytes.len()),
            Kind::Joined(joined) => Some(joined.length()),
            Kind::Gzip(_) | Kind::Stream(_) => None,
        }
    }

    /// All of it, if it is at hand and nothing has been sent.
    pub(crate) fn content(&self) -> Option<Bytes> {
        match &self.0 {
            Kind::Full(bytes) => Some(bytes.clone()),
            Kind::Joined(joined) => Some(joined.content()),
            Kind::Gzip(gzip) => Some(gzip.joined.content()),
            Kind::Stream(_) => None,
        }
    }

    /// The same content; `held` is let go when it has been sent or nobody waits for it any more.
    pub(crate) fn holding(self, held: impl Send + Unpin + 'static) -> Self {
        Body::stream(Holding { body: self, _held: held })
    }

    /// The same content, compressed as `Content-Encoding: gzip` says; streams stay as they are.
    pub fn gzip(self) -> Self {
        let joined = match self.0 {
            Kind::Full(bytes) => {
                let parts = vec![bytes].into_iter();
                Joined { head: Vec::new(), opening: "", parts, first: true, tail: None }
            }
            Kind::Joined(joined) => joined,
            other => return Body(other),
        };
        // Level 1 as upstream: large answers are worth little processor time.
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        Body(Kind::Gzip(Box::new(GzipJoined { joined, encoder: Some(encoder) })))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body(Kind::Full(bytes))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body(Kind::Full(bytes.into()))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body(Kind::Full(text.into()))
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Body(Kind::Full(Bytes::from_static(text.as_bytes())))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let chunk = match &mut self.0 {
            Kind::Full(bytes) => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()).map(Ok),
            Kind::Joined(joined) => joined.next_chunk().map(Ok),
            Kind::Gzip(gzip) => gzip.next_chunk().transpose(),
            Kind::Stream(body) => return Poll::Ready(ready!(body.as_mut().poll_frame(cx))),
        };
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data).map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Stream(body) => body.is_end_stream(),
            Kind::Joined(_) | Kind::Gzip(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.0, self.known_length()) {
            (_, Some(length)) => SizeHint::with_exact(length as u64),
            (Kind::Stream(body), _) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> http_body::Body for Holding<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Joined {
    head: Vec<u8>,
    opening: &'static str,
    parts: std::vec::IntoIter<Bytes>,
    first: bool,
    tail: Option<&'static str>,
}

impl Joined {
    fn length(&self) -> usize {
        let parts = self.parts.as_slice();
        let commas = if self.first { parts.len().saturating_sub(1) } else { parts.len() };
        let openings = parts.len() * self.opening.len();
        let content: usize = parts.iter().map(Bytes::len).sum();
        self.head.len() + openings + content + commas + self.tail.map_or(0, str::len)
    }

    fn content(&self) -> Bytes {
        let mut content = Vec::with_capacity(self.length());
        content.extend_from_slice(&self.head);
        for (i, part) in self.parts.as_slice().iter().enumerate() {
            if i > 0 || !self.first {
                content.push(b',');
            }
            content.extend_from_slice(self.opening.as_bytes());
            content.extend_from_slice(part);
        }
        content.extend_from_slice(self.tail.unwrap_or_default().as_bytes());
        content.into()
    }

    fn next_chunk(&mut self) -> Option<Bytes> {
        let mut chunk = BytesMut::with_capacity(CHUNK.min(self.length()));
        chunk.extend_from_slice(&std::mem::take(&mut self.head));
        while chunk.len() < CHUNK {
            let Some(part) = self.parts.next() else {
                chunk.extend_from_slice(self.tail.take().unwrap_or_default().as_bytes());
                break;
            };
            if !std::mem::take(&mut self.first) {
                chunk.extend_from_slice(b",");
            }
            chunk.extend_from_slice(self.opening.as_bytes());
            chunk.extend_from_slice(&part);
        }
        Some(chunk.freeze()).filter(|chunk| !chunk.is_empty())
    }
}

struct GzipJoined {
    joined: Joined,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl GzipJoined {
    fn next_chunk(&mut self) -> std::io::Result<Option<Bytes>> {
        while let Some(encoder) = &mut self.encoder {
            let Some(chunk) = self.joined.next_chunk() else {
                return self.encoder.take().map(GzEncoder::finish).transpose().map(|rest| rest.map(Bytes::from));
            };
            encoder.write_all(&chunk)?;
            let out = std::mem::take(encoder.get_mut());
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    async fn collect(body: Body) -> Vec<u8> {
        body.collect().await.unwrap().to_bytes().to_vec()
    }

    fn list(items: usize) -> Body {
        let parts = (0..items).map(|i| Bytes::from(format!("\"i\":{i},\"pad\":\"{}\"}}", "x".repeat(100)))).collect();
        Body::joined(b"{\"items\":[".to_vec(), "{", parts, "]}")
    }

    #[tokio::test]
    async fn a_joined_list_is_one_document_of_the_announced_length() {
        for items in [0, 1, 2, 5000] {
            let length = list(items).known_length().unwrap();
            let whole = list(items).content().unwrap();
            let bytes = collect(list(items)).await;
            assert_eq!(bytes, whole);
            assert_eq!(bytes.len(), length);
            let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(document["items"].as_array().unwrap().len(), items);
        }
    }

    #[tokio::test]
    async fn gzip_keeps_the_content() {
        let mut plain = Vec::new();
        let packed = collect(list(3000).gzip()).await;
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, collect(list(3000)).await);
    }
}
