//! Writing answers: one place decides headers, encodings and views. Start at [`object`], [`list`] and [`error`].
use crate::body::Body;
use crate::codec::encode_object;
use crate::encode::without_type;
use crate::negotiate::{Encoding, JSON, Negotiation, PROTOBUF, View};
use crate::query::Query;
use crate::registry::Registry;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY, WARNING,
};
use http::{Response, StatusCode};
use pintle_api::field::go_quote;
use pintle_api::meta::ObjectExt;
use pintle_api::protobuf::{self, ListEncoder};
use pintle_api::scheme::Resource;
use pintle_api::status::{ApiError, Reason};
use pintle_api::table::{self, IncludeObject, partial_object_metadata};
use pintle_store::Revision;
use serde_json::{Value, json};

/// Smaller answers are not worth compressing. upstream: defaultGzipThresholdBytes.
const GZIP_THRESHOLD: usize = 128 << 10;

/// An object as it is to be shown.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// The encoding in which it is stored, for resources whose served version is the stored one.
    Stored(&'a Bytes),
    /// A value.
    Value(&'a Value),
}

/// A response with `body`.
pub fn raw(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let body = body.into();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if let Some(length) = body.known_length() {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    *response.body_mut() = body;
    response
}

/// `body`, compressed if it is large and the client accepts that.
fn negotiated(status: StatusCode, content_type: &'static str, negotiation: &Negotiation, body: Body) -> Response<Body> {
    let mut response = negotiated_as(content_type, negotiation, body);
    *response.status_mut() = status;
    response
}

/// A successful response of `content_type`, compressed if it is large and the client accepts that.
pub fn negotiated_as(content_type: &'static str, negotiation: &Negotiation, body: Body) -> Response<Body> {
    if !negotiation.gzip || body.known_length().is_some_and(|length| length < GZIP_THRESHOLD) {
        return raw(StatusCode::OK, content_type, body);
    }
    let mut response = raw(StatusCode::OK, content_type, body.gzip());
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// Answers with one object of `resource`.
pub fn object(
    status: StatusCode,
    negotiation: &Negotiation,
    resource: &Resource,
    shown: Shown<'_>,
    include: IncludeObject,
) -> Result<Response<Body>, ApiError> {
    let plain = negotiation.encoding == Encoding::Json && !negotiation.pretty && negotiation.view == View::Whole;
    let (body, content_type) = match shown {
        Shown::Stored(bytes) if plain => (bytes.clone(), JSON),
        Shown::Stored(bytes) => viewed(&crate::registry::decode_stored(bytes)?, negotiation, resource, include)?,
        Shown::Value(value) => viewed(value, negotiation, resource, include)?,
    };
    Ok(negotiated(status, content_type, negotiation, body.into()))
}

fn viewed(
    value: &Value,
    negotiation: &Negotiation,
    resource: &Resource,
    include: IncludeObject,
) -> Result<(Bytes, &'static str), ApiError> {
    match negotiation.view {
        View::Whole | View::Discovery => encode_object(value, negotiation),
        View::Metadata => encode_object(&partial_object_metadata(value), negotiation),
        View::MetadataList => Err(other_form("PartialObjectMetadataList", "not a list", resource, &resource.kind)),
        View::Table => {
            let metadata = json!({ "resourceVersion": value.resource_version() });
            encode_object(&table_of(resource, std::slice::from_ref(value), metadata, include, true), negotiation)
        }
    }
}

/// The refusal of a form that does not fit what is shown.
// upstream: apiserver pkg/endpoints/handlers/response.go
fn other_form(form: &str, what: &str, resource: &Resource, kind: &str) -> ApiError {
    let package = match resource.group.split('.').next() {
        None | Some("") => "core",
        Some(group) => group,
    };
    let go_type = match &resource.custom {
        None => format!("*{package}.{kind}"),
        Some(_) if kind == resource.kind => "*unstructured.Unstructured".to_owned(),
        Some(_) => "*unstructured.UnstructuredList".to_owned(),
    };
    let text = format!("you requested {form}, but the requested object is {what} ({go_type})");
    ApiError::new(406, Reason::NotAcceptable, text)
}

/// Answers with an object that is not one of a resource (a `Status`, a review, a document).
pub fn value(status: StatusCode, negotiation: &Negotiation, value: &Value) -> Result<Response<Body>, ApiError> {
    let (bytes, content_type) = encode_object(value, negotiation)?;
    Ok(negotiated(status, content_type, negotiation, bytes.into()))
}

/// What a list says besides its items.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    /// The revision that was read.
    pub revision: Revision,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
    /// How many items follow after the page, if that is known.
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut metadata = json!({ "resourceVersion": self.revision.to_string() });
        if let Some(next) = &self.next {
            metadata["continue"] = next.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

/// The `includeObject` parameter.
pub fn include_object(query: &Query) -> Result<IncludeObject, ApiError> {
    let given = query.text("includeObject");
    if given.is_empty() {
        return Ok(IncludeObject::default());
    }
    let wrong = || ApiError::bad_request(format!("unrecognized includeObject value: {}", go_quote(given)));
    IncludeObject::parse(given).ok_or_else(wrong)
}

/// Whether objects of `resource` go out as they are stored.
pub fn is_plain(negotiation: &Negotiation, resource: &Resource) -> bool {
    let plain = negotiation.encoding == Encoding::Json && !negotiation.pretty && negotiation.view == View::Whole;
    plain && crate::registry::is_storage_version(resource)
}

/// Answers with a list of stored objects: their encodings are joined, not parsed, where the client wants them whole.
pub fn list(
    registry: &Registry,
    negotiation: &Negotiation,
    resource: &Resource,
    stored: Vec<Bytes>,
    meta: &ListMeta,
    include: IncludeObject,
) -> Result<Response<Body>, ApiError> {
    if is_plain(negotiation, resource) {
        let mut head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":",
            resource.list_kind,
            resource.api_version()
        );
        head.push_str(&meta.to_value().to_string());
        head.push_str(",\"items\":[");
        let items = stored.iter().map(without_type).collect();
        return Ok(negotiated_as(JSON, negotiation, Body::joined(head.into_bytes(), "{", items, "]}\n")));
    }
    let ty = crate::codec::type_of(&resource.api_version(), &resource.kind);
    if let (Encoding::Protobuf, View::Whole, Some(ty)) = (negotiation.encoding, negotiation.view, ty) {
        let mut list = ListEncoder::new(&meta.to_value());
        for bytes in &stored {
            list.push(&protobuf::encode_message(&registry.load(resource, bytes)?, ty));
        }
        let bytes = list.finish(&resource.api_version(), &resource.list_kind);
        return Ok(negotiated_as(PROTOBUF, negotiation, bytes.into()));
    }
    let load = |bytes: &Bytes| {
        let mut object = registry.load(resource, bytes)?;
        // The items of a list leave their type to the list, but for custom resources.
        if let (View::Whole, None, Some(object)) = (negotiation.view, &resource.custom, object.as_object_mut()) {
            object.remove("kind");
            object.remove("apiVersion");
        }
        Ok(object)
    };
    let items = stored.iter().map(load).collect::<Result<Vec<Value>, ApiError>>()?;
    let document = match negotiation.view {
        View::Metadata => return Err(other_form("PartialObjectMetadata", "a list", resource, &resource.list_kind)),
        View::Whole | View::Discovery => json!({
            "kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": meta.to_value(), "items": items,
        }),
        View::MetadataList => {
            let items: Vec<Value> = items.iter().map(partial_object_metadata).collect();
            json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta.to_value(),
                "items": items,
            })
        }
        View::Table => table_of(resource, &items, meta.to_value(), include, true),
    };
    value(StatusCode::OK, negotiation, &document)
}

/// A `Table` of objects; without `headers` clients keep the columns that they know.
pub fn table_of(
    resource: &Resource,
    objects: &[Value],
    metadata: Value,
    include: IncludeObject,
    headers: bool,
) -> Value {
    if let Some(custom) = &resource.custom {
        return table::custom_table(&custom.columns, objects, metadata, include, headers);
    }
    let printer = table::printer(&resource.group, &resource.kind);
    let now = jiff::Timestamp::now();
    let rows: Value = match objects {
        [] => table::no_rows(&printer),
        objects => objects.iter().map(|object| printer.row(object, include, now)).collect(),
    };
    table::table(headers.then(|| printer.column_definitions()), rows, metadata)
}

/// Answers with an error, as a `Status`.
pub fn error(error: &ApiError, negotiation: &Negotiation) -> Response<Body> {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let plain = Negotiation { view: View::Whole, ..*negotiation };
    let mut response = match encode_object(&error.to_value(), &plain) {
        Ok((bytes, content_type)) => raw(status, content_type, Body::from(bytes)),
        Err(_) => raw(status, JSON, Body::from(error.to_json())),
    };
    if let Some(seconds) =
        error.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0)
    {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds `Warning` headers.
pub fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        match HeaderValue::try_from(format!("299 - \"{quoted}\"")) {
            Ok(value) => {
                response.headers_mut().append(WARNING, value);
            }
            Err(error) => tracing::debug!(%error, warning, "a warning that fits no header"),
        }
    }
}
