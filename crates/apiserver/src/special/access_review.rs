//! Access reviews: may someone do something, what may I do.
// upstream: pkg/registry/authorization
use super::{SpecialRequest, SpecialResponse, SpecialRest, read_review};
use crate::authz::default::ClusterAuthorizer;
use crate::authz::{Attributes, Authorizer, Decision};
use crate::registry::Registry;
use crate::validation::common::go_struct;
use crate::value::{Fill, Read, object_of};
use async_trait::async_trait;
use http::StatusCode;
use pintle_api::field::{FieldError, Path};
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::GroupKind;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use serde_json::{Value, json};

const GROUP: &str = "authorization.k8s.io";

/// Whose access is reviewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Anyone's: `subjectaccessreviews`.
    Anyone,
    /// Anyone's in one namespace: `localsubjectaccessreviews`.
    Local,
    /// The caller's: `selfsubjectaccessreviews`.
    Own,
}

impl Whose {
    fn kind(self) -> &'static str {
        match self {
            Whose::Anyone => "SubjectAccessReview",
            Whose::Local => "LocalSubjectAccessReview",
            Whose::Own => "SelfSubjectAccessReview",
        }
    }
}

/// Answers one of the access reviews.
#[derive(Debug)]
pub struct AccessReview {
    whose: Whose,
    authorizer: ClusterAuthorizer,
}

impl AccessReview {
    /// Asks `authorizer`.
    pub fn new(whose: Whose, authorizer: ClusterAuthorizer) -> Self {
        AccessReview { whose, authorizer }
    }
}

#[async_trait]
impl SpecialRest for AccessReview {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let SpecialRequest { cx, parts, body, .. } = request;
        let mut review = read_review(&cx, &parts.headers, body, registry).await?;
        let namespace = cx.info.namespace.as_str();
        if self.whose == Whose::Local && review.namespace().is_empty() {
            review.set_meta_str("namespace", namespace);
        }
        let errors = validate(&review, self.whose);
        if !errors.is_empty() {
            return Err(ApiError::invalid(GroupKind { group: GROUP, kind: "" }, "", &errors));
        }
        if self.whose == Whose::Local && review.namespace() != namespace {
            let text = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
            return Err(ApiError::bad_request(text));
        }
        let user = if self.whose == Whose::Own { cx.user.clone() } else { user_of(review.field("spec")) };
        let asked = attributes_of(user, review.field("spec"));
        let (decision, reason) = Authorizer::decide(&self.authorizer, &asked, registry).await;
        let mut status = json!({"allowed": decision == Decision::Allow});
        let fields = object_of(&mut status);
        if matches!(decision, Decision::Deny(_)) {
            fields.set("denied", true);
        }
        if !reason.is_empty() {
            fields.set("reason", reason);
        }
        object_of(&mut review).set("status", status);
        Ok(created(review, self.whose.kind()))
    }

    fn handles(&self, verb: &str) -> bool {
        verb == "create"
    }
}

fn created(mut review: Value, kind: &str) -> SpecialResponse {
    let object = object_of(&mut review);
    object.set("kind", kind);
    object.set("apiVersion", "authorization.k8s.io/v1");
    object.child_or_new("metadata");
    SpecialResponse::Object(StatusCode::CREATED, review)
}

fn validate(review: &Value, whose: Whose) -> Vec<FieldError> {
    let (mut errors, spec, path) = (Vec::new(), review.field("spec"), Path::root("spec"));
    let (resource, other) = (spec.field("resourceAttributes"), spec.field("nonResourceAttributes"));
    if !resource.is_null() && !other.is_null() {
        let detail = "cannot be specified in combination with resourceAttributes";
        let shown = go_struct(other, &[("Path", "path"), ("Verb", "verb")], true);
        errors.push(FieldError::invalid(&path.child("nonResourceAttributes"), shown, detail));
    }
    if resource.is_null() && other.is_null() {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid(&path.child("resourceAttributes"), &Value::Null, detail));
    }
    if whose != Whose::Own && spec.text("user").is_empty() && spec.items("groups").is_empty() {
        let detail = "at least one of user or group must be specified";
        errors.push(FieldError::invalid(&path.child("user"), "", detail));
    }
    for kind in ["fieldSelector", "labelSelector"] {
        let place = Path::root("spec.resourceAttributes");
        selector(resource.field(kind), &place.child(kind), &mut errors);
    }
    let metadata = review.metadata().into_iter().flatten().filter(|(key, value)| {
        let ignored = ["managedFields", "creationTimestamp"].contains(&key.as_str());
        !(ignored || crate::value::is_zero(value) || whose == Whose::Local && key.as_str() == "namespace")
    });
    if metadata.count() > 0 {
        let detail = if whose == Whose::Local { "must be empty except for namespace" } else { "must be empty" };
        errors.push(FieldError::invalid(&Path::root("metadata"), review.field("metadata"), detail));
    }
    if whose == Whose::Local {
        if !resource.is_null() && resource.text("namespace") != review.namespace() {
            let path = Path::root("spec.resourceAttributes.namespace");
            errors.push(FieldError::invalid(&path, resource.text("namespace"), "must match metadata.namespace"));
        }
        if !other.is_null() {
            let path = Path::root("spec.nonResourceAttributes");
            let shown = go_struct(other, &[("Path", "path"), ("Verb", "verb")], true);
            errors.push(FieldError::invalid(&path, shown, "disallowed on this kind of request"));
        }
    }
    errors
}

