//! From the wire to objects and back. Start at [`read_object`] and [`encode_object`].
use crate::body::RequestBody;
use crate::negotiate::{ACCEPTED, Encoding, JSON, Negotiation, YAML, header};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::split_api_version;
use pintle_api::status::ApiError;
use serde_json::Value;

/// The largest body that is read. upstream: MaxRequestBodyBytes.
pub const BODY_LIMIT: usize = 3 << 20;

/// Reads a whole body of at most [`BODY_LIMIT`] bytes.
pub async fn read_body(mut body: RequestBody) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::request_entity_too_large(BODY_LIMIT);
    if http_body::Body::size_hint(&body).lower() > BODY_LIMIT as u64 {
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("the body cannot be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        match first.take() {
            None if joined.is_empty() => first = Some(data),
            None => joined.extend_from_slice(&data),
            Some(before) => {
                joined.extend_from_slice(&before);
                joined.extend_from_slice(&data);
            }
        }
        if joined.len() > BODY_LIMIT {
            return Err(too_large());
        }
    }
    match first {
        Some(only) if only.len() > BODY_LIMIT => Err(too_large()),
        Some(only) => Ok(only),
        None => Ok(joined.freeze()),
    }
}

/// The media type of a body without its parameters; JSON if the client does not say.
pub fn content_type(headers: &HeaderMap) -> &str {
    let given = header(headers, CONTENT_TYPE.as_str()).split(';').next().unwrap_or_default().trim();
    if given.is_empty() { JSON } else { given }
}

/// Reads a body as an object in whichever supported encoding it is; what is missing of `apiVersion` and `kind` is not
/// added. Empty bodies are null.
pub async fn read_object(headers: &HeaderMap, body: RequestBody) -> Result<Value, ApiError> {
    decode(content_type(headers), &read_body(body).await?)
}

/// Decodes an object of one of the [`ACCEPTED`] media types.
pub fn decode(content_type: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    let mut object = match content_type {
        JSON | YAML if bytes.is_empty() => return Ok(Value::Null),
        JSON => serde_json::from_slice(bytes).map_err(|error| undecodable("json", &error))?,
        YAML => {
            let text = std::str::from_utf8(bytes).map_err(|error| undecodable("yaml", &error))?;
            serde_saphyr::from_str(text).map_err(|error| undecodable("yaml", &error))?
        }
        _ => return Err(ApiError::unsupported_media_type(&ACCEPTED)),
    };
    drop_nulls(&mut object);
    Ok(object)
}

fn undecodable(encoding: &str, error: &dyn std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!(
        "the object provided is unrecognized: couldn't get version/kind; {encoding} parse error: {error}"
    ))
}

/// A field that is null is one that is not set.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Refuses an object of another kind or version than `api_version` and `kind`; either may be missing.
pub fn expect_type(object: &Value, api_version: &str, kind: &str) -> Result<(), ApiError> {
    let (given_kind, given_version) = (object.kind(), object.api_version());
    if !object.is_object() {
        return Err(ApiError::bad_request(format!("the object provided is unrecognized (must be of type {kind})")));
    }
    if !given_kind.is_empty() && given_kind != kind {
        let (_, version) = split_api_version(given_version);
        return Err(ApiError::bad_request(format!(
            "{given_kind} in version \"{version}\" cannot be handled as a {kind}: converting ({given_kind}) to ({kind}): \
             unknown conversion"
        )));
    }
    if !given_version.is_empty() && given_version != api_version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({api_version})"
        )));
    }
    Ok(())
}

/// Encodes an object as `negotiation` says.
pub fn encode_object(object: &Value, negotiation: &Negotiation) -> Result<Bytes, ApiError> {
    Ok(match negotiation.encoding {
        Encoding::Json if negotiation.pretty => serde_json::to_vec_pretty(object).map_err(ApiError::internal)?.into(),
        Encoding::Json => {
            let mut bytes = serde_json::to_vec(object).map_err(ApiError::internal)?;
            bytes.push(b'\n');
            bytes.into()
        }
        Encoding::Yaml => serde_saphyr::to_string(object).map_err(ApiError::internal)?.into(),
    })
}
