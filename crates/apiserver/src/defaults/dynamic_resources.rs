//! Defaults of `resource.k8s.io`.
use crate::value::{Fill, Object, Read};

/// Fills in a ResourceClaim.
pub(crate) fn claim(object: &mut Object) {
    if let Some(spec) = object.child("spec") {
        requests(spec);
    }
}

/// Fills in a ResourceClaimTemplate.
pub(crate) fn template(object: &mut Object) {
    if let Some(spec) = object.child("spec").and_then(|spec| spec.child("spec")) {
        requests(spec);
    }
}

/// Fills in a ResourceSlice.
pub(crate) fn slice(object: &mut Object) {
    let Some(spec) = object.child("spec") else { return };
    for device in spec.each("devices") {
        for taint in device.each("taints") {
            taint.fill("timeAdded", pintle_api::meta::now());
        }
    }
}

fn requests(spec: &mut Object) {
    let Some(devices) = spec.child("devices") else { return };
    for request in devices.each("requests") {
        if let Some(exactly) = request.child("exactly") {
            one(exactly);
        }
        request.each("firstAvailable").for_each(one);
    }
}

/// One device, unless something else is asked for.
fn one(request: &mut Object) {
    request.fill_zero("allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" {
        request.fill_zero("count", 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_is_for_one_device_unless_it_says_otherwise() {
        let first = json!([{"name": "a"}, {"name": "b", "allocationMode": "All"}]);
        let mut claim_of =
            json!({"spec": {"devices": {"requests": [{"firstAvailable": first}, {"exactly": {"count": 2}}]}}});
        claim(claim_of.as_object_mut().expect("an object"));
        let requests = &claim_of["spec"]["devices"]["requests"];
        assert_eq!(requests[0]["firstAvailable"][0], json!({"name": "a", "allocationMode": "ExactCount", "count": 1}));
        assert_eq!(requests[0]["firstAvailable"][1], json!({"name": "b", "allocationMode": "All"}));
        assert_eq!(requests[1]["exactly"], json!({"allocationMode": "ExactCount", "count": 2}));
    }
}
