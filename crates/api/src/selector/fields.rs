//! Field selectors: the string form, which fields each kind allows, and the values of those fields.
use std::{borrow::Cow, fmt};

use serde_json::Value;

use super::SelectorError;
use crate::field::go_quote;

/// One condition on a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field's path, as in `status.phase`.
    pub field: String,
    /// Whether the field must have the value, or must not.
    pub equal: bool,
    /// The value; an empty one also stands for a missing field.
    pub value: String,
}

/// A conjunction of conditions on fields; displayed in the form that `fieldSelector=` takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Parses `status.phase=Running,spec.nodeName!=a`; `\` escapes `\`, `,` and `=` in values.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut parts = split_unescaped(text);
        parts.sort_unstable();
        let mut terms = Vec::with_capacity(parts.len());
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let Some((field, equal, value)) = split_term(part) else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            terms.push(FieldTerm { field: field.to_owned(), equal, value: unescape(value)?.into_owned() });
        }
        Ok(FieldSelector { terms })
    }

    /// Checks the fields against those that a kind allows and gives them their canonical names ([`canonical_field`]).
    pub fn for_kind(mut self, group: &str, version: &str, kind: &str) -> Result<FieldSelector, SelectorError> {
        for term in &mut self.terms {
            let name = canonical_field(group, version, kind, &term.field)?;
            if name != term.field {
                term.field = name.into_owned();
            }
        }
        Ok(self)
    }

    /// Checks the fields against those that a custom resource allows.
    // upstream: apiextensions-apiserver pkg/apiserver/conversion, ConvertFieldLabel
    pub fn for_custom(self, namespaced: bool, selectable: &[String]) -> Result<FieldSelector, SelectorError> {
        let allowed = |field: &str| {
            field == "metadata.name"
                || (namespaced && field == "metadata.namespace")
                || selectable.iter().any(|path| path == field)
        };
        match self.terms.iter().find(|term| !allowed(&term.field)) {
            Some(term) => Err(SelectorError(format!("field label not supported: {}", term.field))),
            None => Ok(self),
        }
    }

    /// Whether an object of a custom resource satisfies all conditions.
    pub fn matches_custom(&self, object: &Value) -> bool {
        let value = |field: &str| match field.split('.').try_fold(object, |v, key| v.get(key)) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        self.terms.iter().all(|t| (value(&t.field) == t.value) == t.equal)
    }

    /// The conditions.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The only value that `field` may have, if the selector says so.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// Whether an object of `kind` satisfies all conditions.
    pub fn matches(&self, kind: &str, object: &Value) -> bool {
        self.terms.iter().all(|t| (field_value(kind, object, &t.field) == t.value) == t.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.terms.iter().enumerate() {
            let value = t.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            let (comma, op) = (if i == 0 { "" } else { "," }, if t.equal { "=" } else { "!=" });
            write!(f, "{comma}{}{op}{value}", t.field)?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        for (op, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = term[i..].strip_prefix(op) {
                return Some((&term[..i], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<Cow<'_, str>, SelectorError> {
    if !value.contains(['\\', ',', '=']) {
        return Ok(Cow::Borrowed(value));
    }
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence = format!("\\{}", other.map(String::from).unwrap_or_default());
                    return Err(SelectorError(format!("invalid field selector: invalid escape sequence: {sequence}")));
                }
            },
            ',' | '=' => {
                let code = c as u32;
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {code}")));
            }
            c => out.push(c),
        }
    }
    Ok(Cow::Owned(out))
}

/// The name under which a kind knows a field of a selector, or upstream's complaint.
// upstream: AddFieldLabelConversionFunc in pkg/apis/*/*/conversion.go
pub fn canonical_field(
    group: &str,
    version: &str,
    kind: &str,
    field: &str,
) -> Result<Cow<'static, str>, SelectorError> {
    let allowed: &[&str] = match (group, kind) {
        ("", "Pod") => &[
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "Node") => &["metadata.name", "spec.unschedulable"],
        ("", "Namespace") => &["metadata.name", "status.phase"],
        ("", "Secret") => &["metadata.name", "metadata.namespace", "type"],
        ("", "Service") => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
        ("", "ReplicationController") => &["metadata.name", "metadata.namespace", "status.replicas"],
        ("", "Event") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
            "metadata.namespace",
            "metadata.name",
        ],
        ("events.k8s.io", "Event") => {
            if let Some(rest) = field.strip_prefix("regarding.") {
                let known = ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"];
                if known.contains(&rest) {
                    return Ok(Cow::Owned(format!("involvedObject.{rest}")));
                }
            }
            if field == "reportingController" {
                return Ok(Cow::Borrowed("reportingComponent"));
            }
            &["reason", "type", "metadata.namespace", "metadata.name"]
        }
        ("batch", "Job") => &["metadata.name", "metadata.namespace", "status.successful"],
        ("certificates.k8s.io", "CertificateSigningRequest" | "ClusterTrustBundle") => {
            &["metadata.name", "spec.signerName"]
        }
        ("certificates.k8s.io", "PodCertificateRequest") => {
            &["metadata.name", "spec.signerName", "spec.podName", "spec.nodeName"]
        }
        ("resource.k8s.io", "ResourceSlice") => &["metadata.name", "spec.nodeName", "spec.driver"],
        _ => &["metadata.name", "metadata.namespace"],
    };
    if let Some(name) = allowed.iter().find(|a| **a == field) {
        return Ok(Cow::Borrowed(name));
    }
    Err(SelectorError(match (group, kind) {
        ("", "Pod") if field == "spec.host" => return Ok(Cow::Borrowed("spec.nodeName")),
        ("", "Pod" | "Node" | "Namespace" | "Secret" | "Service" | "ReplicationController" | "Event")
        | ("events.k8s.io", "Event")
        | ("certificates.k8s.io", _) => format!("field label not supported: {field}"),
        ("batch", "Job") => format!("field label {} not supported for Job", go_quote(field)),
        ("resource.k8s.io", "ResourceSlice") => {
            format!("field label not supported for {group}/{version}, Kind={kind}: {field}")
        }
        _ => {
            let quoted = go_quote(field);
            format!("{quoted} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
    }))
}

/// The value of a selectable field of a stored object, as the selector compares it; empty if missing.
// upstream: ToSelectableFields in pkg/registry
pub fn field_value<'a>(kind: &str, object: &'a Value, field: &str) -> Cow<'a, str> {
    let text = |path: &str| {
        let found = path.split('.').try_fold(object, |v, key| v.get(key));
        match found {
            Some(Value::String(s)) => Cow::Borrowed(s.as_str()),
            Some(Value::Null) | None => Cow::Borrowed(""),
            Some(other) => Cow::Owned(other.to_string()),
        }
    };
    let or = |value: Cow<'a, str>, default: &'static str| if value.is_empty() { default.into() } else { value };
    match (kind, field) {
        ("Pod", "status.podIP") => {
            let ip = object.pointer("/status/podIPs/0/ip").and_then(Value::as_str);
            Cow::Borrowed(ip.unwrap_or_default())
        }
        ("Pod", "spec.hostNetwork") | ("Node", "spec.unschedulable") => or(text(field), "false"),
        ("ReplicationController", "status.replicas") => or(text(field), "0"),
        ("Job", "status.successful") => or(text("status.succeeded"), "0"),
        ("Event", "source") => {
            let source = text("source.component");
            if source.is_empty() { text("reportingComponent") } else { source }
        }
        _ => text(field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_of_pods_are_matched() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": {"podIPs": [{"ip": "1"}]}});
        let selector = |text: &str| FieldSelector::parse(text).unwrap().for_kind("", "v1", "Pod").unwrap();
        for yes in ["spec.nodeName=n", "spec.host==n,status.phase!=Running", "spec.hostNetwork=false", "status.podIP=1"]
        {
            assert!(selector(yes).matches("Pod", &pod), "{yes}");
        }
        assert!(!selector("metadata.name!=a").matches("Pod", &pod));
        assert_eq!(selector("metadata.name=a").required_value("metadata.name"), Some("a"));
    }

    #[test]
    fn errors_are_upstreams() {
        let error = |text: &str, group: &str, kind: &str| {
            let parsed = FieldSelector::parse(text).and_then(|s| s.for_kind(group, "v1", kind));
            parsed.unwrap_err().0
        };
        assert_eq!(error("a", "", "Pod"), "invalid selector: 'a'; can't understand 'a'");
        assert_eq!(error("spec.x=1", "", "Pod"), "field label not supported: spec.x");
        assert_eq!(error("x=1", "batch", "Job"), "field label \"x\" not supported for Job");
        assert_eq!(
            error("spec.x=1", "", "ConfigMap"),
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert_eq!(error("a=\\b", "", "Pod"), "invalid field selector: invalid escape sequence: \\b");
        assert_eq!(error("a=b=c", "", "Pod"), "invalid field selector: unescaped character in value: 61");
    }

    #[test]
    fn values_are_escaped_when_printed() {
        let selector = FieldSelector::parse("b=x\\,y,a!=1").unwrap();
        assert_eq!(selector.to_string(), "a!=1,b=x\\,y");
    }

    #[test]
    fn the_new_events_group_selects_on_stored_names() {
        let selector = FieldSelector::parse("regarding.kind=Pod,reportingController=x").unwrap();
        let selector = selector.for_kind("events.k8s.io", "v1", "Event").unwrap();
        assert_eq!(selector.to_string(), "involvedObject.kind=Pod,reportingComponent=x");
    }
}
