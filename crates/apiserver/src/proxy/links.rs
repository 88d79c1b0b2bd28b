//! Links of proxied answers, so that a browser stays below the proxy's path: `Location`, and URLs in HTML. Start at
//! [`Links::rewrite`].
// upstream: apimachinery pkg/util/proxy, Transport
use crate::body::{Body, BoxError};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Response};
use http_body::Frame;
use lol_html::html_content::Element;
use lol_html::send::{HtmlRewriter, Settings};
use lol_html::{MemorySettings, OutputSink, element};
use parking_lot::Mutex;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// How much of a page may be held back while a tag is not complete, in bytes.
const HELD_BACK: usize = 1 << 20;

/// The attributes that hold URLs, by element.
const ATTRIBUTES: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where links of one answer lead.
#[derive(Clone, Debug)]
pub struct Links {
    /// The path of the proxy: what stands before the backend's own paths.
    pub prefix: String,
    /// The backend, `host:port`.
    pub backend: String,
    /// The host that the client asked for.
    pub requested: String,
}

impl Links {
    /// The answer with its links below the proxy's path.
    pub fn rewrite(self, mut response: Response<Body>) -> Response<Body> {
        let text = |headers: &HeaderMap, name| {
            headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).map(str::to_owned)
        };
        if let Some(location) = text(response.headers(), LOCATION) {
            if let Some(new) = self.through(&location).and_then(|new| HeaderValue::try_from(new).ok()) {
                response.headers_mut().insert(LOCATION, new);
            }
            return response;
        }
        let kind = text(response.headers(), CONTENT_TYPE).unwrap_or_default();
        if kind.split(';').next().map(str::trim) != Some("text/html") {
            return response;
        }
        let gzip = match text(response.headers(), CONTENT_ENCODING).as_deref() {
            None | Some("" | "identity") => false,
            Some("gzip") => true,
            Some(other) => {
                tracing::debug!(encoding = other, "links of a proxied page stay as they are");
                return response;
            }
        };
        response.headers_mut().remove(CONTENT_LENGTH);
        let (parts, body) = response.into_parts();
        Response::from_parts(parts, Body::stream(Page { body, pipe: Some(Pipe::new(self, gzip)) }))
    }

    /// The link through the proxy; none if it leads elsewhere, is relative, or leads through the proxy already.
    fn through(&self, link: &str) -> Option<String> {
        let (origin, path) = split(link);
        let host = origin.rsplit('/').next().unwrap_or_default();
        let ours = host.is_empty() || host == self.backend || host == self.requested;
        if !ours || !path.starts_with('/') {
            return None;
        }
        // The client's own host stays in the link, the backend's does not.
        let origin = if !host.is_empty() && host == self.requested { origin } else { "" };
        let prefixed = if path.starts_with(&self.prefix) { path.to_owned() } else { format!("{}{path}", self.prefix) };
        Some(format!("{origin}{prefixed}")).filter(|new| new != link)
    }

    fn rewrite_element(&self, element: &mut Element<'_, '_, impl lol_html::HandlerTypes>) {
        let tag = element.tag_name();
        let Some((_, names)) = ATTRIBUTES.iter().find(|(name, _)| *name == tag) else { return };
        for name in *names {
            if let Some(new) = element.get_attribute(name).and_then(|link| self.through(&link))
                && let Err(error) = element.set_attribute(name, &new)
            {
                tracing::debug!(%error, "a link of a proxied page stays as it is");
            }
        }
    }
}

/// `scheme://host` or `//host` (empty if there is none), and the rest.
fn split(link: &str) -> (&str, &str) {
    let start = match link.find("//") {
        Some(0) => 2,
        Some(at) if link[..at].ends_with(':') && !link[..at].contains(['/', '?', '#']) => at + 2,
        _ => return ("", link),
    };
    let end = link[start..].find(['/', '?', '#']).map_or(link.len(), |at| start + at);
    link.split_at(end)
}

/// What the rewriter has put out and nobody has taken yet.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock())
    }
}

impl OutputSink for Output {
    fn handle_chunk(&mut self, chunk: &[u8]) {
        self.0.lock().extend_from_slice(chunk);
    }
}

/// Unpacks what comes and packs what goes.
type Gzip = (MultiGzDecoder<Vec<u8>>, GzEncoder<Vec<u8>>);

/// Bytes of a page in, bytes of the rewritten page out.
struct Pipe {
    rewriter: HtmlRewriter<'static, Output>,
    output: Output,
    gzip: Option<Gzip>,
}

impl Pipe {
    fn new(links: Links, gzip: bool) -> Self {
        let output = Output::default();
        let settings = Settings::new_send()
            .append_element_content_handler(element!("*", move |element| {
                links.rewrite_element(element);
                Ok(())
            }))
            .with_memory_settings(MemorySettings::new().with_max_allowed_memory_usage(HELD_BACK))
            .with_strict(false);
        let coders = || (MultiGzDecoder::new(Vec::new()), GzEncoder::new(Vec::new(), Compression::fast()));
        Pipe { rewriter: HtmlRewriter::new(settings, output.clone()), output, gzip: gzip.then(coders) }
    }

