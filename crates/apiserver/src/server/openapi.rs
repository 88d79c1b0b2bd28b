//! The OpenAPI documents: built when first asked for, kept compressed until the scheme changes. Start at [`ApiServer::openapi`].
use super::ApiServer;
use crate::body::Body;
use crate::context::RequestContext;
use crate::negotiate::{JSON, Negotiation, header};
use crate::respond;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use http::{Response, StatusCode};
use parking_lot::Mutex;
use pintle_api::field::go_quote;
use pintle_api::openapi::{OpenApi, gnostic};
use pintle_api::scheme::Scheme;
use pintle_api::status::ApiError;
use sha2::{Digest, Sha512};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

/// How clients ask for `/openapi/v2` in protobuf, and what it is called in the answer.
const SWAGGER_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2";
const SWAGGER_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How long a document with its hash in the address may be kept: for ever, as far as HTTP goes.
const KEPT: jiff::SignedDuration = jiff::SignedDuration::from_hours(365 * 24);

/// The documents of one scheme, compressed, by address.
#[derive(Default)]
pub(super) struct Documents(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    scheme: Option<Arc<Scheme>>,
    documents: HashMap<String, Bytes>,
}

impl Documents {
    fn get(&self, scheme: &Arc<Scheme>, address: &str) -> Option<Bytes> {
        let kept = self.0.lock();
        let same = kept.scheme.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, scheme));
        if same { kept.documents.get(address).cloned() } else { None }
    }

    fn keep(&self, scheme: &Arc<Scheme>, address: &str, document: Bytes) {
        let mut kept = self.0.lock();
        if !kept.scheme.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, scheme)) {
            *kept = Kept { scheme: Some(scheme.clone()), documents: HashMap::new() };
        }
        kept.documents.insert(address.to_owned(), document);
    }
}

impl ApiServer {
    /// Answers `/openapi/…`.
    pub(super) async fn openapi(
        &self,
        cx: &RequestContext,
        negotiation: &Negotiation,
        parts: &http::request::Parts,
        path: &[&str],
    ) -> Result<Response<Body>, ApiError> {
        let aggregator = self.parts().aggregator.as_ref();
        match path {
            ["v2"] => {
                let protobuf = header(&parts.headers, ACCEPT.as_str()).contains(SWAGGER_PROTOBUF);
                let merged = match aggregator.filter(|aggregator| aggregator.has_remotes()) {
                    Some(aggregator) => {
                        let own = self.own_document("v2", |documents| Some(documents.v2())).await?;
                        Some(aggregator.merge_openapi_v2(own, self.registry()).await)
                    }
                    None => None,
                };
                let document = match merged {
                    Some(merged) if protobuf => {
                        let encoded = tokio::task::spawn_blocking(move || gnostic::document(&merged)).await;
                        encoded.map_err(ApiError::internal)?.ok_or_else(ApiError::unknown_path)?
                    }
                    Some(merged) => merged,
                    None if protobuf => {
                        self.own_document("v2.pb", |documents| gnostic::document(&documents.v2())).await?
                    }
                    None => self.own_document("v2", |documents| Some(documents.v2())).await?,
                };
                // Each encoding has a tag of its own: a client's cache may know it by no more than its tag.
                let tag = tag_of(&document);
                let response = if protobuf {
                    respond::raw(StatusCode::OK, SWAGGER_PROTOBUF_TYPE, document)
                } else {
                    respond::negotiated_as(JSON, negotiation, document.into())
                };
                Ok(tagged(response, &parts.headers, &tag))
            }
            ["v3"] => {
                let mut index = self.own_document("v3", |documents| Some(documents.v3_index())).await?;
                if let Some(aggregator) = aggregator {
                    index = aggregator.merge_openapi_index(index);
                }
                let tag = tag_of(&index);
                Ok(tagged(respond::negotiated_as(JSON, negotiation, index.into()), &parts.headers, &tag))
            }
            ["v3", path @ ..] => {
                let path = path.join("/");
                if let Some(aggregator) = aggregator
                    && let Some(document) = aggregator.openapi_v3(&path, self.registry()).await
                {
                    return Ok(respond::negotiated_as(JSON, negotiation, document.into()));
                }
                let scheme = self.registry().scheme();
                let hash = OpenApi::new(&scheme).v3_hash(&path).ok_or_else(ApiError::unknown_path)?;
                let given = cx.info.query.text("hash");
                if !given.is_empty() && given != hash {
                    return Ok(moved(&path, &hash));
                }
                let wanted = path.clone();
                let document = self.own_document(&path, move |documents| documents.v3(&wanted)).await?;
                let response = respond::negotiated_as(JSON, negotiation, document.into());
                let mut response = tagged(response, &parts.headers, &hash);
                if !given.is_empty() {
                    keep_for_ever(&mut response);
                }
                Ok(response)
            }
            _ => Ok(super::paths::not_found()),
        }
    }

    /// A document of this server's own resources.
    async fn own_document(
        &self,
        address: &str,
        make: impl FnOnce(&OpenApi<'_>) -> Option<Vec<u8>> + Send + 'static,
    ) -> Result<Vec<u8>, ApiError> {
        let scheme = self.registry().scheme();
        let kept = self.openapi_documents().get(&scheme, address);
        let of = scheme.clone();
        let work = tokio::task::spawn_blocking(move || -> Result<_, ApiError> {
            if let Some(kept) = kept {
                let mut document = Vec::new();
                GzDecoder::new(&kept[..]).read_to_end(&mut document).map_err(ApiError::internal)?;
                return Ok((document, None));
            }
            let document = make(&OpenApi::new(&of)).ok_or_else(ApiError::unknown_path)?;
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&document).map_err(ApiError::internal)?;
            let compressed = encoder.finish().map_err(ApiError::internal)?;
            Ok((document, Some(Bytes::from(compressed))))
        });
        let (document, fresh) = work.await.map_err(ApiError::internal)??;
        if let Some(fresh) = fresh {
            self.openapi_documents().keep(&scheme, address, fresh);
        }
        Ok(document)
    }
}

fn tag_of(document: &[u8]) -> String {
    Sha512::digest(document).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The response with its tag; nothing but the tag for a client that has the document.
fn tagged(response: Response<Body>, headers: &http::HeaderMap, tag: &str) -> Response<Body> {
    let quoted = go_quote(tag);
    let mut response = match header(headers, IF_NONE_MATCH.as_str()) {
        given if given == quoted => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        _ => response,
    };
    if let Ok(value) = HeaderValue::try_from(quoted) {
        response.headers_mut().insert(ETAG, value);
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    response
}

/// Sends a client that knows an old hash to the new one.
fn moved(path: &str, hash: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(value) = HeaderValue::try_from(format!("/openapi/v3/{path}?hash={hash}")) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

fn keep_for_ever(response: &mut Response<Body>) {
    let expires = (jiff::Timestamp::now() + KEPT).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    if let Ok(value) = HeaderValue::try_from(expires) {
        headers.insert(EXPIRES, value);
    }
}
