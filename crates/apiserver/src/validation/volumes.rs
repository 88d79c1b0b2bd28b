//! Volumes of pods.
use super::claim;
use super::common::{descending_path, labels, no_backsteps, non_reserved_path, quantity};
use super::container::{field_ref, resource_field_ref};
use super::field::{Errors, Field};
use crate::value::Read;
use pintle_api::{field::FieldError, names};
use serde_json::Value;

/// All kinds of sources, in the order in which upstream looks at them.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// `spec.volumes`; returns the volumes that are in order. `pod_name` is empty in templates.
pub(super) fn volumes<'a>(list: &Field<'a>, pod_name: &str, errors: &mut Errors) -> Vec<&'a Value> {
    let values = list.value.as_array().map_or(&[][..], Vec::as_slice);
    let ephemeral: Vec<String> = values
        .iter()
        .filter(|v| !pod_name.is_empty() && v.has("ephemeral"))
        .map(|v| format!("{pod_name}-{}", v.text("name")))
        .collect();
    let mut good: Vec<&'a Value> = Vec::new();
    for (volume, value) in list.items().zip(values) {
        let mut found = Errors::new();
        source(&volume, pod_name, &mut found);
        let name = volume.child("name");
        name.required_checked(names::dns1123_label, &mut found);
        if good.iter().any(|v| v.text("name") == name.text()) {
            found.push(FieldError::duplicate(&name.path, name.text()));
        }
        if found.is_empty() {
            good.push(value);
        }
        errors.append(&mut found);
        let claim = volume.child("persistentVolumeClaim");
        let claim_name = claim.child("claimName");
        if claim.is_set() && ephemeral.iter().any(|e| e == claim_name.text()) {
            errors.push(claim_name.invalid("must not reference a PVC that gets created for an ephemeral volume"));
        }
    }
    good
}

/// How upstream calls a source where it is one too many.
pub(super) fn second_name(kind: &str) -> &str {
    match kind {
        "cephfs" => "cephFS",
        "downwardAPI" => "downwarAPI",
        other => other,
    }
}

fn source(volume: &Field<'_>, pod_name: &str, errors: &mut Errors) {
    let mut found = 0;
    for kind in SOURCES {
        let source = volume.child(kind);
        if !source.is_set() {
            continue;
        }
        if found > 0 {
            errors.push(volume.child(second_name(kind)).forbidden("may not specify more than 1 volume type"));
            continue;
        }
        found += 1;
        one_source(kind, &source, errors);
        if kind == "ephemeral" && !pod_name.is_empty() && !volume.value.is_zero("name") {
            let name = volume.child("name");
            let claim = format!("{pod_name}-{}", name.text());
            let wrong = names::dns1123_subdomain(&claim).into_iter();
            errors.extend(wrong.map(|e| name.invalid(format!("PVC name {claim:?}: {e}"))));
        }
    }
    if found == 0 {
        errors.push(volume.missing("must specify a volume type"));
    }
}

fn one_source(kind: &str, source: &Field<'_>, errors: &mut Errors) {
    match kind {
        "emptyDir" => {
            let limit = source.child("sizeLimit");
            if quantity(limit.value).sign() < 0 {
                errors.push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
            }
        }
        "hostPath" => host_path(source, errors),
        "gitRepo" => {
            source.child("repository").required("", errors);
            descending_path(&source.child("directory"), errors);
        }
        "secret" => keyed(source, "secretName", errors),
        "configMap" => keyed(source, "name", errors),
        "nfs" => nfs(source, errors),
        "persistentVolumeClaim" => source.child("claimName").required("", errors),
        "downwardAPI" => {
            mode(&source.child("defaultMode"), errors);
            for file in source.value.items("items") {
                downward_file(&Field { path: source.path, value: file }, errors);
            }
        }
        "projected" => projected(source, errors),
        "csi" => {
            csi_driver(&source.child("driver"), errors);
            let secret = source.child("nodePublishSecretRef");
            if secret.is_set() {
                secret.child("name").required_checked(names::dns1123_subdomain, errors);
            }
        }
        "ephemeral" => {
            let template = source.child("volumeClaimTemplate");
            if template.is_set() {
                let metadata = template.child("metadata");
                labels(&metadata.child("labels"), errors);
                claim::spec(&template.child("spec"), errors);
            } else {
                errors.push(template.missing(""));
            }
        }
        "image" => {
            source.child("reference").required("", errors);
            source.child("pullPolicy").required_one_of(&["Always", "IfNotPresent", "Never"], errors);
        }
        _ => required_of(kind, source, errors),
    }
}

