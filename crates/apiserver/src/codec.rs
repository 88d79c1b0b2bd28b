//! From the wire to objects and back. Start at [`decode_typed`], [`read_object`] and [`encode_object`].
use crate::body::RequestBody;
use crate::context::RequestContext;
use crate::negotiate::{ACCEPTED, Encoding, JSON, Negotiation, PROTOBUF, YAML, header};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use pintle_api::custom::Custom;
use pintle_api::decode::{self, DecodeError, Decoded, strict_bad_request};
use pintle_api::facts::{self, Type};
use pintle_api::field::{FieldError, Path, go_quote};
use pintle_api::meta::ObjectExt;
use pintle_api::patch::strategic::go_map;
use pintle_api::protobuf::{self, ProtobufError};
use pintle_api::scheme::{GroupKind, Resource, split_api_version};
use pintle_api::status::ApiError;
use serde_json::{Map, Value};

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
        JSON => decode::parse(bytes).map_err(|error| undecodable("json", &error))?,
        YAML => yaml(bytes).map_err(|error| undecodable("yaml", &error))?.value,
        PROTOBUF if bytes.is_empty() => return Ok(Value::Null),
        PROTOBUF => return decode_protobuf(bytes, ("", "")),
        _ => return Err(ApiError::unsupported_media_type(&ACCEPTED)),
    };
    decode::drop_nulls(&mut object);
    Ok(object)
}

/// The type of an object by its `apiVersion` and `kind`; those of `meta.k8s.io` are part of every group version.
pub fn type_of(api_version: &str, kind: &str) -> Option<&'static Type> {
    let (group, version) = split_api_version(api_version);
    let meta = || facts::by_name(&format!("apimachinery.pkg.apis.meta.v1.{kind}"));
    match kind {
        "DeleteOptions" | "PartialObjectMetadata" | "PartialObjectMetadataList" | "Status" => meta(),
        _ => facts::lookup(group, version, kind),
    }
}

/// Reads an envelope; `default` stands for the `apiVersion` and `kind` that it does not name.
fn decode_protobuf(bytes: &[u8], default: (&str, &str)) -> Result<Value, ApiError> {
    let wrong = |error: ProtobufError| ApiError::bad_request(error.to_string());
    let (api_version, kind, message) = protobuf::open(bytes).map_err(wrong)?;
    let api_version = if api_version.is_empty() { default.0 } else { api_version };
    let kind = if kind.is_empty() { default.1 } else { kind };
    let unknown = || ProtobufError::UnknownKind { api_version: api_version.into(), kind: kind.into() };
    let ty = type_of(api_version, kind).ok_or_else(unknown).map_err(wrong)?;
    let mut object = protobuf::decode_message(message, ty).map_err(wrong)?;
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    Ok(object)
}

/// How Go's parser begins its list of keys that are there twice.
pub(crate) const TWICE: &str = "yaml: unmarshal errors:\n  ";

/// Reads YAML as Go does: of keys that are there twice the last counts, which is told as a strict error.
pub(crate) fn yaml(bytes: &[u8]) -> Result<Decoded, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let twice = match serde_saphyr::from_str(text) {
        Ok(value) => return Ok(Decoded { value, strict_errors: Vec::new() }),
        Err(error) => yaml_error(&error),
    };
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
    match serde_saphyr::from_str_with_options(text, options) {
        Ok(value) => {
            let twice = twice.trim_start_matches(TWICE).to_owned();
            Ok(Decoded { value, strict_errors: vec![twice] })
        }
        Err(error) => Err(yaml_error(&error)),
    }
}

/// What is wrong with YAML, in the words of Go's parser where ours are near to them.
// upstream: go.yaml.in/yaml/v2, decode.go and scannerc.go
pub(crate) fn yaml_error(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    let plain = error.without_snippet();
    if let Error::DuplicateMappingKey { key: Some(key), location } = plain {
        let line = location.line();
        return format!("{TWICE}line {line}: key {} already set in map", go_quote(key));
    }
    let text = plain.to_string();
    let (what, place) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
    let what = match what {
        what if what.starts_with("tabs disallowed") => "found character that cannot start any token",
        what if what.starts_with("unclosed bracket") => "did not find expected node content",
        what if what.contains("surrogate") => "found invalid Unicode character escape code",
        what => what,
    };
    // Go tells no line of the first one.
    match place.split(',').next().and_then(|line| line.parse::<u64>().ok()) {
        Some(line) if line > 1 => format!("yaml: line {line}: {what}"),
        _ => format!("yaml: {what}"),
    }
}

