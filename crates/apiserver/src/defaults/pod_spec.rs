//! Defaults of a pod's spec, shared by pods and by everything that holds a pod template. Start at [`pod_spec`].
use crate::value::{Fill, Object, Read};
use serde_json::json;

/// Fills in `template.spec` of an object's spec.
pub(super) fn template(spec: &mut Object) {
    if let Some(template) = spec.child("template") {
        pod_spec(template.child_or_new("spec"));
    }
}

/// Fills in a pod's spec.
pub(super) fn pod_spec(spec: &mut Object) {
    spec.fill_zero("dnsPolicy", "ClusterFirst");
    spec.fill_zero("restartPolicy", "Always");
    spec.fill("securityContext", json!({}));
    spec.fill("terminationGracePeriodSeconds", 30);
    spec.fill_zero("schedulerName", "default-scheduler");
    service_account(spec);
    spec.each("volumes").for_each(volume);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        spec.each(list).for_each(container);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both show the same.
fn service_account(spec: &mut Object) {
    let new = spec.text("serviceAccountName");
    let name = if new.is_empty() { spec.text("serviceAccount") } else { new }.to_owned();
    if !name.is_empty() {
        spec.set("serviceAccountName", name.clone());
        spec.set("serviceAccount", name);
    }
}

fn container(container: &mut Object) {
    let policy = pull_policy(container.text("image"));
    container.fill_zero("imagePullPolicy", policy);
    container.fill_zero("terminationMessagePath", "/dev/termination-log");
    container.fill_zero("terminationMessagePolicy", "File");
    container.fill("resources", json!({}));
    for port in container.each("ports") {
        port.fill_zero("protocol", "TCP");
    }
    for env in container.each("env") {
        let Some(from) = env.child("valueFrom") else { continue };
        field_ref(from);
        if let Some(key) = from.child("fileKeyRef") {
            key.fill("optional", false);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.child(name) {
            probe.fill_zero("timeoutSeconds", 1);
            probe.fill_zero("periodSeconds", 10);
            probe.fill_zero("successThreshold", 1);
            probe.fill_zero("failureThreshold", 3);
            http_get(probe);
            if let Some(grpc) = probe.child("grpc") {
                grpc.fill("service", "");
            }
        }
    }
    if let Some(lifecycle) = container.child("lifecycle") {
        // The feature ContainerStopSignals is off.
        lifecycle.remove("stopSignal");
        if lifecycle.is_empty() {
            container.remove("lifecycle");
        }
    }
    if let Some(lifecycle) = container.child("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(handler) = lifecycle.child(hook) {
                http_get(handler);
            }
        }
    }
}

fn http_get(handler: &mut Object) {
    if let Some(get) = handler.child("httpGet") {
        get.fill_zero("path", "/");
        get.fill_zero("scheme", "HTTP");
    }
}

fn field_ref(holder: &mut Object) {
    if let Some(field) = holder.child("fieldRef") {
        field.fill_zero("apiVersion", "v1");
    }
}

fn volume(volume: &mut Object) {
    if !volume.iter().any(|(key, source)| key != "name" && !source.is_null()) {
        volume.set("emptyDir", json!({}));
    }
    volume_source(volume);
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.child(name) {
            source.fill("defaultMode", 0o644);
        }
    }
    if let Some(source) = volume.child("downwardAPI") {
        source.each("items").for_each(field_ref);
    }
    if let Some(projected) = volume.child("projected") {
        for source in projected.each("sources") {
            if let Some(downward) = source.child("downwardAPI") {
                downward.each("items").for_each(field_ref);
            }
            if let Some(token) = source.child("serviceAccountToken") {
                token.fill("expirationSeconds", 3600);
            }
        }
    }
    if let Some(image) = volume.child("image") {
        let policy = pull_policy(image.text("reference"));
        image.fill_zero("pullPolicy", policy);
    }
    if let Some(template) = volume.child("ephemeral").and_then(|e| e.child("volumeClaimTemplate")) {
        template.child_or_new("spec").fill("volumeMode", "Filesystem");
    }
}

