//! LimitRanger: containers get the namespace's default requests and limits, and keep within its bounds.
// upstream: plugin/pkg/admission/limitranger
use super::Attributes;
use crate::registry::Registry;
use crate::value::{Fill, Object, Read, object_of};
use pintle_api::field::aggregate;
use pintle_api::meta::ObjectExt;
use pintle_api::quantity::Quantity;
use pintle_api::resource_list::{self as resources, List};
use pintle_api::status::ApiError;
use serde_json::Value;

async fn ranges(attributes: &Attributes<'_>, registry: &Registry) -> Result<Vec<Value>, ApiError> {
    if attributes.old.is_some_and(|old| old.deletion_timestamp().is_some()) {
        return Ok(Vec::new());
    }
    let resource = registry.resource("", "limitranges")?;
    Ok(registry.list(&resource, attributes.namespace).await?.items)
}

pub(super) async fn admit(attributes: &Attributes<'_>, pod: &mut Value, registry: &Registry) -> Result<(), ApiError> {
    for range in ranges(attributes, registry).await? {
        set_defaults(&range, pod);
    }
    Ok(())
}

fn set_defaults(range: &Value, pod: &mut Value) {
    let limits = range.field("spec").items("limits").iter().filter(|limit| limit.text("type") == "Container");
    let (mut requests, mut maxima) = (Object::new(), Object::new());
    for limit in limits {
        requests.extend(limit.entries("defaultRequest").map(|(key, value)| (key.to_owned(), value.clone())));
        maxima.extend(limit.entries("default").map(|(key, value)| (key.to_owned(), value.clone())));
    }
    let mut notes = Vec::new();
    let spec = object_of(pod).child_or_new("spec");
    for (list, words) in [("containers", "container"), ("initContainers", "init container")] {
        for container in spec.each(list) {
            let name = container.text("name").to_owned();
            for (field, defaults, what) in [("requests", &requests, "request"), ("limits", &maxima, "limit")] {
                let set = fill(container, field, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {what} for {words} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.set_annotation("kubernetes.io/limit-ranger", note);
    }
}

/// Sets what `container` has not; the names of what was set, sorted.
fn fill(container: &mut Object, field: &str, defaults: &Object) -> Vec<String> {
    let missing: Vec<&String> =
        defaults.keys().filter(|key| !container.field("resources").field(field).has(key)).collect();
    let mut set: Vec<String> = missing.into_iter().cloned().collect();
    if !set.is_empty() {
        let held = container.child_or_new("resources").child_or_new(field);
        for key in &set {
            held.set(key, defaults.field(key).clone());
        }
    }
    set.sort();
    set
}

pub(super) async fn validate(attributes: &Attributes<'_>, object: &Value, registry: &Registry) -> Result<(), ApiError> {
    for range in ranges(attributes, registry).await? {
        let errors = match attributes.resource.plural.as_str() {
            "pods" => pod_errors(&range, object.field("spec")),
            _ => claim_errors(&range, object.field("spec")),
        };
        if !errors.is_empty() {
            return Err(attributes.refuse(object, aggregate(&errors)));
        }
    }
    Ok(())
}

fn pod_errors(range: &Value, spec: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in range.field("spec").items("limits") {
        match limit.text("type") {
            "Container" => {
                for container in spec.items("containers").iter().chain(spec.items("initContainers")) {
                    let held = |field| resources::list(container.field("resources"), field);
                    check("Container", limit, &held("requests"), &held("limits"), &mut errors);
                }
            }
            "Pod" => {
                let held = |field| resources::of_pod(spec, field);
                check("Pod", limit, &held("requests"), &held("limits"), &mut errors);
            }
            _ => {}
        }
    }
    errors
}

fn check(kind: &str, limit: &Value, requests: &List, limits: &List, errors: &mut Vec<String>) {
    for (name, least) in resources::list(limit, "min") {
        errors.extend(minimum(kind, &name, least, requests.get(&name), limits.get(&name)));
    }
    for (name, most) in resources::list(limit, "max") {
        let usage = format!("maximum {name} usage per {kind} is {most}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => errors.push(format!("{usage}.  No limit is specified")),
            (_, Some(limit)) if *limit > most => errors.push(format!("{usage}, but limit is {limit}")),
            (Some(request), _) if *request > most => errors.push(format!("{usage}, but request is {request}")),
            _ => {}
        }
    }
    for (name, most) in resources::list(limit, "maxLimitRequestRatio") {
        errors.extend(ratio(kind, &name, most, requests.get(&name), limits.get(&name)));
    }
}

fn minimum(
    kind: &str,
    name: &str,
    least: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let usage = format!("minimum {name} usage per {kind} is {least}");
    match (request, limit) {
        (None, _) => Some(format!("{usage}.  No request is specified")),
        (Some(request), _) if *request < least => Some(format!("{usage}, but request is {request}")),
        (_, Some(limit)) if *limit < least => Some(format!("{usage}, but limit is {limit}")),
        _ => None,
    }
}

fn ratio(
    kind: &str,
    name: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let text = format!("{name} max limit to request ratio per {kind} is {most}");
    let Some(request) = request.filter(|request| !request.is_zero()) else {
        return Some(format!("{text}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|limit| !limit.is_zero()) else {
        return Some(format!("{text}, but no limit is specified or limit is 0"));
    };
    let observed = limit.as_f64() / request.as_f64();
    (observed > most.as_f64()).then(|| format!("{text}, but provided ratio is {observed:.6}"))
}

fn claim_errors(range: &Value, spec: &Value) -> Vec<String> {
    let kind = "PersistentVolumeClaim";
    let requests = resources::list(spec.field("resources"), "requests");
    let mut errors = Vec::new();
    for limit in range.field("spec").items("limits").iter().filter(|limit| limit.text("type") == kind) {
        for (name, least) in resources::list(limit, "min") {
            errors.extend(minimum(kind, &name, least, requests.get(&name), None));
        }
        for (name, most) in resources::list(limit, "max") {
            let usage = format!("maximum {name} usage per {kind} is {most}");
            match requests.get(&name) {
                None => errors.push(format!("{usage}.  No request is specified")),
                Some(request) if *request > most => errors.push(format!("{usage}, but request is {request}")),
                Some(_) => {}
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range() -> Value {
        json!({"spec": {"limits": [{"type": "Container",
            "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "min": {"cpu": "50m"}, "max": {"cpu": "1"}}]}})
    }

    #[test]
    fn containers_get_the_defaults_and_the_pod_says_so() {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "200m"}}}]}});
        set_defaults(&range(), &mut pod);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(pod["spec"]["containers"][1]["resources"]["requests"]["cpu"], "200m");
        assert_eq!(
            pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
            "LimitRanger plugin set: cpu request for container a; cpu limit for container a; cpu limit for container b"
        );
    }

    #[test]
    fn bounds_are_kept_with_upstreams_words() {
        let spec = |request: &str, limit: &str| json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": request}, "limits": {"cpu": limit}}}]});
        assert!(pod_errors(&range(), &spec("100m", "1")).is_empty());
        assert_eq!(
            pod_errors(&range(), &spec("10m", "2")),
            [
                "minimum cpu usage per Container is 50m, but request is 10m",
                "maximum cpu usage per Container is 1, but limit is 2"
            ]
        );
    }
}