/// The sources of which only presence of some fields is judged here.
pub(super) fn required_of(kind: &str, source: &Field<'_>, errors: &mut Errors) {
    let fields: &[&str] = match kind {
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" | "cinder" => &["volumeID"],
        "iscsi" => &["targetPortal", "iqn"],
        "glusterfs" => &["endpoints", "path"],
        "rbd" => &["monitors", "image"],
        "cephfs" => &["monitors"],
        "quobyte" => &["registry", "volume"],
        "flexVolume" => &["driver"],
        "azureFile" => &["secretName", "shareName"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "portworxVolume" => &["volumeID"],
        "azureDisk" => &["diskName", "diskURI"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        _ => &[],
    };
    fields.iter().for_each(|field| source.child(field).required("", errors));
}

/// A directory or file of the node.
pub(super) fn host_path(source: &Field<'_>, errors: &mut Errors) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let path = source.child("path");
    if path.is_zero() {
        errors.push(path.missing(""));
        return;
    }
    no_backsteps(&path, errors);
    source.child("type").one_of(&TYPES, errors);
}

/// A directory of an NFS server.
pub(super) fn nfs(source: &Field<'_>, errors: &mut Errors) {
    source.child("server").required("", errors);
    let path = source.child("path");
    path.required("", errors);
    if !path.text().starts_with('/') {
        errors.push(FieldError::invalid(&path.path, path.text(), "must be an absolute path"));
    }
}

/// The name of a CSI driver.
pub(crate) fn csi_driver(driver: &Field<'_>, errors: &mut Errors) {
    if driver.is_zero() {
        errors.push(driver.missing(""));
        return;
    }
    if driver.text().len() > 63 {
        errors.push(FieldError::too_long(&driver.path, 63));
    }
    errors.extend(names::dns1123_subdomain(&driver.text().to_lowercase()).into_iter().map(|e| driver.invalid(e)));
}

fn mode(mode: &Field<'_>, errors: &mut Errors) {
    if mode.is_set() && !(0..=0o777).contains(&mode.int()) {
        errors.push(mode.invalid("must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

fn keyed(source: &Field<'_>, name: &str, errors: &mut Errors) {
    source.child(name).required("", errors);
    mode(&source.child("defaultMode"), errors);
    source.child("items").items().for_each(|item| key_to_path(&item, errors));
}

fn key_to_path(item: &Field<'_>, errors: &mut Errors) {
    item.child("key").required("", errors);
    let path = item.child("path");
    path.required("", errors);
    non_reserved_path(&path, errors);
    mode(&item.child("mode"), errors);
}

fn downward_file(file: &Field<'_>, errors: &mut Errors) {
    let path = file.child("path");
    path.required("", errors);
    non_reserved_path(&path, errors);
    let (field, resource) = (file.child("fieldRef"), file.child("resourceFieldRef"));
    if field.is_set() {
        field_ref(&field, &VOLUME_FIELDS, errors);
        if resource.is_set() {
            let text = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(FieldError::invalid(&file.path, "resource", text));
        }
    } else if resource.is_set() {
        resource_field_ref(&resource, true, errors);
    } else {
        errors.push(file.missing("one of fieldRef and resourceFieldRef is required"));
    }
    mode(&file.child("mode"), errors);
}

fn projected(volume: &Field<'_>, errors: &mut Errors) {
    mode(&volume.child("defaultMode"), errors);
    let mut paths: Vec<String> = Vec::new();
    for source in volume.child("sources").items() {
        let mut found = 0;
        let mut take = |path: &str, named: &str, errors: &mut Errors| {
            if path.is_empty() {
                return;
            }
            if paths.iter().any(|p| p == path) {
                errors.push(FieldError::invalid(&volume.path, named, "conflicting duplicate paths"));
            } else {
                paths.push(path.to_owned());
            }
        };
        for kind in ["secret", "configMap"] {
            let keyed = source.child(kind);
            if keyed.is_set() {
                found += 1;
                keyed.child("name").required("", errors);
                for item in keyed.child("items").items() {
                    key_to_path(&item, errors);
                    take(item.value.text("path"), keyed.value.text("name"), errors);
                }
            }
        }
        let downward = source.child("downwardAPI");
        if downward.is_set() {
            found += 1;
            for file in downward.value.items("items") {
                downward_file(&Field { path: downward.path, value: file }, errors);
                take(file.text("path"), file.text("path"), errors);
            }
        }
        let token = source.child("serviceAccountToken");
        if token.is_set() {
            found += 1;
            let seconds = token.child("expirationSeconds");
            if seconds.int() < 600 {
                errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
            }
            if seconds.int() > 1 << 32 {
                errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
            }
            let path = Field { path: volume.child("path").path, value: token.value.field("path") };
            if path.is_zero() {
                errors.push(path.missing(""));
            } else {
                non_reserved_path(&path, errors);
            }
        }
        for kind in ["clusterTrustBundle", "podCertificate"] {
            found += i32::from(source.child(kind).is_set());
        }
        if found > 1 {
            errors.push(source.forbidden("may not specify more than 1 volume type per source"));
        }
    }
}