fn undecodable(encoding: &str, error: &dyn std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!(
        "the object provided is unrecognized: couldn't get version/kind; {encoding} parse error: {error}"
    ))
}

/// How unknown and duplicate fields are answered: the `fieldValidation` parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped, with warnings.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

impl FieldValidation {
    /// From the parameter, whose value has been checked.
    pub fn parse(text: &str) -> Self {
        match text {
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            _ => FieldValidation::Warn,
        }
    }

    fn judge(self, cx: &RequestContext, resource: &Resource, errors: &[String]) -> Result<(), ApiError> {
        match self {
            FieldValidation::Strict if !errors.is_empty() => {
                Err(strict_bad_request(errors, &resource.kind, &resource.version, &resource.kind))
            }
            FieldValidation::Warn => {
                errors.iter().for_each(|error| cx.warn(error.clone()));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Decodes a body as an object of `resource`, in the form that is stored: known fields only, values in canonical form.
pub fn decode_typed(
    cx: &RequestContext,
    resource: &Resource,
    validation: FieldValidation,
    content_type: &str,
    bytes: &[u8],
) -> Result<Value, ApiError> {
    if let Some(custom) = &resource.custom {
        return decode_custom(cx, resource, custom, validation, content_type, bytes);
    }
    let typed = facts::lookup(&resource.group, &resource.version, &resource.kind);
    let decoded = match content_type {
        JSON => match typed {
            Some(ty) => decode::decode(bytes, ty),
            None => decode::decode_untyped(bytes),
        },
        PROTOBUF => {
            let value = decode_protobuf(bytes, (&resource.api_version(), &resource.kind))?;
            Ok(Decoded { value, strict_errors: Vec::new() })
        }
        _ => {
            if content_type != YAML {
                return Err(ApiError::unsupported_media_type(&ACCEPTED));
            }
            let malformed = |error: String| decode::unrecognized(bytes, &resource.kind, &error);
            let Decoded { mut value, strict_errors } = yaml(bytes).map_err(malformed)?;
            check_type(&value, resource, bytes)?;
            decode::drop_nulls(&mut value);
            match typed {
                Some(ty) => decode::decode_value(value, ty).map(|mut decoded| {
                    decoded.strict_errors.splice(0..0, strict_errors);
                    decoded
                }),
                None => Ok(Decoded { value, strict_errors }),
            }
        }
    };
    let mut decoded = decoded.map_err(|error| explain(&error, resource, bytes))?;
    if decoded.value.is_null() {
        // Go leaves an object as it is where the text is null.
        decoded.value = typed.map_or_else(|| Value::Object(Map::new()), decode::zero);
    }
    check_type(&decoded.value, resource, bytes)?;
    validation.judge(cx, resource, &decoded.strict_errors)?;
    Ok(decoded.value)
}

/// Why custom resources are neither read nor written in protobuf.
pub const NO_PROTOBUF: &str = "object *unstructured.Unstructured does not implement the protobuf marshalling interface and \
                               cannot be encoded to a protobuf message";

/// Decodes a body as an object of a custom resource.
fn decode_custom(
    cx: &RequestContext,
    resource: &Resource,
    custom: &Custom,
    validation: FieldValidation,
    content_type: &str,
    bytes: &[u8],
) -> Result<Value, ApiError> {
    let decoded = match content_type {
        JSON => decode::decode_untyped(bytes),
        YAML => Ok(yaml(bytes).map_err(|error| undecodable("yaml", &error))?),
        PROTOBUF => Err(DecodeError(NO_PROTOBUF.to_owned())),
        _ => return Err(ApiError::unsupported_media_type(&ACCEPTED)),
    };
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(error) if content_type == PROTOBUF => {
            return Err(error.bad_request(&resource.kind, &resource.version, &resource.kind));
        }
        Err(error) => return Err(explain(&error, resource, bytes)),
    };
    let mut value = decoded.value;
    if !value.is_object() {
        check_type(&value, resource, bytes)?;
    }
    if value.kind().is_empty() {
        let why = format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(bytes));
        return Err(decode::unrecognized(bytes, &resource.kind, &why));
    }
    let (expected, given) = (resource.api_version(), value.api_version());
    if given != expected {
        let text =
            format!("the API version in the data ({given}) does not match the expected API version ({expected})");
        return Err(ApiError::bad_request(text));
    }
    if value.kind() != resource.kind {
        let why = format!("must be {}", resource.kind);
        let error = FieldError::invalid(&Path::root("kind"), value.kind(), why);
        return Err(ApiError::invalid(resource.group_kind(), value.name(), &[error]));
    }
    accept_custom(cx, resource, custom, validation, &mut value, decoded.strict_errors)?;
    Ok(value)
}

/// Brings an object of a custom resource into the form of its version; what it does not know is answered as `validation` says.
fn accept_custom(
    cx: &RequestContext,
    resource: &Resource,
    custom: &Custom,
    validation: FieldValidation,
    value: &mut Value,
    mut strict_errors: Vec<String>,
) -> Result<(), ApiError> {
    whole_floats(value);
    let bad = |why: String| DecodeError(why).bad_request(&resource.kind, &resource.version, &resource.kind);
    let accepted = custom.accept(value).map_err(bad)?;
    strict_errors.extend(accepted.unknown.iter().map(|path| format!("unknown field {}", go_quote(path))));
    validation.judge(cx, resource, &strict_errors)
}

/// Go writes floats without fraction as integers.
fn whole_floats(value: &mut Value) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Object(map) => map.values_mut().for_each(whole_floats),
        Value::Array(items) => items.iter_mut().for_each(whole_floats),
        Value::Number(n) if n.is_f64() => {
            if let Some(whole) = n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < EXACT) {
                *value = (whole as i64).into();
            }
        }
        _ => {}
    }
}

