//! The ServiceAccount controller: every namespace has a ServiceAccount `default`.
use crate::{Context, per_namespace};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::ObjectMeta;

const DEFAULT: &str = "default";

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let wanted = |current: Option<&ServiceAccount>| {
        let fresh = || ServiceAccount {
            metadata: ObjectMeta { name: Some(DEFAULT.to_owned()), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        };
        current.is_none().then(fresh)
    };
    per_namespace::run(cx, "service-account-controller", DEFAULT, wanted).await;
}