/// Fills in the volume sources that pods and PersistentVolumes have in common.
pub(super) fn volume_source(holder: &mut Object) {
    if let Some(path) = holder.child("hostPath") {
        path.fill("type", "");
    }
    if let Some(iscsi) = holder.child("iscsi") {
        iscsi.fill_zero("iscsiInterface", "default");
    }
    if let Some(rbd) = holder.child("rbd") {
        rbd.fill_zero("pool", "rbd");
        rbd.fill_zero("user", "admin");
        rbd.fill_zero("keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = holder.child("azureDisk") {
        disk.fill("cachingMode", "ReadWrite");
        disk.fill("fsType", "ext4");
        disk.fill("readOnly", false);
        disk.fill("kind", "Shared");
    }
    if let Some(scale_io) = holder.child("scaleIO") {
        scale_io.fill_zero("storageMode", "ThinProvisioned");
        scale_io.fill_zero("fsType", "xfs");
    }
}

/// `Always` for images that are tagged `latest`, by name or because they have neither tag nor digest.
fn pull_policy(image: &str) -> &'static str {
    if is_latest(image) { "Always" } else { "IfNotPresent" }
}

fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let (repository, tag) = match name[start..].split_once(':') {
        Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
        None => (name, None),
    };
    is_repository(repository) && tag.map_or(digest.is_none(), |tag| tag == "latest")
}

/// Whether `name` can be the repository part of an image reference: what does not parse counts as not `latest`.
fn is_repository(name: &str) -> bool {
    let path = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => path,
        _ => name,
    };
    // What has no path of its own lies below `library/`.
    let length = if path.contains('/') { path.len() } else { path.len() + "library/".len() };
    length <= 255
        && path.split('/').all(|part| {
            let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            alphanumeric(part.chars().next())
                && alphanumeric(part.chars().last())
                && part.chars().all(|c| alphanumeric(Some(c)) || matches!(c, '.' | '_' | '-'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn filled(mut spec: Value) -> Value {
        pod_spec(spec.as_object_mut().unwrap());
        spec
    }

    #[test]
    fn images_without_tag_or_tagged_latest_are_always_pulled() {
        for image in
            ["nginx", "nginx:latest", "host:5000/a/nginx", "docker.io/library/nginx:latest", "a:latest@sha256:0"]
        {
            assert!(is_latest(image), "{image}");
        }
        for image in ["nginx:1", "nginx@sha256:0", "host:5000/nginx:1", "", "Nginx", "ngi nx"] {
            assert!(!is_latest(image), "{image}");
        }
    }

    #[test]
    fn a_container_gets_policies_and_its_probes_get_thresholds() {
        let spec =
            filled(json!({"containers": [{"name": "a", "image": "b:1", "livenessProbe": {"httpGet": {"port": 1}}}]}));
        let container = &spec["containers"][0];
        assert_eq!(container["imagePullPolicy"], "IfNotPresent");
        assert_eq!(
            container["livenessProbe"],
            json!({"httpGet": {"port": 1, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                   "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    }

    #[test]
    fn a_volume_without_source_is_an_empty_dir() {
        let spec = filled(json!({"volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "c"}}]}));
        assert_eq!(
            spec["volumes"],
            json!([{"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "c", "defaultMode": 420}}])
        );
    }

    #[test]
    fn both_names_of_the_service_account_show_the_same() {
        assert_eq!(filled(json!({"serviceAccount": "x"}))["serviceAccountName"], "x");
        assert_eq!(filled(json!({"serviceAccountName": "x", "serviceAccount": "y"}))["serviceAccount"], "x");
    }

    #[test]
    fn explicit_values_stay() {
        let spec = filled(json!({"terminationGracePeriodSeconds": 0, "dnsPolicy": "Default"}));
        assert_eq!((&spec["terminationGracePeriodSeconds"], &spec["dnsPolicy"]), (&json!(0), &json!("Default")));
    }
}