/// What a selector asks for is said in one way.
fn selector(selector: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if selector.is_null() {
        return;
    }
    let (raw, requirements) = (selector.text("rawSelector"), selector.items("requirements"));
    if !raw.is_empty() && !requirements.is_empty() {
        let text = "may not specified at the same time as requirements";
        errors.push(FieldError::invalid(&path.child("rawSelector"), raw, text));
    }
    if raw.is_empty() && requirements.is_empty() {
        let text = format!("when {path} is specified, requirements or rawSelector is required");
        errors.push(FieldError::required(&path.child("requirements"), text));
    }
    let list = path.child("requirements");
    for (i, requirement) in requirements.iter().enumerate() {
        let place = list.index(i);
        let values = requirement.items("values");
        match requirement.text("operator") {
            "In" | "NotIn" if values.is_empty() => {
                let text = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(&place.child("values"), text));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(&place.child("values"), text));
            }
            _ => {}
        }
        if requirement.text("key").is_empty() {
            errors.push(FieldError::required(&place.child("key"), "must be specified"));
        }
    }
}

fn user_of(spec: &Value) -> UserInfo {
    let strings =
        |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    UserInfo {
        name: spec.text("user").to_owned(),
        uid: spec.text("uid").to_owned(),
        groups: spec.texts("groups").map(str::to_owned).collect(),
        extra: spec.entries("extra").map(|(key, value)| (key.to_owned(), strings(value))).collect(),
    }
}

fn attributes_of(user: UserInfo, spec: &Value) -> Attributes {
    let resource = spec.field("resourceAttributes");
    if resource.is_null() {
        let other = spec.field("nonResourceAttributes");
        let (verb, path) = (other.text("verb").to_owned(), other.text("path").to_owned());
        return Attributes { user, verb, path, ..Attributes::default() };
    }
    let text = |field: &str| resource.text(field).to_owned();
    Attributes {
        user,
        verb: text("verb"),
        namespace: text("namespace"),
        group: text("group"),
        version: text("version"),
        resource: text("resource"),
        subresource: text("subresource"),
        name: text("name"),
        is_resource_request: true,
        ..Attributes::default()
    }
}

/// Answers `selfsubjectrulesreviews`.
#[derive(Debug)]
pub struct RulesReview {
    authorizer: ClusterAuthorizer,
}

impl RulesReview {
    /// Asks `authorizer`.
    pub fn new(authorizer: ClusterAuthorizer) -> Self {
        RulesReview { authorizer }
    }
}

#[async_trait]
impl SpecialRest for RulesReview {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let SpecialRequest { cx, parts, body, .. } = request;
        let asked = read_review(&cx, &parts.headers, body, registry).await?;
        let namespace = asked.field("spec").text("namespace");
        if namespace.is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        let (rules, errors) = self.authorizer.rules_for(&cx.user, namespace);
        let (mut resource_rules, mut other_rules) = (Vec::new(), Vec::new());
        for rule in rules {
            if !rule.resources.is_empty() {
                let mut item = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
                if !rule.resource_names.is_empty() {
                    object_of(&mut item).set("resourceNames", rule.resource_names);
                }
                resource_rules.push(item);
            }
            if !rule.non_resource_urls.is_empty() {
                other_rules.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
            }
        }
        let mut status = json!({"resourceRules": resource_rules, "nonResourceRules": other_rules, "incomplete": false});
        if !errors.is_empty() {
            object_of(&mut status).set("evaluationError", errors.join(", "));
        }
        Ok(created(json!({"spec": {}, "status": status}), "SelfSubjectRulesReview"))
    }

    fn handles(&self, verb: &str) -> bool {
        verb == "create"
    }
}
