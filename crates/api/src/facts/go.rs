//! Values as Go encodes upstream's internal types, which have no JSON names of their own: for error messages. Start at
//! [`internal`].
use serde_json::Value;

use super::{Field, Shape, Type};

/// JSON names that are not the Go name with a small letter first.
const NAMES: [(&str, &str); 26] = [
    ("apiGroup", "APIGroup"),
    ("apiVersion", "APIVersion"),
    ("awsElasticBlockStore", "AWSElasticBlockStore"),
    ("cel", "CEL"),
    ("cephfs", "CephFS"),
    ("csi", "CSI"),
    ("dnsConfig", "DNSConfig"),
    ("dnsPolicy", "DNSPolicy"),
    ("fc", "FC"),
    ("fsGroup", "FSGroup"),
    ("fsGroupChangePolicy", "FSGroupChangePolicy"),
    ("gcePersistentDisk", "GCEPersistentDisk"),
    ("grpc", "GRPC"),
    ("httpGet", "HTTPGet"),
    ("ip", "IP"),
    ("iscsi", "ISCSI"),
    ("nfs", "NFS"),
    ("os", "OS"),
    ("rbd", "RBD"),
    ("seLinuxOptions", "SELinuxOptions"),
    ("storageos", "StorageOS"),
    ("tcpSocket", "TCPSocket"),
    ("tty", "TTY"),
    ("uid", "UID"),
    ("url", "URL"),
    ("wwids", "WWIDs"),
];

/// The values of a device's attribute, by the names of their types in JSON.
const OF_ATTRIBUTE: [(&str, &str); 8] = [
    ("bool", "BoolValue"),
    ("bools", "BoolValues"),
    ("int", "IntValue"),
    ("ints", "IntValues"),
    ("string", "StringValue"),
    ("strings", "StringValues"),
    ("version", "VersionValue"),
    ("versions", "VersionValues"),
];

/// What internal PodSpecs have in their security context.
const OF_SECURITY_CONTEXT: [&str; 5] = ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];

/// `value`, of type `ty`, with all fields of the Go struct: those that are not set too.
pub fn internal(ty: &Type, value: &Value) -> String {
    format!("{{{}}}", fields(ty, value).join(","))
}

fn fields(ty: &Type, value: &Value) -> Vec<String> {
    // The types of apimachinery have JSON names everywhere.
    if ty.name.starts_with("apimachinery.") {
        let entries = value.as_object().into_iter().flatten();
        return entries.map(|(key, value)| format!("{}:{value}", Value::from(key.as_str()))).collect();
    }
    let is_pod = ty.go_name() == "PodSpec";
    let mut shown = Vec::new();
    for field in &ty.fields {
        let of_field = value.get(field.name);
        match field.name {
            "apiVersion" | "kind" if ty.gvk.is_some() => {}
            "serviceAccount" if is_pod => {}
            name if is_pod && OF_SECURITY_CONTEXT.contains(&name) => {}
            "metadata" => shown.extend(of_field.map(|value| inlined(&field.shape, value)).unwrap_or_default()),
            "securityContext" if is_pod => {
                let host = ty.fields.iter().filter(|field| OF_SECURITY_CONTEXT.contains(&field.name));
                let mut inner: Vec<String> = host.map(|field| pair(ty, field, value.get(field.name))).collect();
                inner.extend(inlined(&field.shape, of_field.unwrap_or(&Value::Null)));
                shown.push(format!("\"SecurityContext\":{{{}}}", inner.join(",")));
            }
            _ => shown.push(pair(ty, field, of_field)),
        }
    }
    shown
}

fn inlined(shape: &Shape, value: &Value) -> Vec<String> {
    shape.object().map(|ty| fields(ty, value)).unwrap_or_default()
}

fn pair(ty: &Type, field: &Field, value: Option<&Value>) -> String {
    let names = if ty.go_name() == "DeviceAttribute" { &OF_ATTRIBUTE[..] } else { &NAMES[..] };
    let renamed = names.iter().find(|(json, _)| *json == field.name);
    let name = renamed.map_or_else(|| capitalized(field.name), |(_, go)| (*go).to_owned());
    let shown = match value {
        None | Some(Value::Null) if field.flags.pointer() => "null".to_owned(),
        None | Some(Value::Null) if field.shape.object().is_some() => of_shape(&field.shape, &Value::Null),
        None | Some(Value::Null) => crate::decode::zero_shape(&field.shape).to_string(),
        Some(value) => of_shape(&field.shape, value),
    };
    format!("\"{name}\":{shown}")
}

fn of_shape(shape: &Shape, value: &Value) -> String {
    match (shape, value) {
        (Shape::Object(id), value) => internal(id.get(), value),
        (Shape::List(item) | Shape::WrappedList(item), Value::Array(list)) => {
            let items: Vec<String> = list.iter().map(|value| of_shape(item, value)).collect();
            format!("[{}]", items.join(","))
        }
        (Shape::Map(item), Value::Object(map)) => {
            let entries: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), of_shape(item, value)))
                .collect();
            format!("{{{}}}", entries.join(","))
        }
        (Shape::RawExtension, value) => value.to_string(),
        (_, value) => value.to_string(),
    }
}

fn capitalized(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::by_name;
    use serde_json::json;

    #[test]
    fn all_fields_of_the_struct_are_shown() {
        let shown = |ty: &str, value: Value| internal(by_name(ty).unwrap(), &value);
        assert_eq!(
            shown("api.core.v1.PodResourceClaim", json!({"name": "a", "resourceClaimName": "b"})),
            r#"{"Name":"a","ResourceClaimName":"b","ResourceClaimTemplateName":null}"#
        );
        assert_eq!(
            shown("api.resource.v1.ResourceClaimSpec", json!({})),
            r#"{"Devices":{"Requests":null,"Constraints":null,"Config":null}}"#
        );
        let template =
            shown("api.resource.v1.ResourceClaimTemplateSpec", json!({"metadata": {"labels": {"a": "b"}}, "spec": {}}));
        assert_eq!(
            template,
            r#"{"labels":{"a":"b"},"Spec":{"Devices":{"Requests":null,"Constraints":null,"Config":null}}}"#
        );
        let selector = shown("api.resource.v1.DeviceSelector", json!({"cel": {"expression": "true"}}));
        assert_eq!(selector, r#"{"CEL":{"Expression":"true"}}"#);
    }
}
