//! The parameters of lists and watches, and the rules between them. Start at [`ListOptions::parse`].
use crate::query::Query;
use crate::selection::Selection;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use pintle_api::field::{FieldError, Path, go_quote};
use pintle_api::scheme::{GroupKind, Resource};
use pintle_api::status::{ApiError, Reason};
use pintle_store::Revision;
use serde::{Deserialize, Serialize};

/// How `resourceVersion` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// At exactly that revision.
    Exact,
    /// At that revision or a newer one.
    NotOlderThan,
}

/// `metav1.ListOptions`, checked.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// Which objects.
    pub selection: Selection,
    /// At most so many objects a page; 0: all.
    pub limit: usize,
    /// Where the page begins.
    pub position: Option<Continue>,
    /// The given revision; none if it was left out. 0: any.
    pub revision: Option<Revision>,
    /// How the revision is meant.
    pub revision_match: Option<Match>,
    /// Whether bookmarks are wanted.
    pub bookmarks: bool,
    /// Whether a watch begins with the current objects; none: as older clients expect.
    pub send_initial_events: Option<bool>,
    /// When a watch ends, in seconds.
    pub timeout_seconds: Option<u64>,
}

impl ListOptions {
    /// Reads and checks the parameters of a list (or `watch`) of `resource`.
    pub fn parse(resource: &Resource, query: &Query, watch: bool) -> Result<Self, ApiError> {
        let limit: i64 = number(query, "limit")?.unwrap_or(0);
        let timeout: Option<i64> = number(query, "timeoutSeconds")?;
        let token = query.text("continue");
        let version = query.text("resourceVersion");
        let revision = if watch { parse_exact_revision(version)? } else { parse_revision(version)? };
        let send_initial_events = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        let bookmarks = query.flag("allowWatchBookmarks");
        let wanted = query.text("resourceVersionMatch");
        let path = Path::root("resourceVersionMatch");
        let mut errors = Vec::new();
        let revision_match = match wanted {
            "Exact" => Some(Match::Exact),
            "NotOlderThan" => Some(Match::NotOlderThan),
            _ => None,
        };
        if watch {
            judge_watch(send_initial_events.is_some(), wanted, token, &mut errors);
        } else if !wanted.is_empty() {
            if version.is_empty() {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if !token.is_empty() {
                errors
                    .push(FieldError::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
            }
            if revision_match.is_none() {
                errors.push(FieldError::not_supported(&path, wanted, &["Exact", "NotOlderThan", ""]));
            }
            if revision_match == Some(Match::Exact) && version == "0" {
                let text = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.push(FieldError::forbidden(&path, text));
            }
        }
        if !watch && send_initial_events.is_some() {
            let path = Path::root("sendInitialEvents");
            errors.push(FieldError::forbidden(&path, "sendInitialEvents is forbidden for list"));
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid(GroupKind { group: "meta.k8s.io", kind: "ListOptions" }, "", &errors));
        }
        let selection = Selection::parse(resource, query.text("labelSelector"), query.text("fieldSelector"))?;
        let position = if token.is_empty() || watch { None } else { Some(Continue::parse(token)?) };
        if position.is_some() && !matches!(revision, None | Some(0)) {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        Ok(ListOptions {
            selection,
            limit: usize::try_from(limit).unwrap_or(0),
            position,
            revision,
            revision_match,
            bookmarks,
            send_initial_events,
            timeout_seconds: timeout.and_then(|seconds| u64::try_from(seconds).ok()),
        })
    }
}

// upstream: validateWatchOptions
fn judge_watch(initial_events: bool, wanted: &str, token: &str, errors: &mut Vec<FieldError>) {
    let path = Path::root("resourceVersionMatch");
    if initial_events && wanted != "NotOlderThan" {
        let text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(&path, text));
    }
    if wanted.is_empty() {
        return;
    }
    if !initial_events {
        let text = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        errors.push(FieldError::forbidden(&path, text));
    }
    if wanted != "NotOlderThan" {
        errors.push(FieldError::not_supported(&path, wanted, &["NotOlderThan"]));
    }
    if !token.is_empty() {
        errors.push(FieldError::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
    }
}

fn number(query: &Query, name: &str) -> Result<Option<i64>, ApiError> {
    let text = query.text(name);
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || ApiError::bad_request(format!("strconv.ParseInt: parsing {}: invalid syntax", go_quote(text)));
    text.parse().map(Some).map_err(|_| wrong())
}

/// A `resourceVersion` parameter; none if it is empty.
pub fn parse_revision(text: &str) -> Result<Option<Revision>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let quoted = go_quote(text);
        ApiError::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {quoted}: strconv.ParseUint: parsing {quoted}: \
             invalid syntax"
        ))
    })
}

