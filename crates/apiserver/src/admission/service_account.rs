//! ServiceAccount: every pod runs as a service account, whose token is mounted into its containers.
// upstream: plugin/pkg/admission/serviceaccount
use super::Attributes;
use crate::registry::metadata::generate_name;
use crate::registry::{Registry, collection_prefix, object_key};
use crate::value::{Fill, Object, Read, object_of};
use pintle_api::meta::ObjectExt;
use pintle_api::status::ApiError;
use serde_json::{Value, json};
use std::time::Duration;

const MIRROR: &str = "kubernetes.io/config.mirror";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// How long a new namespace may be without its default service account, which a controller makes.
const DEFAULT_ACCOUNT_WAIT: Duration = Duration::from_millis(1500);

pub(super) async fn admit(attributes: &Attributes<'_>, pod: &mut Value, registry: &Registry) -> Result<(), ApiError> {
    if pod.annotation(MIRROR).is_some() {
        return Ok(());
    }
    let spec = object_of(pod).child_or_new("spec");
    spec.fill_zero("serviceAccountName", "default");
    let name = spec.text("serviceAccountName").to_owned();
    spec.set("serviceAccount", name.as_str());
    let account = account(attributes, pod, &name, registry).await?;
    let spec = object_of(pod).child_or_new("spec");
    let automount = spec.field("automountServiceAccountToken").as_bool();
    if automount.or(account.field("automountServiceAccountToken").as_bool()).unwrap_or(true) {
        mount_token(spec);
    }
    if spec.items("imagePullSecrets").is_empty() && !account.items("imagePullSecrets").is_empty() {
        let secrets = account.items("imagePullSecrets").iter().map(|secret| json!({"name": secret.field("name")}));
        spec.set("imagePullSecrets", secrets.collect::<Vec<_>>());
    }
    Ok(())
}

/// The service account `name`; a missing default account is waited for, because a controller is about to make it.
async fn account(attributes: &Attributes<'_>, pod: &Value, name: &str, registry: &Registry) -> Result<Value, ApiError> {
    let namespace = attributes.namespace;
    let accounts = registry.resource("", "serviceaccounts")?;
    let revision = registry.store().revision();
    let mut found = registry.get(&accounts, namespace, name).await;
    if name == "default"
        && found.as_ref().is_err_and(|error| error.code == 404)
        && let Ok(mut watch) = registry.store().watch(&collection_prefix(&accounts, namespace), revision)
    {
        let key = object_key(&accounts, namespace, name);
        let appears = async {
            while let Ok(events) = watch.next().await {
                if events.iter().any(|event| event.key == key && event.current.is_some()) {
                    return;
                }
            }
        };
        if tokio::time::timeout(DEFAULT_ACCOUNT_WAIT, appears).await.is_ok() {
            found = registry.get(&accounts, namespace, name).await;
        }
    }
    found.map_err(|error| {
        let why = match error.code {
            404 => format!("serviceaccount {name:?} not found"),
            _ => error.message,
        };
        attributes.refuse(pod, format!("error looking up service account {namespace}/{name}: {why}"))
    })
}

fn mount_token(spec: &mut Object) {
    let existing = spec.items("volumes").iter().map(|volume| volume.text("name"));
    let existing = existing.filter(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned).next();
    let volume = existing.clone().unwrap_or_else(|| generate_name(VOLUME_PREFIX));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in spec.each(list) {
            if container.items("volumeMounts").iter().any(|mount| mount.text("mountPath") == MOUNT_PATH) {
                continue;
            }
            push(container, "volumeMounts", json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            needed = true;
        }
    }
    if needed && existing.is_none() {
        push(spec, "volumes", token_volume(&volume));
    }
}

fn push(object: &mut Object, list: &str, item: Value) {
    match object.entry(list.to_owned()).or_insert(Value::Null) {
        Value::Array(items) => items.push(item),
        other => *other = vec![item].into(),
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                ]}},
            ],
            "defaultMode": 0o644,
        },
    })
}

