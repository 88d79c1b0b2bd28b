//! Pages that come through the proxy keep their links inside it. Start at [`Rewrite`].
// upstream: apimachinery pkg/util/proxy, transport.go
use crate::body::{Body, BoxError};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full, Limited};
use std::borrow::Cow;
use std::io::{self, Read, Write};

/// The largest page that is read to change its links, in bytes.
const LARGEST_PAGE: usize = 64 << 20;

/// Which attributes of which elements hold URLs.
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

/// Where a proxied page is for the client, and where it is in truth.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// The path of the proxied root, without a slash at its end.
    pub prefix: String,
    /// `host:port` of the backend.
    pub backend: String,
    /// The `Host` that the client asked for.
    pub host: String,
}

impl Rewrite {
    /// What the backend is told about where its page is.
    pub fn headers(&self, path: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Ok(uri) = HeaderValue::try_from(format!("{}/{}", self.prefix, path.trim_start_matches('/'))) {
            headers.insert("x-forwarded-uri", uri);
        }
        headers
    }

    /// The answer with its redirection or its links leading through the proxy.
    pub async fn apply(&self, response: Response<Body>) -> Result<Response<Body>, BoxError> {
        let (mut parts, body) = response.into_parts();
        if let Some(location) = parts.headers.get(LOCATION).and_then(|value| value.to_str().ok()) {
            let location = HeaderValue::try_from(self.url(location).as_ref())?;
            parts.headers.insert(LOCATION, location);
            return Ok(Response::from_parts(parts, body));
        }
        let text =
            |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        let page = text(CONTENT_TYPE).split(';').next().is_some_and(|kind| kind.trim() == "text/html");
        let Some(coding) = Coding::of(text(CONTENT_ENCODING)).filter(|_| page) else {
            return Ok(Response::from_parts(parts, body));
        };
        let bytes = Limited::new(body, LARGEST_PAGE).collect().await?.to_bytes();
        if bytes.is_empty() {
            return Ok(Response::from_parts(parts, Body::empty()));
        }
        let changed = coding.encode(&self.html(&coding.decode(&bytes)?))?;
        parts.headers.remove(CONTENT_LENGTH);
        let body = Full::new(changed.into()).map_err(|never| match never {});
        Ok(Response::from_parts(parts, Body::stream(body)))
    }

    /// The page with the URLs of its elements changed; all else stays byte for byte.
    fn html(&self, page: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(page.len() + page.len() / 8);
        let mut rest = page;
        while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
            let (before, tag) = rest.split_at(at);
            out.extend_from_slice(before);
            if tag.starts_with(b"<!--") {
                let end = find(tag, b"-->").map_or(tag.len(), |end| end + 3);
                out.extend_from_slice(&tag[..end]);
                rest = &tag[end..];
                continue;
            }
            rest = self.tag(tag, &mut out);
        }
        out.extend_from_slice(rest);
        out
    }

    /// Writes the tag that `text` begins with; returns what follows it.
    fn tag<'a>(&self, text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let name_end = 1 + text.iter().skip(1).take_while(|byte| byte.is_ascii_alphanumeric()).count();
        let name = String::from_utf8_lossy(&text[1..name_end]).to_ascii_lowercase();
        let urls = ATTRIBUTES.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, urls)| *urls);
        out.extend_from_slice(&text[..name_end]);
        if urls.is_empty() {
            return &text[name_end..];
        }
        let mut rest = &text[name_end..];
        loop {
            let space = rest.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == b'/').count();
            out.extend_from_slice(&rest[..space]);
            rest = &rest[space..];
            if matches!(rest.first(), None | Some(b'>')) {
                return rest;
            }
            let ends = |byte: &&u8| !byte.is_ascii_whitespace() && !b"=>/".contains(byte);
            // An attribute's name may begin with a sign that would end it.
            let key_end = (1 + rest.iter().skip(1).take_while(ends).count()).min(rest.len());
            let (key, after) = rest.split_at(key_end);
            out.extend_from_slice(key);
            let gap = after.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            if after.get(gap) != Some(&b'=') {
                rest = after;
                continue;
            }
            let sign = gap + 1 + after[gap + 1..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            out.extend_from_slice(&after[..sign]);
            let (value, quoted) = value(&after[sign..]);
            let is_url = urls.iter().any(|url| key.eq_ignore_ascii_case(url.as_bytes()));
            match value.and_then(|value| std::str::from_utf8(value).ok()).filter(|_| is_url) {
                Some(url) => {
                    let quote = &after[sign..sign + usize::from(quoted > url.len())];
                    out.extend_from_slice(quote);
                    out.extend_from_slice(self.url(url).as_bytes());
                    out.extend_from_slice(quote);
                }
                None => out.extend_from_slice(&after[sign..sign + quoted]),
            }
            rest = &after[sign + quoted..];
        }
    }

    /// A URL as a client of the proxy must say it; others than absolute ones of the same host stay.
    fn url<'a>(&self, url: &'a str) -> Cow<'a, str> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        let scheme =
            scheme.filter(|scheme| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)));
        let (host, path) = match (scheme, url.strip_prefix("//")) {
            (Some(scheme), _) => split_host(&url[scheme.len() + 3..]),
            (None, Some(rest)) => split_host(rest),
            (None, None) => ("", url),
        };
        let other = !host.is_empty() && host != self.backend && host != self.host;
        if other || !path.starts_with('/') {
            return Cow::Borrowed(url);
        }
        let front = if !host.is_empty() && host == self.host { &url[..url.len() - path.len()] } else { "" };
        if path.starts_with(&self.prefix) {
            return Cow::Owned(format!("{front}{path}"));
        }
        Cow::Owned(format!("{front}{}{path}", self.prefix))
    }
}

