//! Which encoding a client wants its answer in. Start at [`Negotiation::of`].
use crate::query::Query;
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, USER_AGENT};
use pintle_api::status::{ApiError, Reason};

/// JSON.
pub const JSON: &str = "application/json";
/// YAML.
pub const YAML: &str = "application/yaml";
/// Kubernetes' protobuf envelope.
pub use pintle_api::protobuf::MEDIA_TYPE as PROTOBUF;
/// What the server can decode and encode, as its refusals list it.
pub const ACCEPTED: [&str; 3] = [JSON, YAML, PROTOBUF];

/// A wire encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf envelope.
    Protobuf,
}

/// What is shown of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum View {
    /// All of it.
    #[default]
    Whole,
    /// A `Table` with a row for each object.
    Table,
    /// `PartialObjectMetadata`.
    Metadata,
    /// A list of it.
    MetadataList,
    /// Aggregated discovery, which is no view of an object.
    Discovery,
}

/// How an answer is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negotiation {
    /// The encoding.
    pub encoding: Encoding,
    /// What is shown.
    pub view: View,
    /// Whether JSON is indented.
    pub pretty: bool,
    /// Whether large answers may be compressed.
    pub gzip: bool,
}

impl Negotiation {
    /// What the headers and the `pretty` parameter ask for; 406 if nothing that is accepted can be given.
    pub fn of(headers: &HeaderMap, query: &Query) -> Result<Self, ApiError> {
        let gzip = header(headers, ACCEPT_ENCODING.as_str()).split(',').any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            parts.next() == Some("gzip") && !parts.any(|parameter| parameter == "q=0")
        });
        let pretty = match query.get("pretty") {
            Some(_) => query.flag("pretty"),
            None => {
                let agent = header(headers, USER_AGENT.as_str());
                ["curl", "Wget", "Mozilla/5.0"].iter().any(|browser| agent.starts_with(browser))
            }
        };
        let accept = header(headers, ACCEPT.as_str());
        let (encoding, view) = if accept.is_empty() { <_>::default() } else { choose(accept)? };
        Ok(Negotiation { encoding, view, pretty, gzip })
    }

    /// The media type of the answer.
    pub fn content_type(&self) -> &'static str {
        match self.encoding {
            Encoding::Json => JSON,
            Encoding::Yaml => YAML,
            Encoding::Protobuf => PROTOBUF,
        }
    }
}

/// A header's text, empty if it is missing or not ASCII.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What only watches are encoded as.
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const NOT_ACCEPTABLE: &str = "406: Not Acceptable\n\nAvailable representations: ";

/// No encoding that the client accepts can be given.
pub(crate) fn not_acceptable() -> ApiError {
    no_representation(&ACCEPTED)
}

/// The same where the path is one that can be watched, as lists are.
pub(crate) fn with_streams(error: ApiError) -> ApiError {
    if !error.message.starts_with(NOT_ACCEPTABLE) {
        return error;
    }
    no_representation(&[&ACCEPTED[..], &STREAMS[..]].concat())
}

fn no_representation(known: &[&str]) -> ApiError {
    let text = format!("{NOT_ACCEPTABLE}{}", known.join(", "));
    let mut error = ApiError::new(406, Reason::NotAcceptable, text);
    error.details_mut();
    error
}

fn choose(accept: &str) -> Result<(Encoding, View), ApiError> {
    let mut clauses: Vec<(u32, &str)> = accept.split(',').map(|clause| (quality(clause), clause.trim())).collect();
    clauses.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    let chosen = clauses.iter().find_map(|(_, clause)| read_clause(clause));
    // The route wants one of its own types, or any; which form of it comes after.
    let encodes = |clause: &str| {
        let media_type = clause.split(';').next().unwrap_or_default().trim();
        media_type != "application/*" && encoding(media_type).is_some()
    };
    if !clauses.iter().any(|(_, clause)| encodes(clause)) {
        return Err(not_acceptable());
    }
    chosen.ok_or_else(|| ApiError::not_acceptable(&ACCEPTED))
}

fn encoding(media_type: &str) -> Option<Encoding> {
    Some(match media_type {
        "*/*" | "application/*" | JSON => Encoding::Json,
        YAML => Encoding::Yaml,
        PROTOBUF => Encoding::Protobuf,
        _ => return None,
    })
}

/// The `q` of a clause in thousandths.
fn quality(clause: &str) -> u32 {
    let given = clause.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("q="));
    given.and_then(|q| q.trim().parse::<f32>().ok()).map_or(1000, |q| (q.clamp(0.0, 1.0) * 1000.0) as u32)
}

fn read_clause(clause: &str) -> Option<(Encoding, View)> {
    let mut parts = clause.split(';').map(str::trim);
    let encoding = encoding(parts.next()?)?;
    let (mut kind, mut version, mut group) = ("", "", "");
    for (key, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
        match key {
            "as" => kind = value,
            "v" => version = value,
            "g" => group = value,
            "stream" if !value.is_empty() && (value != "watch" || encoding == Encoding::Yaml) => return None,
            _ => {}
        }
    }
    let known = group == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
    let view = match kind {
        "" => View::Whole,
        "Table" if known => View::Table,
        "PartialObjectMetadata" if known => View::Metadata,
        "PartialObjectMetadataList" if known => View::MetadataList,
        "APIGroupDiscoveryList" => View::Discovery,
        _ => return None,
    };
    // There is no protobuf form of a Table.
    (view != View::Table || encoding != Encoding::Protobuf).then_some((encoding, view))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(accept: &'static str) -> Result<(Encoding, View), u16> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        let n = Negotiation::of(&headers, &Query::default()).map_err(|error| error.code)?;
        Ok((n.encoding, n.view))
    }

    #[test]
    fn the_best_supported_clause_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                       application/json";
        assert_eq!(of(kubectl), Ok((Encoding::Json, View::Table)));
        assert_eq!(of("application/vnd.kubernetes.protobuf,application/json"), Ok((Encoding::Protobuf, View::Whole)));
        assert_eq!(of("text/html,application/yaml;q=0.9,*/*;q=0.8"), Ok((Encoding::Yaml, View::Whole)));
        assert_eq!(
            of("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Ok((Encoding::Json, View::MetadataList))
        );
        assert_eq!(of("text/html"), Err(406));
        assert_eq!(of("application/*"), Err(406));
        assert_eq!(of("application/json;stream=x"), Err(406));
    }

    #[test]
    fn a_refusal_tells_an_unknown_form_from_an_unknown_encoding() {
        let refusal = |accept| choose(accept).map_err(|error| error.message).expect_err(accept);
        let list = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        let form = "application/json;as=Table;v=v2;g=meta.k8s.io";
        assert_eq!(refusal(form), format!("only the following media types are accepted: {list}"));
        assert_eq!(refusal("text/html"), format!("406: Not Acceptable\n\nAvailable representations: {list}"));
    }
}
