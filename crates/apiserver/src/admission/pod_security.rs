//! PodSecurity: pods keep to the level that their namespace's labels ask for. Start at [`validate`].
//!
//! Policies are those of the newest version, whatever version a label pins.
// upstream: k8s.io/pod-security-admission
mod checks;

use super::{Attributes, Operation};
use crate::registry::Registry;
use crate::value::{Read, same};
use checks::Level;
use pintle_api::field::{FieldError, Path, aggregate};
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::GroupKind;
use pintle_api::status::ApiError;
use serde_json::Value;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// A level and the version it is of, as the label has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Versioned {
    level: Level,
    version: String,
}

impl std::fmt::Display for Versioned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.level.name(), self.version)
    }
}

/// What a namespace's labels ask for.
#[derive(Debug)]
struct Policy {
    enforce: Versioned,
    warn: Versioned,
    audit: Versioned,
    errors: Vec<FieldError>,
}

impl Policy {
    fn of(namespace: &Value) -> Self {
        let mut errors = Vec::new();
        let enforce = read(namespace, "enforce", Level::Restricted, &mut errors);
        let mut warn = read(namespace, "warn", Level::Privileged, &mut errors);
        let audit = read(namespace, "audit", Level::Privileged, &mut errors);
        // What is enforced is also warned about: at controllers, whose pods will be refused.
        let valid = label(namespace, "enforce").is_some_and(|text| Level::parse(text).is_some());
        if label(namespace, "warn").is_none() && valid && enforce.level > warn.level {
            warn.level = enforce.level;
            if label(namespace, "warn-version").is_none() {
                warn.version.clone_from(&enforce.version);
            }
        }
        Policy { enforce, warn, audit, errors }
    }
}

fn label<'a>(namespace: &'a Value, mode: &str) -> Option<&'a str> {
    namespace.label(&format!("{PREFIX}{mode}"))
}

