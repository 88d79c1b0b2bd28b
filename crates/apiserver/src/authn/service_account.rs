//! Whether what a service-account token is bound to still exists, and whom it stands for.
// upstream: pkg/serviceaccount/claims.go
use super::tokens::{Claims, Ref, TokenError, TokenKeys};
use crate::registry::Registry;
use pintle_api::user::UserInfo;
use serde_json::Value;

/// Seconds for which a token outlives the deletion of what it is bound to, while that still exists.
const LEEWAY: i64 = 60;

/// The user that `token` stands for, at `now` (Unix seconds).
pub async fn user_of_token(
    keys: &TokenKeys,
    token: &str,
    audiences: &[String],
    now: i64,
    registry: &Registry,
) -> Result<(UserInfo, Vec<String>), TokenError> {
    let claims = keys.verify(token, audiences, now)?;
    check_bound_objects(&claims, now, registry).await?;
    let audiences = claims.aud.iter().filter(|audience| audiences.contains(audience)).cloned().collect();
    Ok((user_of(&claims), audiences))
}

/// The user that `claims` describe.
pub fn user_of(claims: &Claims) -> UserInfo {
    let kubernetes = &claims.kubernetes;
    let mut user = UserInfo::service_account(&kubernetes.namespace, &kubernetes.serviceaccount.name);
    user.uid.clone_from(&kubernetes.serviceaccount.uid);
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        extra("credential-id", &format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &kubernetes.pod {
        extra("pod-name", &pod.name);
        extra("pod-uid", &pod.uid);
    }
    if let Some(node) = &kubernetes.node {
        extra("node-name", &node.name);
        extra("node-uid", &node.uid);
    }
    user
}

async fn check_bound_objects(claims: &Claims, now: i64, registry: &Registry) -> Result<(), TokenError> {
    let kubernetes = &claims.kubernetes;
    let (namespace, account) = (kubernetes.namespace.as_str(), &kubernetes.serviceaccount);
    let gone = || "service account token has been invalidated".to_owned();
    let found = get(registry, "serviceaccounts", namespace, &account.name).await;
    let found =
        found.ok_or_else(|| TokenError::Invalidated(format!("serviceaccounts {:?} not found", account.name)))?;
    check(
        &found,
        account,
        now,
        |uid| format!("service account UID ({uid}) does not match claim ({})", account.uid),
        || format!("service account {namespace}/{} has been deleted", account.name),
    )?;
    if let Some(secret) = &kubernetes.secret {
        let found = get(registry, "secrets", namespace, &secret.name).await;
        let found = found.ok_or_else(|| TokenError::Invalidated(gone()))?;
        let other =
            |uid: &str| format!("secret UID ({uid}) does not match service account secret ref claim ({})", secret.uid);
        check(&found, secret, now, other, gone)?;
    }
    if let Some(pod) = &kubernetes.pod {
        let found = get(registry, "pods", namespace, &pod.name).await;
        let found = found.ok_or_else(|| TokenError::Invalidated(gone()))?;
        let other = |uid: &str| format!("pod UID ({uid}) does not match service account pod ref claim ({})", pod.uid);
        check(&found, pod, now, other, gone)?;
    } else if let Some(node) = &kubernetes.node {
        let found = get(registry, "nodes", "", &node.name).await;
        let found = found.ok_or_else(|| TokenError::Invalidated(gone()))?;
        let other =
            |uid: &str| format!("node UID ({uid}) does not match service account node ref claim ({})", node.uid);
        check(&found, node, now, other, gone)?;
    }
    Ok(())
}

async fn get(registry: &Registry, plural: &str, namespace: &str, name: &str) -> Option<Value> {
    let resource = registry.resource("", plural).ok()?;
    registry.get(&resource, namespace, name).await.ok()
}

fn check(
    object: &Value,
    reference: &Ref,
    now: i64,
    other: impl FnOnce(&str) -> String,
    deleted: impl FnOnce() -> String,
) -> Result<(), TokenError> {
    let metadata = &object["metadata"];
    let uid = metadata["uid"].as_str().unwrap_or_default();
    if uid != reference.uid {
        return Err(TokenError::Invalidated(other(uid)));
    }
    let deletion = metadata["deletionTimestamp"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    if deletion.is_some_and(|time| time.as_second() < now - LEEWAY) {
        return Err(TokenError::Invalidated(deleted()));
    }
    Ok(())
}