/// What made an object that is to be decoded anew.
#[derive(Clone, Copy, Debug)]
pub enum Made<'a> {
    /// A JSON patch or merge patch.
    ByPatch,
    /// A strategic merge patch, this one.
    ByStrategicPatch(&'a Value),
    /// The configuration of a server-side apply.
    ByApply,
}

impl Made<'_> {
    /// The refusal of `object` for `why`.
    // upstream: apiserver pkg/endpoints/handlers/patch.go, applyPatchToCurrentObject and applyPatchToObject
    fn refuse(self, object: &Value, why: String) -> ApiError {
        let shown = match self {
            Made::ByApply => return ApiError::bad_request(why),
            Made::ByPatch => object.to_string(),
            Made::ByStrategicPatch(Value::Object(patch)) => go_map(patch),
            Made::ByStrategicPatch(other) => other.to_string(),
        };
        let error = FieldError::invalid(&Path::root("patch"), shown, why);
        ApiError::invalid(GroupKind { group: "", kind: "" }, "", &[error])
    }
}

/// What a patch made, decoded as an object of `resource`.
pub fn retype(
    cx: &RequestContext,
    resource: &Resource,
    validation: FieldValidation,
    made: Made<'_>,
    value: Value,
) -> Result<Value, ApiError> {
    if !matches!(made, Made::ByStrategicPatch(_)) {
        if let Some(why) = unreadable_type(&value) {
            return Err(Made::ByPatch.refuse(&value, why));
        }
        if let Some((.., why)) = other_type(&value, resource) {
            return Err(Made::ByPatch.refuse(&value, why));
        }
    }
    if let Some(custom) = &resource.custom {
        let mut value = value;
        accept_custom(cx, resource, custom, validation, &mut value, Vec::new())?;
        return Ok(value);
    }
    let Some(ty) = facts::lookup(&resource.group, &resource.version, &resource.kind) else { return Ok(value) };
    let decoded = match made {
        Made::ByStrategicPatch(_) => decode::decode_unstructured(value.clone(), ty),
        _ => decode::decode_value(value.clone(), ty),
    };
    let decoded = decoded.map_err(|error| made.refuse(&value, error.0))?;
    if validation == FieldValidation::Strict && !decoded.strict_errors.is_empty() && !matches!(made, Made::ByApply) {
        return Err(made.refuse(&value, decode::strict_error_text(&decoded.strict_errors)));
    }
    validation.judge(cx, resource, &decoded.strict_errors)?;
    Ok(decoded.value)
}