/// The same for a watch or a single object, where upstream answers as if the server were at fault.
pub fn parse_exact_revision(text: &str) -> Result<Option<Revision>, ApiError> {
    parse_revision(text).map_err(|error| {
        let text = error.message.strip_prefix("invalid resource version: ").unwrap_or(&error.message);
        ApiError::new(500, Reason::Unknown, text)
    })
}

/// Where a page of a list begins, as clients carry it around.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continue {
    v: String,
    /// The revision that all pages read.
    #[serde(rename = "rv", default)]
    pub revision: i64,
    /// The first key of the page, from the collection's prefix on.
    #[serde(default)]
    pub start: String,
}

impl Continue {
    /// The page that begins at `start`.
    pub fn new(revision: Revision, start: String) -> Self {
        Continue { v: "meta.k8s.io/v1".into(), revision: i64::try_from(revision).unwrap_or(i64::MAX), start }
    }

    /// The same page of whatever is there when it is read.
    #[must_use]
    pub fn inconsistent(&self) -> Self {
        Continue { revision: -1, ..self.clone() }
    }

    /// The opaque form.
    pub fn encode(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::json!(self).to_string())
    }

    fn parse(token: &str) -> Result<Self, ApiError> {
        let invalid = |why: &dyn std::fmt::Display| {
            ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(token.trim_end_matches('='))
            .map_err(|error| invalid(&format_args!("illegal base64 data at input byte {}", bad_byte(token, &error))))?;
        let content = pintle_api::decode::parse(&bytes).map_err(|error| invalid(&error))?;
        let version = content.get("v").and_then(serde_json::Value::as_str).unwrap_or_default();
        if version != "meta.k8s.io/v1" {
            return Err(invalid(&format_args!("server does not recognize this encoded version {version}")));
        }
        let position: Continue = serde_json::from_value(content).map_err(|error| invalid(&error))?;
        if position.revision == 0 {
            return Err(invalid(&"incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        // The key must stay below the collection that the request is authorized for.
        if position.start.is_empty() || position.start.split('/').any(|segment| segment == "." || segment == "..") {
            return Err(invalid(&format_args!("{}", position.start)));
        }
        Ok(position)
    }
}

/// Where Go's decoder stops.
fn bad_byte(token: &str, error: &base64::DecodeError) -> usize {
    match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => token.len() / 4 * 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_api::scheme::Scheme;

    fn parse(query: &str, watch: bool) -> Result<ListOptions, String> {
        let scheme = Scheme::builtin();
        let pods = scheme.by_plural("", "v1", "pods").unwrap();
        ListOptions::parse(pods, &Query::parse(query), watch).map_err(|error| error.message)
    }

    #[test]
    fn wrong_combinations_are_refused_with_upstreams_texts() {
        for (query, watch, text) in [
            ("limit=x", false, "strconv.ParseInt: parsing \"x\": invalid syntax"),
            (
                "resourceVersionMatch=Exact",
                false,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            ("resourceVersionMatch=Exact&resourceVersion=0", false, "is forbidden for resourceVersion \"0\""),
            ("resourceVersion=1&resourceVersionMatch=x", false, "Unsupported value: \"x\""),
            ("sendInitialEvents=true", false, "sendInitialEvents is forbidden for list"),
            ("sendInitialEvents=true", true, "requires setting resourceVersionMatch to NotOlderThan"),
            ("continue=!", false, "continue key is not valid"),
        ] {
            let error = parse(query, watch).unwrap_err();
            assert!(error.contains(text), "{query}: {error}");
        }
    }

    #[test]
    fn a_continue_token_comes_back_as_it_went() {
        let token = Continue::new(7, "default/a\0".into());
        let options = parse(&format!("continue={}&limit=5", token.encode()), false).unwrap();
        assert_eq!((options.position, options.limit), (Some(token), 5));
    }
}