/// The host and what follows it.
fn split_host(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

/// An attribute's value at the beginning of `text`, and its length with the quotes; `None` if the page ends within.
fn value(text: &[u8]) -> (Option<&[u8]>, usize) {
    match text.first() {
        Some(quote @ (b'"' | b'\'')) => {
            let inner = &text[1..];
            match inner.iter().position(|byte| byte == quote) {
                Some(end) => (Some(&inner[..end]), end + 2),
                None => (None, text.len()),
            }
        }
        _ => {
            let end = text.iter().take_while(|byte| !byte.is_ascii_whitespace() && **byte != b'>').count();
            (Some(&text[..end]), end)
        }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// How a page is packed.
#[derive(Clone, Copy, Debug)]
enum Coding {
    Plain,
    Gzip,
    Deflate,
}

impl Coding {
    fn of(name: &str) -> Option<Self> {
        match name {
            "" => Some(Coding::Plain),
            "gzip" => Some(Coding::Gzip),
            "deflate" => Some(Coding::Deflate),
            _ => None,
        }
    }

    fn decode(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let limit = LARGEST_PAGE as u64;
        match self {
            Coding::Plain => return Ok(bytes.to_vec()),
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).take(limit).read_to_end(&mut out)?,
            Coding::Deflate => flate2::read::DeflateDecoder::new(bytes).take(limit).read_to_end(&mut out)?,
        };
        Ok(out)
    }

    fn encode(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Coding::Plain => Ok(bytes.to_vec()),
            Coding::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(bytes)?;
                out.finish()
            }
            Coding::Deflate => {
                let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(bytes)?;
                out.finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite() -> Rewrite {
        Rewrite { prefix: "/p/proxy".into(), backend: "10.0.0.1:80".into(), host: "localhost:6443".into() }
    }

    #[test]
    fn links_to_the_same_host_lead_through_the_proxy_and_others_stay() {
        for (url, wanted) in [
            ("/x", "/p/proxy/x"),
            ("/x?q#f", "/p/proxy/x?q#f"),
            ("/p/proxy/x", "/p/proxy/x"),
            ("x/y", "x/y"),
            ("#top", "#top"),
            ("http://10.0.0.1:80/x", "/p/proxy/x"),
            ("https://localhost:6443/x", "https://localhost:6443/p/proxy/x"),
            ("https://example.com/x", "https://example.com/x"),
            ("//example.com/x", "//example.com/x"),
            ("mailto:a@b", "mailto:a@b"),
        ] {
            assert_eq!(rewrite().url(url), wanted, "{url}");
        }
    }

    #[test]
    fn only_the_urls_of_a_page_change() {
        let page = "<!-- <a href=\"/c\"> --><p title='/no'>1 < 2 <a class=x href=\"/a\">t</a><IMG SRC=/b alt='/no'/>\
                    <form action='/f' data></form><a href=\"/unfinished";
        let wanted = "<!-- <a href=\"/c\"> --><p title='/no'>1 < 2 <a class=x href=\"/p/proxy/a\">t</a>\
                      <IMG SRC=/p/proxy/b alt='/no'/><form action='/p/proxy/f' data></form><a href=\"/unfinished";
        assert_eq!(String::from_utf8(rewrite().html(page.as_bytes())).unwrap(), wanted);
    }

    #[test]
    fn any_bytes_pass_without_a_panic() {
        for page in [
            &b"<"[..],
            b"<a",
            b"<a ",
            b"<a href",
            b"<a href=",
            b"<a href='",
            b"<a =",
            b"<a /",
            b"<a \xff=\xfe>",
            b"<!--",
        ] {
            assert_eq!(rewrite().html(page), page);
        }
    }

    #[tokio::test]
    async fn packed_pages_are_changed_too() {
        for coding in [Coding::Gzip, Coding::Deflate] {
            let packed = coding.encode(b"<a href='/x'>").unwrap();
            assert_eq!(coding.decode(&packed).unwrap(), b"<a href='/x'>");
        }
        let name = HeaderValue::from_static("text/html; charset=utf-8");
        let packed = Coding::Gzip.encode(b"<a href='/x'>").unwrap();
        let body = Body::stream(Full::new(packed.into()).map_err(|never| match never {}));
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, name);
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let answer = rewrite().apply(response).await.unwrap();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(Coding::Gzip.decode(&bytes).unwrap(), b"<a href='/p/proxy/x'>");
    }
}
