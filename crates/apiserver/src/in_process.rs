//! Clients within the process: no socket, no TLS, the same pipeline otherwise. Start at [`ApiServer::service`].
use crate::ApiServer;
use crate::body::{Body, BoxError};
use crate::server::InProcess;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use pintle_api::user::UserInfo;
use std::convert::Infallible;
use std::task::{Context, Poll};

impl ApiServer {
    /// A service that answers requests as made by `user`: what a `kube::Client` is made of
    /// (`kube::Client::new(server.service(user), "default")`).
    pub fn service(&self, user: UserInfo) -> InProcessService {
        InProcessService { server: self.clone(), user }
    }
}

/// Hands requests to an [`ApiServer`] as made by one user.
#[derive(Clone, Debug)]
pub struct InProcessService {
    server: ApiServer,
    user: UserInfo,
}

impl<B> tower::Service<Request<B>> for InProcessService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.server.clone();
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        request.extensions_mut().insert(InProcess(self.user.clone()));
        Box::pin(async move { Ok(server.handle(request).await) })
    }
}
