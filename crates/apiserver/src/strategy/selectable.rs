//! The fields by which lists and watches can select, kind by kind. Start at [`of`].
use crate::value::Read;
use pintle_api::field::go_quote;
use serde_json::Value;
use std::borrow::Cow;

/// Reads a selectable field of an object as the text that it is compared with.
pub type Getter = fn(&Value) -> Cow<'_, str>;

/// The getter of `label` for a kind, or the message with which the label is refused.
pub fn of(group: &str, kind: &str, label: &str) -> Result<Getter, String> {
    match label {
        "metadata.name" => return Ok(|o| Cow::Borrowed(o.field("metadata").text("name"))),
        "metadata.namespace" if !is_cluster_scoped_with_fields(group, kind) => {
            return Ok(|o| Cow::Borrowed(o.field("metadata").text("namespace")));
        }
        _ => {}
    }
    let (found, kind_has_fields) = match (group, kind) {
        ("", "Pod") => (pod(label), true),
        ("" | "events.k8s.io", "Event") => (event(label), true),
        ("", "Node") => (node(label), true),
        ("", "Namespace") => (namespace(label), true),
        ("", "Secret") => (secret(label), true),
        ("", "Service") => (service(label), true),
        ("", "ReplicationController") | ("apps", "ReplicaSet") => (replicas(label), true),
        ("batch", "Job") => (job(label), true),
        ("certificates.k8s.io", "CertificateSigningRequest") => (signer(label), true),
        ("resource.k8s.io", "ResourceSlice") => (resource_slice(label), true),
        _ => (None, false),
    };
    found.ok_or_else(|| match (group, kind) {
        ("batch", "Job") => format!("field label {} not supported for Job", go_quote(label)),
        _ if kind_has_fields => format!("field label not supported: {label}"),
        _ => format!(
            "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            go_quote(label)
        ),
    })
}

fn is_cluster_scoped_with_fields(group: &str, kind: &str) -> bool {
    matches!((group, kind), ("", "Node" | "Namespace") | ("certificates.k8s.io", "CertificateSigningRequest"))
}

fn pod(label: &str) -> Option<Getter> {
    Some(match label {
        "spec.nodeName" | "spec.host" => |o| o.field("spec").text("nodeName").into(),
        "spec.restartPolicy" => |o| o.field("spec").text("restartPolicy").into(),
        "spec.schedulerName" => |o| o.field("spec").text("schedulerName").into(),
        "spec.serviceAccountName" => |o| o.field("spec").text("serviceAccountName").into(),
        "spec.hostNetwork" => |o| boolean(o.field("spec").flag("hostNetwork")),
        "status.phase" => |o| o.field("status").text("phase").into(),
        "status.podIP" => |o| o.field("status").text("podIP").into(),
        "status.podIPs" => |_| "".into(),
        "status.nominatedNodeName" => |o| o.field("status").text("nominatedNodeName").into(),
        _ => return None,
    })
}

fn event(label: &str) -> Option<Getter> {
    Some(match label {
        "involvedObject.kind" | "regarding.kind" => |o| involved(o, "kind"),
        "involvedObject.namespace" | "regarding.namespace" => |o| involved(o, "namespace"),
        "involvedObject.name" | "regarding.name" => |o| involved(o, "name"),
        "involvedObject.uid" | "regarding.uid" => |o| involved(o, "uid"),
        "involvedObject.apiVersion" | "regarding.apiVersion" => |o| involved(o, "apiVersion"),
        "involvedObject.resourceVersion" | "regarding.resourceVersion" => |o| involved(o, "resourceVersion"),
        "involvedObject.fieldPath" | "regarding.fieldPath" => |o| involved(o, "fieldPath"),
        "reason" => |o| o.text("reason").into(),
        "reportingComponent" | "reportingController" => |o| reporter(o).into(),
        "source" => |o| {
            let component = o.field(if o.has("regarding") { "deprecatedSource" } else { "source" }).text("component");
            if component.is_empty() { reporter(o) } else { component }.into()
        },
        "type" => |o| o.text("type").into(),
        _ => return None,
    })
}

/// The object an event is about, under its name in `v1` or in `events.k8s.io/v1`.
fn involved<'a>(event: &'a Value, field: &str) -> Cow<'a, str> {
    event.field(if event.has("regarding") { "regarding" } else { "involvedObject" }).text(field).into()
}

fn reporter(event: &Value) -> &str {
    event.text(if event.has("reportingController") { "reportingController" } else { "reportingComponent" })
}

fn node(label: &str) -> Option<Getter> {
    Some(match label {
        "spec.unschedulable" => |o| boolean(o.field("spec").flag("unschedulable")),
        _ => return None,
    })
}

fn namespace(label: &str) -> Option<Getter> {
    Some(match label {
        "status.phase" => |o| o.field("status").text("phase").into(),
        _ => return None,
    })
}

fn secret(label: &str) -> Option<Getter> {
    Some(match label {
        "type" => |o| o.text("type").into(),
        _ => return None,
    })
}

fn service(label: &str) -> Option<Getter> {
    Some(match label {
        "spec.clusterIP" => |o| o.field("spec").text("clusterIP").into(),
        "spec.type" => |o| o.field("spec").text("type").into(),
        _ => return None,
    })
}

fn replicas(label: &str) -> Option<Getter> {
    Some(match label {
        "status.replicas" => |o| o.field("status").int("replicas").to_string().into(),
        _ => return None,
    })
}

fn job(label: &str) -> Option<Getter> {
    Some(match label {
        "status.successful" => |o| o.field("status").int("succeeded").to_string().into(),
        _ => return None,
    })
}

fn signer(label: &str) -> Option<Getter> {
    Some(match label {
        "spec.signerName" => |o| o.field("spec").text("signerName").into(),
        _ => return None,
    })
}

fn resource_slice(label: &str) -> Option<Getter> {
    Some(match label {
        "spec.nodeName" => |o| o.field("spec").text("nodeName").into(),
        "spec.driver" => |o| o.field("spec").text("driver").into(),
        _ => return None,
    })
}

fn boolean(value: bool) -> Cow<'static, str> {
    if value { "true" } else { "false" }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_are_selected_by_node_and_phase() {
        let pod = json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        let get = |label| of("", "Pod", label).unwrap()(&pod).into_owned();
        assert_eq!((get("spec.nodeName"), get("status.phase"), get("spec.hostNetwork")), ("n".into(), "Running".into(), "false".into()));
    }

    #[test]
    fn unknown_labels_are_refused_in_upstreams_words() {
        assert_eq!(of("", "Pod", "spec.x").unwrap_err(), "field label not supported: spec.x");
        assert_eq!(
            of("apps", "Deployment", "a").unwrap_err(),
            "\"a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }

    #[test]
    fn both_shapes_of_an_event_answer_alike() {
        let old = json!({"involvedObject": {"name": "p"}, "source": {"component": "kubelet"}});
        let new = json!({"regarding": {"name": "p"}, "reportingController": "kubelet"});
        for label in ["involvedObject.name", "source"] {
            let get = of("", "Event", label).unwrap();
            assert_eq!(get(&old), get(&new), "{label}");
        }
    }
}
