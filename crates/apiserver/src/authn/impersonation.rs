//! Acting as someone else: the `Impersonate-*` headers. Start at [`Impersonation::resolve`].
//!
//! Several modes give the right to, tried from the narrowest on: constrained ones (KEP-5284) need `impersonate:<mode>` on whom
//! and `impersonate-on:<mode>:<verb>` on what is done meanwhile; the last, of old, needs `impersonate` alone.
// upstream: apiserver pkg/endpoints/filters/impersonation
use crate::authz::{Attributes, Authorizer, Decision};
use crate::registry::Registry;
use crate::request_info::RequestInfo;
use http::HeaderMap;
use parking_lot::Mutex;
use pintle_api::field::go_quote;
use pintle_api::names::{dns1123_label, dns1123_subdomain};
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use std::collections::HashMap;

const EXTRA: &str = "impersonate-extra-";
const NODE_NAME_KEY: &str = "authentication.kubernetes.io/node-name";
/// So many groups or values of extras are first asked for at once.
const MANY: usize = 4;
/// Of how many users the mode is remembered that gave them the right last.
const REMEMBERED: usize = 10_000;

/// By which rights somebody acts as someone else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A service account as the node that its pod is on.
    AssociatedNode,
    /// As any node.
    ArbitraryNode,
    /// As a service account.
    ServiceAccount,
    /// As anybody else.
    UserInfo,
    /// As whomever, for whatever.
    Legacy,
}

impl Mode {
    const ALL: [Mode; 5] =
        [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "legacy",
        }
    }

    fn is_constrained(self) -> bool {
        self != Mode::Legacy
    }

    fn verb(self) -> String {
        if self.is_constrained() { format!("impersonate:{}", self.name()) } else { "impersonate".to_owned() }
    }

    /// Whether the mode is made for acting as `wanted`.
    fn applies(self, wanted: &UserInfo, user: &UserInfo) -> bool {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node_name(&wanted.name), account(&wanted.name));
        match self {
            Mode::AssociatedNode => {
                let on = user.extra.get(NODE_NAME_KEY).filter(|values| values.len() == 1).map(|values| &*values[0]);
                only_name && node.is_some() && node == on && self::account(&user.name).is_some()
            }
            Mode::ArbitraryNode => only_name && node.is_some(),
            Mode::ServiceAccount => only_name && account.is_some(),
            Mode::UserInfo => node.is_none() && account.is_none(),
            Mode::Legacy => true,
        }
    }
}

/// As whom a request is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonated {
    /// The user, with the groups that belong to it.
    pub user: UserInfo,
    /// The verb that gave the right, if it limits what may be done.
    pub constraint: String,
}

/// Remembers which mode gave whom the right, to try it first.
#[derive(Debug, Default)]
pub struct Impersonation {
    last: Mutex<HashMap<String, Mode>>,
}

/// A request for whose sake somebody acts as someone else.
struct Asked<'a> {
    user: &'a UserInfo,
    wanted: &'a UserInfo,
    info: &'a RequestInfo,
    authorizer: &'a dyn Authorizer,
    registry: &'a Registry,
}

impl Impersonation {
    /// As whom `user` acts by `headers`; `None` if they ask for nothing.
    pub async fn resolve(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
        headers: &HeaderMap,
        authorizer: &dyn Authorizer,
        registry: &Registry,
    ) -> Result<Option<Impersonated>, ApiError> {
        let Some(wanted) = wanted(headers)? else { return Ok(None) };
        let asked = Asked { user, wanted: &wanted, info, authorizer, registry };
        let last = self.last.lock().get(&user.name).copied();
        let mut refused = None;
        let others = Mode::ALL.into_iter().filter(|mode| Some(*mode) != last);
        for mode in last.into_iter().chain(others).filter(|mode| mode.applies(&wanted, user)) {
            match asked.by(mode).await {
                Ok(user) => {
                    if last != Some(mode) {
                        self.remember(&asked.user.name, mode);
                    }
                    let constraint = if mode.is_constrained() { mode.verb() } else { String::new() };
                    return Ok(Some(Impersonated { user, constraint }));
                }
                Err(error) => {
                    refused.get_or_insert(error);
                }
            }
        }
        Err(refused.unwrap_or_else(|| ApiError::internal("all impersonation modes failed")))
    }

