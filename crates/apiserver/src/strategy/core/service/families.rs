//! Which IP families a service has: pure, over the families that the cluster is configured for.
use crate::validation::{field::Errors, service::cluster_ips};
use crate::value::{Fill, Read, object_of};
use pintle_api::field::{FieldError, Path};
use serde_json::{Value, json};

const SPEC: Path<'static> = Path::root("spec");

/// Completes `ipFamilyPolicy` and `ipFamilies` of `service`; `configured` begins with the primary family.
// upstream: pkg/registry/core/service/storage, initIPFamilyFields
pub(super) fn complete(service: &mut Value, old: Option<&Value>, configured: &[&str]) -> Errors {
    let old = old.map(|o| o.field("spec"));
    if service.field("spec").text("type") == "ExternalName" || unchanged_dual_stack(service.field("spec"), old) {
        return Errors::new();
    }
    fill_policy(service, old);
    let mut errors = cluster_ips(service);
    if !errors.is_empty() {
        return errors;
    }
    shrink_or_refuse(service, old, &mut errors);
    families_of_given_ips(service, configured, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    let spec = object_of(service).child_or_new("spec");
    let single = spec.text("ipFamilyPolicy") == "SingleStack";
    let without_selector = spec.text("clusterIP") == "None" && spec.is_zero("selector");
    if !without_selector {
        let policy = SPEC.child("ipFamilyPolicy");
        if spec.text("ipFamilyPolicy") == "RequireDualStack" && configured.len() < 2 {
            let text = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid(&policy, spec.text("ipFamilyPolicy"), text));
        }
        for (i, family) in spec.texts("ipFamilies").enumerate().filter(|(_, f)| !configured.contains(f)) {
            let path = SPEC.child("ipFamilies");
            errors.push(FieldError::invalid(&path.index(i), family, "not configured on this cluster"));
        }
        if !errors.is_empty() {
            return errors;
        }
    }
    if let Some(primary) = configured.first() {
        spec.fill_zero("ipFamilies", json!([primary]));
    }
    let families: Vec<&str> = spec.texts("ipFamilies").collect();
    if !single
        && (without_selector || configured.len() == 2)
        && let [family] = families[..]
    {
        let other = if family == "IPv4" { "IPv6" } else { "IPv4" };
        let both = json!([family, other]);
        spec.set("ipFamilies", both);
    }
    errors
}

/// Whether an update of a service that prefers two families leaves its addresses alone.
fn unchanged_dual_stack(new: &Value, old: Option<&Value>) -> bool {
    let Some(old) = old else { return false };
    let prefers = |spec: &Value| spec.text("ipFamilyPolicy") == "PreferDualStack";
    let same = |field: &str| new.field(field) == old.field(field);
    prefers(new)
        && (prefers(old) || !old.has("ipFamilyPolicy"))
        && ["type", "clusterIPs", "ipFamilies"].into_iter().all(same)
}

fn fill_policy(service: &mut Value, old: Option<&Value>) {
    let spec = object_of(service).child_or_new("spec");
    let before = old.map_or("", |o| o.text("ipFamilyPolicy"));
    let policy = if !before.is_empty() {
        before
    } else if spec.text("clusterIP") == "None" && spec.is_zero("selector") {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    spec.fill("ipFamilyPolicy", policy);
}

fn shrink_or_refuse(service: &mut Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = object_of(service).child_or_new("spec");
    let single = spec.text("ipFamilyPolicy") == "SingleStack";
    let policy_path = SPEC.child("ipFamilyPolicy");
    let refuse = |policy: &str, text: &str| FieldError::invalid(&policy_path, policy, text);
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let plural = if what == "IP family" { "IP families" } else { "cluster IPs" };
        if let Some(old) = old {
            let (now, before) = (spec.items(field).len(), old.items(field).len());
            if single && spec.field(field) == old.field(field) && now > 1 {
                let first = spec.items(field)[..1].to_vec();
                spec.set(field, first);
            } else if !single && now > 0 && now < before {
                let text = format!("must be 'SingleStack' to release the secondary {what}");
                errors.push(refuse(spec.text("ipFamilyPolicy"), &text));
            }
        }
        if single && spec.items(field).len() == 2 {
            let text = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {plural} are specified");
            errors.push(refuse(spec.text("ipFamilyPolicy"), &text));
        }
    }
}

fn families_of_given_ips(service: &mut Value, configured: &[&str], errors: &mut Errors) {
    let spec = object_of(service).child_or_new("spec");
    let mut families: Vec<String> = spec.texts("ipFamilies").map(str::to_owned).collect();
    for (i, ip) in spec.texts("clusterIPs").enumerate().skip(families.len()) {
        if ip == "None" {
            break;
        }
        let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
        if configured.contains(&family) {
            families.push(family.to_owned());
        } else {
            let (path, text) = (SPEC.child("clusterIPs"), format!("{family} is not configured on this cluster"));
            errors.push(FieldError::invalid(&path.index(i), spec.field("clusterIPs"), text));
        }
    }
    if !families.is_empty() {
        spec.set("ipFamilies", families);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(mut service: Value, configured: &[&str]) -> Result<Value, String> {
        let errors = complete(&mut service, None, configured);
        errors.first().map_or_else(|| Ok(service["spec"].clone()), |e| Err(e.to_string()))
    }

    #[test]
    fn a_plain_service_has_the_primary_family() {
        let spec =
            completed(json!({"spec": {"type": "ClusterIP", "selector": {"a": "b"}}}), &["IPv4", "IPv6"]).unwrap();
        assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    }

    #[test]
    fn a_headless_service_without_selector_has_both_families() {
        let service = json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}});
        let spec = completed(service, &["IPv4"]).unwrap();
        assert_eq!(
            (&spec["ipFamilies"], &spec["ipFamilyPolicy"]),
            (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack"))
        );
    }

    #[test]
    fn two_families_are_refused_where_only_one_is_configured() {
        let service =
            json!({"spec": {"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack", "selector": {"a": "b"}}});
        assert_eq!(
            completed(service, &["IPv4"]).unwrap_err(),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        );
    }
}
