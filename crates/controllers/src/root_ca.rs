//! The root CA publisher: every namespace has a ConfigMap `kube-root-ca.crt` with the certificate that its pods trust.
use crate::{Context, per_namespace};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ObjectMeta;
use std::collections::BTreeMap;

const CONFIG_MAP: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such \
    as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
    clusters.";

/// The ConfigMap to write, or `None` if `current` is right.
fn wanted(current: Option<&ConfigMap>, root_ca: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([(KEY.to_owned(), root_ca.to_owned())]);
    let described = |map: &ConfigMap| {
        map.metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(DESCRIPTION))
            .is_some_and(|text| text == TEXT)
    };
    if current.is_some_and(|current| current.data.as_ref() == Some(&data) && described(current)) {
        return None;
    }
    let mut map = current.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta { name: Some(CONFIG_MAP.to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    });
    map.metadata.annotations.get_or_insert_default().insert(DESCRIPTION.to_owned(), TEXT.to_owned());
    map.data = Some(data);
    Some(map)
}

/// Runs the publisher until the context stops.
pub(crate) async fn run(cx: Context) {
    let config = cx.config.clone();
    let publish = move |current: Option<&ConfigMap>| wanted(current, &config.root_ca_pem);
    per_namespace::run(cx, "root-ca-cert-publisher", CONFIG_MAP, publish).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_certificate_is_published_and_a_right_one_left_alone() {
        let first = wanted(None, "one").unwrap();
        assert_eq!(wanted(Some(&first), "one"), None);
        assert_eq!(wanted(Some(&first), "two").unwrap().data.unwrap()[KEY], "two");
    }
}