pub(super) async fn validate(attributes: &Attributes<'_>, pod: &Value, registry: &Registry) -> Result<(), ApiError> {
    let spec = pod.field("spec");
    let name = spec.text("serviceAccountName");
    if pod.annotation(MIRROR).is_some() {
        return validate_mirror(attributes, pod);
    }
    if name.is_empty() {
        let why = format!("no service account specified for pod {}/{}", attributes.namespace, pod.name());
        return Err(attributes.refuse(pod, why));
    }
    let account = account(attributes, pod, name, registry).await?;
    let enforced = account.annotation("kubernetes.io/enforce-mountable-secrets");
    if enforced.is_some_and(|text| matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")) {
        limit_secrets(spec, &account).map_err(|why| attributes.refuse(pod, why))?;
    }
    Ok(())
}

fn validate_mirror(attributes: &Attributes<'_>, pod: &Value) -> Result<(), ApiError> {
    let spec = pod.field("spec");
    let refuse = |why: &str| Err(attributes.refuse(pod, why));
    if !spec.text("serviceAccountName").is_empty() {
        return refuse("a mirror pod may not reference service accounts");
    }
    let sources = |volume: &Value| volume.field("projected").items("sources").to_vec();
    let volumes = spec.items("volumes");
    let by_volume = volumes.iter().any(|v| v.has("secret") || sources(v).iter().any(|source| source.has("secret")));
    if by_volume || !spec.items("imagePullSecrets").is_empty() || secret_references(spec).next().is_some() {
        return refuse("a mirror pod may not reference secrets");
    }
    if volumes.iter().any(|v| sources(v).iter().any(|source| source.has("serviceAccountToken"))) {
        return refuse("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// The secrets that containers take environment variables from, each with the words for where.
fn secret_references(spec: &Value) -> impl Iterator<Item = (String, String)> {
    let lists = [("initContainers", "init container"), ("containers", "container")];
    lists.into_iter().flat_map(|(list, words)| {
        spec.items(list).iter().flat_map(move |container| {
            let name = container.text("name");
            let variables = container.items("env").iter().filter_map(move |variable| {
                let secret = variable.field("valueFrom").field("secretKeyRef");
                let place = format!("{words} {name} with envVar {}", variable.text("name"));
                (!secret.is_null()).then(|| (place, secret.text("name").to_owned()))
            });
            let whole = container.items("envFrom").iter().filter_map(move |source| {
                let secret = source.field("secretRef");
                (!secret.is_null()).then(|| (format!("{words} {name} with envFrom"), secret.text("name").to_owned()))
            });
            variables.chain(whole)
        })
    })
}

fn limit_secrets(spec: &Value, account: &Value) -> Result<(), String> {
    let named = |list: &str, name: &str| account.items(list).iter().any(|secret| secret.text("name") == name);
    let account_name = account.name();
    let refusal = |place: &str, verb: &str, name: &str| {
        format!(
            "{place}{verb}secret.secretName=\"{name}\" is not allowed because service account {account_name} does not \
             reference that secret"
        )
    };
    for volume in spec.items("volumes").iter().filter(|volume| volume.has("secret")) {
        let name = volume.field("secret").text("secretName");
        if !named("secrets", name) {
            return Err(refusal("volume", " with ", name));
        }
    }
    for (place, name) in secret_references(spec) {
        if !named("secrets", &name) {
            return Err(refusal(&place, " referencing ", &name));
        }
    }
    for (index, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        let name = secret.text("name");
        if !named("imagePullSecrets", name) {
            return Err(format!(
                "imagePullSecrets[{index}].name=\"{name}\" is not allowed because service account {account_name} does \
                 not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once_into_each_container_that_has_nothing_there() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]}});
        let spec = object_of(&mut pod).child_or_new("spec");
        mount_token(spec);
        mount_token(spec);
        let volume = spec.items("volumes")[0].text("name").to_owned();
        assert_eq!(spec.items("volumes").len(), 1);
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + 5);
        let mounts = |index: usize| spec.items("containers")[index].items("volumeMounts").to_vec();
        assert_eq!(mounts(0), [json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH})]);
        assert_eq!(mounts(1).len(), 1);
    }

    #[test]
    fn secrets_that_the_account_does_not_name_are_refused_if_it_says_so() {
        let account = json!({"metadata": {"name": "sa"}, "secrets": [{"name": "mine"}]});
        let spec = |secret: &str| json!({"volumes": [{"name": "v", "secret": {"secretName": secret}}]});
        assert_eq!(limit_secrets(&spec("mine"), &account), Ok(()));
        assert_eq!(
            limit_secrets(&spec("other"), &account).unwrap_err(),
            "volume with secret.secretName=\"other\" is not allowed because service account sa does not reference that \
             secret"
        );
    }
}