    fn write(&mut self, chunk: &[u8]) -> Result<Vec<u8>, BoxError> {
        let Some((decoder, encoder)) = &mut self.gzip else {
            self.rewriter.write(chunk)?;
            return Ok(self.output.take());
        };
        decoder.write_all(chunk)?;
        self.rewriter.write(&std::mem::take(decoder.get_mut()))?;
        encoder.write_all(&self.output.take())?;
        Ok(std::mem::take(encoder.get_mut()))
    }

    fn end(mut self) -> Result<Vec<u8>, BoxError> {
        if let Some((decoder, _)) = &mut self.gzip {
            decoder.try_finish()?;
            self.rewriter.write(&std::mem::take(decoder.get_mut()))?;
        }
        self.rewriter.end()?;
        match self.gzip {
            None => Ok(self.output.take()),
            Some((_, mut encoder)) => {
                encoder.write_all(&self.output.take())?;
                Ok(encoder.finish()?)
            }
        }
    }
}

/// The body of a page while it is rewritten.
struct Page {
    body: Body,
    /// `None` after the end.
    pipe: Option<Pipe>,
}

impl http_body::Body for Page {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let page = self.get_mut();
        loop {
            let Some(pipe) = &mut page.pipe else { return Poll::Ready(None) };
            let frame = ready!(Pin::new(&mut page.body).poll_frame(cx)).transpose()?;
            let out = match frame.map(Frame::into_data) {
                Some(Ok(data)) => pipe.write(&data)?,
                // Trailers describe the bytes as they were.
                Some(Err(_)) => continue,
                None => match page.pipe.take() {
                    Some(pipe) => pipe.end()?,
                    None => return Poll::Ready(None),
                },
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::io::Read;

    fn links() -> Links {
        Links {
            prefix: "/api/v1/namespaces/a/pods/p:80/proxy".into(),
            backend: "10.0.0.1:80".into(),
            requested: "localhost:8001".into(),
        }
    }

    #[test]
    fn only_links_to_the_backend_lead_through_the_proxy() {
        let through = |link: &str| links().through(link);
        let proxied = "/api/v1/namespaces/a/pods/p:80/proxy/x?y=/z";
        assert_eq!(through("/x?y=/z").as_deref(), Some(proxied));
        assert_eq!(through("http://10.0.0.1:80/x?y=/z").as_deref(), Some(proxied));
        assert_eq!(through("http://localhost:8001/x?y=/z"), Some(format!("http://localhost:8001{proxied}")));
        for kept in
            [proxied, "x", "../x", "#part", "http://example.org/x", "//example.org/x", "mailto:a@b", "?q=//x", ""]
        {
            assert_eq!(through(kept), None, "{kept}");
        }
    }

    fn page(body: &[u8], encoding: Option<&'static str>) -> Response<Body> {
        let frames: Vec<Result<Frame<Bytes>, BoxError>> =
            body.chunks(7).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
        let body = Body::stream(http_body_util::StreamBody::new(futures::stream::iter(frames)));
        let mut response = Response::builder().header(CONTENT_TYPE, "text/html; charset=utf-8");
        if let Some(encoding) = encoding {
            response = response.header(CONTENT_ENCODING, encoding);
        }
        response.body(body).unwrap()
    }

    const PAGE: &str = "<p class=/x>é<a href=\"/rewriteme\">test</a><img src='logo.png'>";
    const REWRITTEN: &str =
        "<p class=/x>é<a href=\"/api/v1/namespaces/a/pods/p:80/proxy/rewriteme\">test</a><img src='logo.png'>";

    #[tokio::test]
    async fn pages_are_rewritten_as_they_come_in_pieces() {
        let body = links().rewrite(page(PAGE.as_bytes(), None)).into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, REWRITTEN);
    }

    #[tokio::test]
    async fn compressed_pages_are_rewritten_and_others_pass() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(PAGE.as_bytes()).unwrap();
        let compressed = gzip.finish().unwrap();
        let body = links().rewrite(page(&compressed, Some("gzip"))).into_body().collect().await.unwrap().to_bytes();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, REWRITTEN);
        let body = links().rewrite(page(&compressed, Some("br"))).into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, compressed);
    }

    #[test]
    fn redirects_lead_through_the_proxy() {
        let response = Response::builder().header(LOCATION, "/login/").body(Body::empty()).unwrap();
        let location = links().rewrite(response).headers()[LOCATION].clone();
        assert_eq!(location, "/api/v1/namespaces/a/pods/p:80/proxy/login/");
    }
}
