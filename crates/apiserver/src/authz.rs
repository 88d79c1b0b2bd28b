//! Authorization: whether a user may do what a request asks for. Start at [`Authorizer`].
pub mod default;
pub mod escalation;
pub mod graph;
pub mod index;
pub mod node;
pub mod rbac;
pub mod rules;
pub mod webhook;

use crate::registry::Registry;
use crate::request_info::RequestInfo;
use async_trait::async_trait;
use pintle_api::field::go_quote;
use pintle_api::scheme::GroupResource;
use pintle_api::selector::FieldSelector;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;

/// What is to be authorized: upstream's `authorizer.Attributes`.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// Who asks.
    pub user: UserInfo,
    /// `get`, `list`, `create`, …; for plain paths the method in lower case.
    pub verb: String,
    /// The namespace, empty for cluster-scoped requests.
    pub namespace: String,
    /// The API group, empty for the core group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The resource in plural.
    pub resource: String,
    /// The subresource, empty if none.
    pub subresource: String,
    /// The object's name, empty for collections.
    pub name: String,
    /// The field selector of a list or watch, as it was sent.
    pub field_selector: String,
    /// Whether a resource is meant; otherwise only `verb` and `path` count.
    pub is_resource_request: bool,
    /// The path of the request.
    pub path: String,
}

impl Attributes {
    /// What `user` asks for with the request that `info` describes.
    pub fn of_request(user: &UserInfo, info: &RequestInfo) -> Self {
        Attributes {
            user: user.clone(),
            verb: info.verb.to_owned(),
            namespace: info.namespace.clone(),
            group: info.api_group.clone(),
            version: info.api_version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            name: info.name.clone(),
            field_selector: info.query.text("fieldSelector").to_owned(),
            is_resource_request: info.is_resource_request,
            path: info.path.clone(),
        }
    }
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed.
    Allow,
    /// Not allowed, whatever other authorizers say; the reason is for the user's eyes.
    Deny(String),
    /// Not allowed as far as this authorizer knows; the reason is for the user's eyes.
    NoOpinion(String),
}

/// Decides whether a user may do something.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// The decision on `attributes`. Called for every request: it must be quick and not read the store each time.
    async fn authorize(&self, attributes: &Attributes, registry: &Registry) -> Decision;

    /// The decision and its reason, also when it allows: for the audit record.
    async fn decide(&self, attributes: &Attributes, registry: &Registry) -> (Decision, String) {
        let decision = self.authorize(attributes, registry).await;
        let reason = match &decision {
            Decision::Allow => String::new(),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => reason.clone(),
        };
        (decision, reason)
    }
}

impl Attributes {
    /// Whether the field selector asks for `field` to be `value`.
    pub fn selects(&self, field: &str, value: &str) -> bool {
        let terms = FieldSelector::parse(&self.field_selector);
        terms.is_ok_and(|selector| selector.required_value(field) == Some(value))
    }

    /// The error that refuses this request, worded as upstream's; `reason` is the authorizer's, may be empty.
    // upstream: apiserver pkg/endpoints/handlers/responsewriters, ForbiddenStatusError
    pub fn forbidden(&self, reason: &str) -> ApiError {
        let what = self.describe().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let why = if reason.is_empty() { what } else { format!("{what}: {reason}") };
        let resource = GroupResource { group: &self.group, resource: &self.resource };
        ApiError::forbidden(resource, &self.name, why)
    }

    fn describe(&self) -> String {
        let (user, verb) = (go_quote(&self.user.name), &self.verb);
        if !self.is_resource_request {
            return format!("User {user} cannot {verb} path {}", go_quote(&self.path));
        }
        let resource = match self.subresource.as_str() {
            "" => go_quote(&self.resource),
            subresource => go_quote(&format!("{}/{subresource}", self.resource)),
        };
        let scope = match self.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {}", go_quote(namespace)),
        };
        format!("User {user} cannot {verb} resource {resource} in API group {} {scope}", go_quote(&self.group))
    }
}
