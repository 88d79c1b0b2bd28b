//! The way to backends: pooled connections of HTTP/1.1, one connection of HTTP/2 for each address.
use crate::backends::Protocol;
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a backend may take to accept a connection before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection without a request is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How many connections without a request are kept for one address.
const IDLE_PER_ADDRESS: usize = 64;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a backend gave no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There was no connection: nothing was sent.
    Connect(String),
    /// The request or the answer broke off.
    Request(String),
    /// The client sent more than it may.
    TooLarge,
}

/// Sends requests to addresses.
pub(crate) struct Forwarder {
    http1: Client<HttpConnector, RequestBody>,
    http2: Mutex<HashMap<SocketAddr, http2::SendRequest<RequestBody>>>,
}

impl Forwarder {
    /// One without connections yet.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(IDLE_PER_ADDRESS);
        Forwarder { http1: builder.build(connector), http2: Mutex::default() }
    }

    /// The answer of the backend at `address`; `authority` and `target` are what the client asked for.
    pub async fn send(
        &self,
        address: SocketAddr,
        protocol: Protocol,
        mut request: Request<RequestBody>,
        authority: &str,
        target: &PathAndQuery,
    ) -> Result<Response<Incoming>, Failure> {
        match protocol {
            Protocol::Http1 => {
                *request.version_mut() = Version::HTTP_11;
                *request.uri_mut() = uri(&address.to_string(), target)?;
                self.http1.request(request).await.map_err(|error| match error.is_connect() {
                    true => Failure::Connect(chain(&error)),
                    false => failure(&error),
                })
            }
            Protocol::Http2 => {
                let mut sender = self.http2_sender(address).await?;
                *request.version_mut() = Version::HTTP_2;
                request.headers_mut().remove(http::header::HOST);
                *request.uri_mut() = uri(authority, target)?;
                sender.send_request(request).await.map_err(|error| failure(&error))
            }
        }
    }

    async fn http2_sender(&self, address: SocketAddr) -> Result<http2::SendRequest<RequestBody>, Failure> {
        let known = self.http2.lock().get(&address).filter(|sender| !sender.is_closed()).cloned();
        if let Some(mut sender) = known
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let refused = |error: &dyn std::fmt::Display| Failure::Connect(error.to_string());
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let stream = connecting.map_err(|error| refused(&error))?.map_err(|error| refused(&error))?;
        let builder = http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|e| refused(&e))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "a connection to a backend ended");
            }
        });
        sender.ready().await.map_err(|error| refused(&error))?;
        let mut senders = self.http2.lock();
        senders.retain(|_, sender| !sender.is_closed());
        senders.insert(address, sender.clone());
        Ok(sender)
    }
}

fn uri(authority: &str, target: &PathAndQuery) -> Result<Uri, Failure> {
    let wrong = |error: http::Error| Failure::Request(error.to_string());
    let authority: Authority = authority.parse().map_err(|error: http::uri::InvalidUri| wrong(error.into()))?;
    Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(target.clone()).build().map_err(wrong)
}

fn failure(error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return Failure::TooLarge;
        }
        cause = error.source();
    }
    Failure::Request(chain(error))
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A client's body on its way to a backend. Clones share it, so that another backend can be tried as long as nobody has
/// read from it.
#[derive(Clone)]
pub(crate) struct RequestBody(Arc<Shared>);

struct Shared {
    body: Mutex<Limited<Incoming>>,
    touched: AtomicBool,
}

impl RequestBody {
    /// A body of `limit` bytes at most.
    pub fn new(body: Incoming, limit: Option<u64>) -> Self {
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        RequestBody(Arc::new(Shared { body: Mutex::new(Limited::new(body, limit)), touched: AtomicBool::new(false) }))
    }

    /// Whether nobody has read from it.
    pub fn is_whole(&self) -> bool {
        !self.0.touched.load(Ordering::Acquire)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.touched.store(true, Ordering::Release);
        Pin::new(&mut *self.0.body.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.body.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body.lock().size_hint()
    }
}

/// The body of an answer: a backend's, or our own words.
pub(crate) enum ResponseBody {
    Backend(Incoming),
    Own(Full<Bytes>),
}

impl From<Incoming> for ResponseBody {
    fn from(body: Incoming) -> Self {
        ResponseBody::Backend(body)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            ResponseBody::Backend(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            ResponseBody::Own(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Backend(body) => body.is_end_stream(),
            ResponseBody::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Backend(body) => body.size_hint(),
            ResponseBody::Own(body) => body.size_hint(),
        }
    }
}

/// An answer of our own: the status and its name.
pub(crate) fn plain(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Own(Full::new(format!("{status}\n").into())));
    *response.status_mut() = status;
    let text = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, text);
    response
}