/// The level of `mode`; `otherwise` if the label says nonsense.
fn read(namespace: &Value, mode: &str, otherwise: Level, errors: &mut Vec<FieldError>) -> Versioned {
    let metadata = Path::root("metadata");
    let labels = metadata.child("labels");
    let level = match label(namespace, mode) {
        None => Level::Privileged,
        Some(text) => Level::parse(text).unwrap_or_else(|| {
            let key = format!("{PREFIX}{mode}");
            let detail = "must be one of privileged, baseline, restricted";
            errors.push(FieldError::invalid(&labels.key(&key), text, detail));
            otherwise
        }),
    };
    let version = match label(namespace, &format!("{mode}-version")) {
        None => "latest",
        Some(text) if text == "latest" || is_version(text) => text,
        Some(text) => {
            let key = format!("{PREFIX}{mode}-version");
            errors.push(FieldError::invalid(&labels.key(&key), text, r#"must be "latest" or "v1.x""#));
            "latest"
        }
    };
    Versioned { level, version: version.to_owned() }
}

fn is_version(text: &str) -> bool {
    let minor = text.strip_prefix("v1.").unwrap_or_default();
    minor == "0" || !minor.is_empty() && !minor.starts_with('0') && minor.bytes().all(|byte| byte.is_ascii_digit())
}

/// The pod template of a controller: its metadata and spec.
fn template<'a>(attributes: &Attributes<'_>, object: &'a Value) -> Option<(&'a Value, &'a Value)> {
    let spec = object.field("spec");
    let template = match (attributes.resource.group.as_str(), attributes.resource.plural.as_str()) {
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("", "replicationcontrollers")
        | ("batch", "jobs") => spec.field("template"),
        ("batch", "cronjobs") => spec.field("jobTemplate").field("spec").field("template"),
        ("", "podtemplates") => object.field("template"),
        _ => return None,
    };
    (!template.is_null()).then(|| (template.field("metadata"), template.field("spec")))
}

/// Refuses pods that violate what is enforced, and warns of what violates the rest.
pub(super) async fn validate(attributes: &Attributes<'_>, object: &Value, registry: &Registry) -> Result<(), ApiError> {
    if !matches!(attributes.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let core = attributes.resource.group.is_empty();
    match (core, attributes.resource.plural.as_str(), attributes.subresource) {
        (true, "namespaces", "") => validate_namespace(attributes, object, registry).await,
        (true, "pods", "" | "ephemeralcontainers" | "resize") => {
            let policy = policy_of(attributes, registry).await?;
            if attributes.old.is_some_and(|old| !is_significant(object, old)) {
                return Ok(());
            }
            let spec = object.field("spec");
            attributes.cx.annotate(format!("{PREFIX}enforce-policy"), policy.enforce.to_string());
            annotate(attributes, &policy, object.field("metadata"), spec);
            let problems = checks::evaluate(policy.enforce.level, object.field("metadata"), spec);
            if !problems.is_empty() {
                let (level, detail) = (policy.enforce.to_string(), checks::details(&problems));
                return Err(attributes.refuse(object, format!("violates PodSecurity {level:?}: {detail}")));
            }
            warn(attributes, &policy.warn, object.field("metadata"), spec);
            Ok(())
        }
        (_, _, "") => {
            if let Some((metadata, spec)) = template(attributes, object) {
                let policy = policy_of(attributes, registry).await?;
                annotate(attributes, &policy, metadata, spec);
                warn(attributes, &policy.warn, metadata, spec);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn policy_of(attributes: &Attributes<'_>, registry: &Registry) -> Result<Policy, ApiError> {
    let namespaces = registry.resource("", "namespaces")?;
    Ok(Policy::of(&registry.get(&namespaces, "", attributes.namespace).await?))
}

/// Tells the audit record what would not be let in.
fn annotate(attributes: &Attributes<'_>, policy: &Policy, metadata: &Value, spec: &Value) {
    if attributes.cx.audit.is_none() {
        return;
    }
    if !policy.errors.is_empty() {
        let why = aggregate(&policy.errors);
        attributes.cx.annotate(format!("{PREFIX}error"), format!("Failed to parse policy: {why}"));
    }
    let problems = checks::evaluate(policy.audit.level, metadata, spec);
    if !problems.is_empty() {
        let (level, detail) = (policy.audit.to_string(), checks::details(&problems));
        let text = format!("would violate PodSecurity {level:?}: {detail}");
        attributes.cx.annotate(format!("{PREFIX}audit-violations"), text);
    }
}

fn warn(attributes: &Attributes<'_>, level: &Versioned, metadata: &Value, spec: &Value) {
    let problems = checks::evaluate(level.level, metadata, spec);
    if !problems.is_empty() {
        let (level, detail) = (level.to_string(), checks::details(&problems));
        attributes.cx.warn(format!("would violate PodSecurity {level:?}: {detail}"));
    }
}

/// Whether an update changes what the policies look at: images are enough to look again.
fn is_significant(new: &Value, old: &Value) -> bool {
    let relevant = |container: &Value| {
        let mut container = container.clone();
        if let Some(fields) = container.as_object_mut() {
            fields.retain(|key, _| matches!(key.as_str(), "name" | "image" | "securityContext"));
        }
        container
    };
    ["initContainers", "containers", "ephemeralContainers"].iter().any(|list| {
        let of = |pod: &Value| pod.field("spec").items(list).iter().map(relevant).collect::<Vec<_>>();
        let (new, old) = (of(new), of(old));
        new.len() != old.len() || new.iter().zip(&old).any(|(new, old)| !same(new, old))
    })
}

async fn validate_namespace(
    attributes: &Attributes<'_>,
    namespace: &Value,
    registry: &Registry,
) -> Result<(), ApiError> {
    let new = Policy::of(namespace);
    let old = attributes.old.map(Policy::of);
    if !new.errors.is_empty() && old.as_ref().is_none_or(|old| old.errors != new.errors) {
        let kind = GroupKind { group: "", kind: "Namespace" };
        return Err(ApiError::invalid(kind, namespace.name(), &new.errors));
    }
    let Some(old) = old else { return Ok(()) };
    let tightened = new.enforce != old.enforce
        && new.enforce.level != Level::Privileged
        && (new.enforce.version != old.enforce.version || new.enforce.level > old.enforce.level);
    if tightened {
        warn_of_existing(attributes, namespace.name(), &new.enforce, registry).await?;
    }
    Ok(())
}

/// Names the pods that a new level would not have let in.
async fn warn_of_existing(
    attributes: &Attributes<'_>,
    namespace: &str,
    level: &Versioned,
    registry: &Registry,
) -> Result<(), ApiError> {
    let pods = registry.resource("", "pods")?;
    let mut found: Vec<(String, String, usize)> = Vec::new();
    for pod in registry.list(&pods, namespace).await?.items {
        let problems = checks::evaluate(level.level, pod.field("metadata"), pod.field("spec"));
        if problems.is_empty() {
            continue;
        }
        let reasons = problems.iter().map(|problem| problem.reason.as_str()).collect::<Vec<_>>().join(", ");
        match found.iter_mut().find(|(known, _, _)| *known == reasons) {
            Some((_, _, count)) => *count += 1,
            None => found.push((reasons, pod.name().to_owned(), 1)),
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let level = level.to_string();
    attributes
        .cx
        .warn(format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level {level:?}"));
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, pod, count)| match count {
            1 => format!("{pod}: {reasons}"),
            2 => format!("{pod} (and 1 other pod): {reasons}"),
            more => format!("{pod} (and {} other pods): {reasons}", more - 1),
        })
        .collect();
    lines.sort();
    for line in lines {
        attributes.cx.warn(line);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn warnings_default_to_what_is_enforced_and_nonsense_is_named() {
        let namespace = |labels: Value| json!({"metadata": {"name": "a", "labels": labels}});
        let policy = Policy::of(&namespace(json!({"pod-security.kubernetes.io/enforce": "restricted"})));
        assert_eq!(
            (policy.enforce.to_string(), policy.warn.to_string()),
            ("restricted:latest".into(), "restricted:latest".into())
        );
        let policy = Policy::of(&namespace(json!({"pod-security.kubernetes.io/enforce": "tight"})));
        assert_eq!(policy.enforce.level, Level::Restricted);
        assert_eq!(
            policy.errors[0].to_string(),
            r#"metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "tight": must be one of privileged, baseline, restricted"#
        );
        assert_eq!(Policy::of(&namespace(json!({}))).enforce.level, Level::Privileged);
        assert!(is_version("v1.24") && !is_version("v1.024") && !is_version("1.2") && !is_version("v1."));
    }
}