    fn remember(&self, user: &str, mode: Mode) {
        let mut last = self.last.lock();
        if last.len() >= REMEMBERED {
            last.clear();
        }
        last.insert(user.to_owned(), mode);
    }
}

/// Whom the headers ask to act as, as they say it.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, ApiError> {
    let one = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let groups = headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok().map(str::to_owned));
    let (name, uid) = (one("impersonate-user"), one("impersonate-uid"));
    let mut wanted = UserInfo { name, uid, groups: groups.collect(), ..UserInfo::default() };
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) {
            wanted.extra.entry(crate::query::decode(key, false)).or_default().push(value.to_owned());
        }
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    if wanted == UserInfo::default() {
        return Ok(None);
    }
    Err(ApiError::bad_request(format!("requested {} without impersonating a user name", go_syntax(&wanted))))
}

/// `user` as Go's `%#v` writes a `user.DefaultInfo`.
fn go_syntax(user: &UserInfo) -> String {
    let strings = |list: &[String]| match list.is_empty() {
        true => "[]string(nil)".to_owned(),
        false => format!("[]string{{{}}}", list.iter().map(|text| go_quote(text)).collect::<Vec<_>>().join(", ")),
    };
    let list = |list: &[String]| strings(list).trim_start_matches("[]string").to_owned();
    let extra = match user.extra.is_empty() {
        true => "(nil)".to_owned(),
        false => {
            let entries: Vec<_> =
                user.extra.iter().map(|(key, values)| format!("{}:[]string{}", go_quote(key), list(values))).collect();
            format!("{{{}}}", entries.join(", "))
        }
    };
    let (name, uid, groups) = (go_quote(&user.name), go_quote(&user.uid), strings(&user.groups));
    format!("&user.DefaultInfo{{Name:{name}, UID:{uid}, Groups:{groups}, Extra:map[string][]string{extra}}}")
}

