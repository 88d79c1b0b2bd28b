//! One HTTP/1.1 request to a backend. An upgrade that the backend accepts (WebSocket, SPDY) is passed through as bytes.
//! Start at [`Backend::send`].
use crate::body::{Body, BoxError, RequestBody};
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a backend may take to accept a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a backend did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("error dialing backend: dial tcp {address}: {source}")]
    Dial {
        /// Where to.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The connection broke before the answer.
    #[error("error sending request: {0}")]
    Http(#[from] hyper::Error),
    /// The request cannot be put together.
    #[error("error sending request: {0}")]
    Request(#[from] http::Error),
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Host name or address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// TLS, if the backend speaks it.
    pub tls: Option<Arc<ClientConfig>>,
    /// The name that the backend's certificate must have; none: its host.
    pub name: Option<String>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Backend {
    /// `host:port`, an IPv6 address in brackets.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Error> {
        let dial = |source| Error::Dial { address: self.address(), source };
        let connect = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
            tcp.set_nodelay(true)?;
            let Some(tls) = &self.tls else { return Ok(Box::new(tcp) as Box<dyn Stream>) };
            let name = ServerName::try_from(self.name.clone().unwrap_or_else(|| self.host.clone()))
                .map_err(std::io::Error::other)?;
            let tls = TlsConnector::from(tls.clone()).connect(name, tcp).await?;
            Ok(Box::new(tls) as Box<dyn Stream>)
        };
        let timeout = || std::io::Error::new(std::io::ErrorKind::TimedOut, "i/o timeout");
        tokio::time::timeout(DIAL_TIMEOUT, connect).await.map_err(|_| dial(timeout()))?.map_err(dial)
    }

    /// Sends a request with `headers` (less those that concern only the client's connection) and gives the answer as soon
    /// as its head is there.
    pub async fn send(
        &self,
        method: Method,
        path: PathAndQuery,
        headers: &HeaderMap,
        body: RequestBody,
    ) -> Result<Response<Incoming>, Error> {
        self.send_with(method, path, headers, HeaderMap::new(), body).await
    }

    /// The same with headers of our own, which take the place of the client's.
    pub async fn send_with(
        &self,
        method: Method,
        path: PathAndQuery,
        headers: &HeaderMap,
        own: HeaderMap,
        body: RequestBody,
    ) -> Result<Response<Incoming>, Error> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a proxied connection ended");
            }
        });
        let mut request = Request::builder().method(method).uri(Uri::from(path)).body(body)?;
        *request.headers_mut() = forwarded(headers);
        request.headers_mut().extend(own);
        request.headers_mut().insert(HOST, HeaderValue::try_from(self.address()).map_err(http::Error::from)?);
        Ok(sender.send_request(request).await?)
    }
}

/// Whether `headers` ask for another protocol on the connection.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && headers.get_all(CONNECTION).iter().any(|value| {
            value.to_str().is_ok_and(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case("upgrade")))
        })
}

/// The headers that go on to the backend: not the client's credentials, nor what concerns its connection only (but for a
/// wanted upgrade).
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    const HOP_BY_HOP: [&str; 6] =
        ["keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"];
    let upgrade = is_upgrade(headers);
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let text = name.as_str();
        let connection = *name == CONNECTION || *name == UPGRADE;
        let dropped = *name == AUTHORIZATION
            || *name == HOST
            || *name == TRANSFER_ENCODING
            || HOP_BY_HOP.contains(&text)
            || text.starts_with("impersonate-")
            || text.starts_with("x-remote-")
            || connection && !upgrade;
        if !dropped {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

/// The backend's answer for the client: its body as it comes, or, if both sides change protocols, the bytes of both
/// connections to each other.
pub fn answer(mut response: Response<Incoming>, client: Option<OnUpgrade>) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let backend = hyper::upgrade::on(&mut response);
        tokio::spawn(join(client, backend));
        let (parts, _) = response.into_parts();
        return Response::from_parts(parts, Body::empty());
    }
    let (mut parts, body) = response.into_parts();
    for name in [CONNECTION, UPGRADE, TRANSFER_ENCODING, HeaderName::from_static("keep-alive")] {
        parts.headers.remove(name);
    }
    Response::from_parts(parts, Body::stream(body.map_err(BoxError::from)))
}

async fn join(client: OnUpgrade, backend: OnUpgrade) {
    match tokio::try_join!(client, backend) {
        Ok((client, backend)) => {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                tracing::debug!(%error, "a proxied stream ended");
            }
        }
        Err(error) => tracing::debug!(%error, "a connection could not change protocols"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_connection_headers_stay_behind() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("impersonate-user", "y"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let names = |headers: &HeaderMap| {
            let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(names(&forwarded(&headers)), ["accept", "connection", "sec-websocket-key", "upgrade"]);
        headers.remove("upgrade");
        assert_eq!(names(&forwarded(&headers)), ["accept", "sec-websocket-key"]);
    }
}
