//! Acting as someone else: the `Impersonate-*` headers, each of which must be authorized.
// upstream: apiserver pkg/endpoints/filters/impersonation
use crate::authz::default::ClusterAuthorizer;
use crate::authz::{Attributes, Decision};
use http::HeaderMap;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;

const EXTRA: &str = "impersonate-extra-";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The user that `headers` ask to act as, if `user` may; `user` if they ask for nothing.
pub fn apply(user: UserInfo, headers: &HeaderMap, authorizer: &ClusterAuthorizer) -> Result<UserInfo, ApiError> {
    let one = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (name, uid) = (one("impersonate-user"), one("impersonate-uid"));
    let groups = headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok().map(str::to_owned));
    let mut target = UserInfo { name, uid, groups: groups.collect(), ..UserInfo::default() };
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) {
            target.extra.entry(crate::query::decode(key, false)).or_default().push(value.to_owned());
        }
    }
    if target == UserInfo::default() {
        return Ok(user);
    }
    if target.name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "requested [{}] without impersonating a user",
            if target.groups.is_empty() { "UID" } else { "Group" }
        )));
    }
    for attributes in needed(&user, &target) {
        let (decision, reason) = authorizer.decide(&attributes);
        if decision != Decision::Allow {
            return Err(attributes.forbidden(&reason));
        }
    }
    Ok(completed(target))
}

/// What `user` must be allowed in order to act as `target`.
fn needed(user: &UserInfo, target: &UserInfo) -> Vec<Attributes> {
    let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| Attributes {
        user: user.clone(),
        verb: "impersonate".to_owned(),
        namespace: namespace.to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name: name.to_owned(),
        is_resource_request: true,
        ..Attributes::default()
    };
    let account = target.name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
    let mut needed = vec![match account {
        Some((namespace, name)) => ask("", "serviceaccounts", "", namespace, name),
        None => ask("", "users", "", "", &target.name),
    }];
    needed.extend(target.groups.iter().map(|group| ask("", "groups", "", "", group)));
    if !target.uid.is_empty() {
        needed.push(ask("authentication.k8s.io", "uids", "", "", &target.uid));
    }
    for (key, values) in &target.extra {
        needed.extend(values.iter().map(|value| ask("authentication.k8s.io", "userextras", key, "", value)));
    }
    needed
}

/// The groups that every user has in addition to those asked for.
fn completed(mut target: UserInfo) -> UserInfo {
    if target.groups.is_empty()
        && let Some((namespace, _)) = target.name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'))
    {
        target.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    let group = if target.name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !target.groups.iter().any(|known| known == "system:authenticated" || known == "system:unauthenticated") {
        target.groups.push(group.to_owned());
    }
    target
}
