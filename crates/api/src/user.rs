//! Who makes a request: upstream's `user.Info`.
use std::collections::BTreeMap;

/// An authenticated identity, as `user.Info` of `k8s.io/apiserver`.
///
/// In-process components attach one to each request as an [`http::Extensions`] value; the API server's network
/// listener never takes it from the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name that uniquely identifies this user among all active users, e.g. `system:kube-scheduler`.
    pub name: String,
    /// A unique value for a particular user that changes if the user is removed and another is added with that name.
    pub uid: String,
    /// The names of the groups the user is a member of.
    pub groups: Vec<String>,
    /// Further information that the authenticator gave.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// An authenticated component or person named `name`, member of `groups` and of `system:authenticated`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        groups.push("system:authenticated".into());
        UserInfo { name: name.into(), groups, ..UserInfo::default() }
    }

    /// The identity of a service account: `system:serviceaccount:<namespace>:<name>` with its groups.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let all = format!("system:serviceaccounts:{namespace}");
        UserInfo::new(format!("system:serviceaccount:{namespace}:{name}"), &["system:serviceaccounts", &all])
    }
}