impl Asked<'_> {
    /// The user as whom the request is made, if `mode` gives the right to.
    async fn by(&self, mode: Mode) -> Result<UserInfo, ApiError> {
        if mode.is_constrained() {
            let mut on = Attributes::of_request(self.user, self.info);
            on.verb = format!("impersonate-on:{}:{}", mode.name(), on.verb);
            self.check(mode, on).await?;
        }
        self.check_name(mode).await?;
        if !self.wanted.uid.is_empty() {
            let uid = self.wanted.uid.as_str();
            self.check(mode, self.attributes(mode, "authentication.k8s.io", "uids", "", uid)).await?;
        }
        self.check_groups(mode).await?;
        self.check_extra(mode).await?;
        Ok(completed(self.wanted.clone(), mode))
    }

    fn attributes(&self, mode: Mode, group: &str, resource: &str, subresource: &str, name: &str) -> Attributes {
        Attributes {
            user: self.user.clone(),
            verb: mode.verb(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            is_resource_request: true,
            ..Attributes::default()
        }
    }

    /// The API group of users and groups.
    fn group(mode: Mode) -> &'static str {
        if mode.is_constrained() { "authentication.k8s.io" } else { "" }
    }

    async fn check(&self, mode: Mode, mut attributes: Attributes) -> Result<(), ApiError> {
        if mode == Mode::AssociatedNode {
            // Which node it is was found out before; the right is one for all nodes on which the account may be.
            let keys = self.user.extra.keys().cloned().collect();
            attributes.user.extra = [("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)].into();
            if attributes.verb == mode.verb() {
                attributes.name = "*".to_owned();
            }
        }
        match self.authorizer.authorize(&attributes, self.registry).await {
            Decision::Allow => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(attributes.forbidden(&reason)),
        }
    }

    async fn check_name(&self, mode: Mode) -> Result<(), ApiError> {
        let name = self.wanted.name.as_str();
        let mut attributes = self.attributes(mode, Self::group(mode), "users", "", name);
        if let Some(node) = node_name(name).filter(|_| mode.is_constrained()) {
            (attributes.resource, attributes.name) = ("nodes".to_owned(), node.to_owned());
        }
        if let Some((namespace, name)) = account(name) {
            attributes.resource = "serviceaccounts".to_owned();
            (attributes.namespace, attributes.name) = (namespace.to_owned(), name.to_owned());
        }
        self.check(mode, attributes).await
    }

    async fn check_groups(&self, mode: Mode) -> Result<(), ApiError> {
        let groups = &self.wanted.groups;
        let of = |name: &str| self.attributes(mode, Self::group(mode), "groups", "", name);
        if mode.is_constrained() {
            if groups.iter().any(String::is_empty) {
                return Err(of("").forbidden("impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|group| group == "system:masters") {
                let why = "impersonating the system:masters group is not allowed";
                return Err(of("system:masters").forbidden(why));
            }
            if groups.len() >= MANY && self.check(mode, of("*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.check(mode, of(group)).await?;
        }
        Ok(())
    }

    async fn check_extra(&self, mode: Mode) -> Result<(), ApiError> {
        let extra = &self.wanted.extra;
        let of = |key: &str, value: &str| self.attributes(mode, "authentication.k8s.io", "userextras", key, value);
        if mode.is_constrained() && !extra.is_empty() {
            for (key, values) in extra {
                if let Some(why) = wrong_extra(key, values) {
                    return Err(of("", "").forbidden(&why));
                }
            }
            let many = extra.len() >= MANY || extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.check(mode, of("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.check(mode, of(key, value)).await?;
            }
        }
        Ok(())
    }
}

/// What is wrong with an extra for constrained modes.
// upstream: validateExtra
fn wrong_extra(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    let prefixed = key.split_once('/').is_some_and(|(domain, path)| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._~%!$&'()*+,;=:/-".contains(c);
        dns1123_subdomain(domain).is_empty() && !path.is_empty() && path.chars().all(fits)
    });
    if !prefixed {
        let key = go_quote(key);
        return Some(format!(
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key}: must be a \
             domain-prefixed path (such as \"acme.io/foo\")"
        ));
    }
    if key.chars().any(char::is_uppercase) {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {}", go_quote(key)));
    }
    if values.iter().any(String::is_empty) {
        return Some("impersonating the empty string value in extra is not allowed".to_owned());
    }
    None
}

/// Namespace and name of a service account's user name.
fn account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (dns1123_label(namespace).is_empty() && dns1123_subdomain(name).is_empty()).then_some((namespace, name))
}

fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| dns1123_subdomain(name).is_empty())
}

/// The groups that every user has in addition to those asked for.
fn completed(mut target: UserInfo, mode: Mode) -> UserInfo {
    if mode.is_constrained() && node_name(&target.name).is_some() {
        target.groups = vec!["system:nodes".to_owned()];
    }
    if target.groups.is_empty()
        && let Some((namespace, _)) = account(&target.name)
    {
        target.groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let has = |group: &str| target.groups.iter().any(|known| known == group);
    let missing = if target.name == "system:anonymous" {
        "system:unauthenticated"
    } else if has("system:unauthenticated") {
        return target;
    } else {
        "system:authenticated"
    };
    if !has(missing) {
        target.groups.push(missing.to_owned());
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use http::Method;
    use pintle_api::scheme::Scheme;
    use pintle_store::embedded::{EmbeddedStore, Options};
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;

    /// Allows what it lists, as `verb resource/name`.
    struct Allows(Vec<&'static str>);

    #[async_trait]
    impl Authorizer for Allows {
        async fn authorize(&self, attributes: &Attributes, _: &Registry) -> Decision {
            let asked = format!("{} {}/{}", attributes.verb, attributes.resource, attributes.name);
            match self.0.contains(&asked.as_str()) {
                true => Decision::Allow,
                false => Decision::NoOpinion(String::new()),
            }
        }
    }

    async fn resolve(
        user: &UserInfo,
        headers: &[(&'static str, &str)],
        allowed: &[&'static str],
    ) -> Result<Option<Impersonated>, ApiError> {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap();
        let registry = Registry::new(Arc::new(store), Scheme::builtin(), CancellationToken::new());
        let info = RequestInfo::parse(&Method::GET, &"/api/v1/pods".parse().unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Impersonation::default().resolve(user, &info, &map, &Allows(allowed.to_vec()), &registry).await
    }

    #[tokio::test]
    async fn constrained_modes_need_rights_on_whom_and_on_what() {
        let agent = UserInfo {
            extra: [(NODE_NAME_KEY.to_owned(), vec!["n1".to_owned()])].into(),
            ..UserInfo::service_account("kube-system", "agent")
        };
        let node = [("impersonate-user", "system:node:n1")];
        let rights = ["impersonate:associated-node nodes/*", "impersonate-on:associated-node:list pods/"];
        let acts = resolve(&agent, &node, &rights).await.unwrap().unwrap();
        assert_eq!(acts.user.groups, ["system:nodes", "system:authenticated"]);
        assert_eq!(acts.constraint, "impersonate:associated-node");
        let other = resolve(&agent, &[("impersonate-user", "system:node:n2")], &rights).await.unwrap_err();
        assert_eq!(other.code, 403);
        assert!(resolve(&agent, &node, &rights[..1]).await.is_err());
        let rights = ["impersonate:serviceaccount serviceaccounts/b", "impersonate-on:serviceaccount:list pods/"];
        let account = [("impersonate-user", "system:serviceaccount:a:b")];
        let acts = resolve(&UserInfo::new("eve", &[]), &account, &rights).await.unwrap().unwrap();
        assert_eq!(acts.user, UserInfo::service_account("a", "b"));
    }

    #[tokio::test]
    async fn the_old_mode_needs_one_verb_and_says_what_was_refused_first() {
        let eve = UserInfo::new("eve", &[]);
        let headers = [
            ("impersonate-user", "bob"),
            ("impersonate-group", "g"),
            ("impersonate-extra-a%2fb", "c"),
            ("impersonate-uid", "u"),
        ];
        let rights =
            ["impersonate users/bob", "impersonate groups/g", "impersonate userextras/c", "impersonate uids/u"];
        let acts = resolve(&eve, &headers, &rights).await.unwrap().unwrap();
        assert_eq!((acts.constraint.as_str(), acts.user.uid.as_str()), ("", "u"));
        assert_eq!(acts.user.groups, ["g", "system:authenticated"]);
        assert_eq!(acts.user.extra["a/b"], ["c"]);
        let error = resolve(&eve, &headers, &rights[..1]).await.unwrap_err();
        assert!(error.message.contains("cannot impersonate-on:user-info:list resource \"pods\""), "{}", error.message);
    }

    #[tokio::test]
    async fn masters_and_nobody_are_not_impersonated_by_constrained_rights() {
        let eve = UserInfo::new("eve", &[]);
        let headers = [("impersonate-user", "bob"), ("impersonate-group", "system:masters")];
        let rights = [
            "impersonate-on:user-info:list pods/",
            "impersonate:user-info users/bob",
            "impersonate:user-info groups/system:masters",
        ];
        let error = resolve(&eve, &headers, &rights).await.unwrap_err();
        assert!(error.message.ends_with("impersonating the system:masters group is not allowed"), "{}", error.message);
        let error = resolve(&eve, &headers[1..], &rights).await.unwrap_err();
        assert_eq!(
            error.message,
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"system:masters\"}, \
             Extra:map[string][]string(nil)} without impersonating a user name"
        );
        assert_eq!(resolve(&eve, &[], &rights).await.unwrap(), None);
    }
}