/// Why a body is no object of `resource`: it may be one of another kind.
fn explain(error: &DecodeError, resource: &Resource, bytes: &[u8]) -> ApiError {
    match decode::parse(bytes) {
        Err(why) => {
            decode::unrecognized(bytes, &resource.kind, &format!("couldn't get version/kind; json parse error: {why}"))
        }
        Ok(value) => match check_type(&value, resource, bytes) {
            Err(other) => other,
            Ok(()) => error.bad_request(&resource.kind, &resource.version, &resource.kind),
        },
    }
}

/// Why no kind and version can be read from an object.
// upstream: apimachinery pkg/runtime/serializer/json/meta.go
pub(crate) fn unreadable_type(object: &Value) -> Option<String> {
    let kind_of = |value: &Value| match value {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Object(_) => "object",
        _ => "number",
    };
    let parse_error = |why: String| Some(format!("couldn't get version/kind; json parse error: json: {why}"));
    if object.is_null() {
        return None;
    }
    if !object.is_object() {
        return parse_error(format!(
            "cannot unmarshal {} into Go value of type struct {{ APIVersion string \
             \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            kind_of(object)
        ));
    }
    for field in ["apiVersion", "kind"] {
        match object.get(field) {
            None | Some(Value::String(_) | Value::Null) => {}
            Some(other) => {
                let kind = kind_of(other);
                return parse_error(format!("cannot unmarshal {kind} into Go struct field .{field} of type string"));
            }
        }
    }
    let version = object.api_version();
    (version.matches('/').count() > 1).then(|| format!("unexpected GroupVersion string: {version}"))
}

/// Refuses an object of another kind or version, read from `bytes`; either may be missing.
fn check_type(object: &Value, resource: &Resource, bytes: &[u8]) -> Result<(), ApiError> {
    if let Some(why) = unreadable_type(object) {
        return Err(decode::unrecognized(bytes, &resource.kind, &why));
    }
    match other_type(object, resource) {
        None => Ok(()),
        Some((kind, version, why)) => Err(DecodeError(why).bad_request(&kind, &version, &resource.kind)),
    }
}

/// The kind and version of `object`, if they are not those of `resource`, and how Go says that they do not fit.
fn other_type(object: &Value, resource: &Resource) -> Option<(String, String, String)> {
    let expected = resource.api_version();
    let given = match object.api_version() {
        "" => expected.as_str(),
        given => given,
    };
    let kind = match object.kind() {
        "" => resource.kind.as_str(),
        kind => kind,
    };
    if given == expected && kind == resource.kind {
        return None;
    }
    let (group, version) = split_api_version(given);
    let why = if facts::lookup(group, version, kind).is_some() {
        let package = match resource.group.as_str() {
            "" => "core",
            group => group.split('.').next().unwrap_or(group),
        };
        format!("converting ({version}.{kind}) to ({package}.{}): unknown conversion", resource.kind)
    } else {
        let version = go_quote(given);
        format!(
            "no kind {} is registered for version {version} in scheme \"pkg/runtime/scheme.go:111\"",
            go_quote(kind)
        )
    };
    Some((kind.to_owned(), version.to_owned(), why))
}

/// Encodes an object as `negotiation` says and tells the media type; kinds without protobuf form become JSON.
pub fn encode_object(object: &Value, negotiation: &Negotiation) -> Result<(Bytes, &'static str), ApiError> {
    let bytes = match negotiation.encoding {
        Encoding::Yaml => serde_saphyr::to_string(object).map_err(ApiError::internal)?.into(),
        Encoding::Protobuf => match type_of(object.api_version(), object.kind()) {
            Some(ty) => protobuf::encode(object, object.api_version(), object.kind(), ty).into(),
            None => return Ok((json_line(object)?, JSON)),
        },
        Encoding::Json if negotiation.pretty => serde_json::to_vec_pretty(object).map_err(ApiError::internal)?.into(),
        Encoding::Json => json_line(object)?,
    };
    Ok((bytes, negotiation.content_type()))
}

fn json_line(object: &Value) -> Result<Bytes, ApiError> {
    let mut bytes = serde_json::to_vec(object).map_err(ApiError::internal)?;
    bytes.push(b'\n');
    Ok(bytes.into())
}
