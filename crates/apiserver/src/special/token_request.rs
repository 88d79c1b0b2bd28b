//! `serviceaccounts/token`: a token for a service account, bound to a pod, node or secret.
// upstream: pkg/registry/core/serviceaccount/storage/token.go
use super::gate::Gate;
use super::{SpecialRequest, SpecialResponse, SpecialRest};
use crate::admission::{Operation, node_restriction};
use crate::authn::tokens::{Claims, KubernetesClaims, Ref, TokenKeys};
use crate::codec::read_object;
use crate::registry::Registry;
use crate::value::{Fill, Read, object_of};
use async_trait::async_trait;
use http::StatusCode;
use pintle_api::field::{FieldError, Path};
use pintle_api::meta::{self, ObjectExt};
use pintle_api::scheme::{GroupKind, GroupResource, split_api_version};
use pintle_api::status::ApiError;
use serde_json::{Value, json};

/// What a projected volume asks for: its tokens are valid for a year, and warned about after this time (seconds).
const WARN_ONLY: i64 = 3607;
/// How long tokens of projected volumes are valid, in seconds.
const EXTENDED: i64 = 365 * 24 * 60 * 60;
const KIND: GroupKind<'static> = GroupKind { group: "authentication.k8s.io", kind: "TokenRequest" };

/// Issues tokens.
#[derive(Debug)]
pub struct TokenRequest {
    keys: TokenKeys,
}

impl TokenRequest {
    /// Issues tokens signed with `keys`.
    pub fn new(keys: TokenKeys) -> Self {
        TokenRequest { keys }
    }
}

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    pod: Option<Ref>,
    node: Option<Ref>,
    secret: Option<Ref>,
    object: Option<Value>,
}

#[async_trait]
impl SpecialRest for TokenRequest {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let SpecialRequest { cx, parts, body, admission } = request;
        let mut asked = read_object(&parts.headers, body).await?;
        let (namespace, name) = (cx.info.namespace.as_str(), cx.info.name.as_str());
        check_place(&asked, namespace, name)?;
        let accounts = registry.resource("", "serviceaccounts")?;
        if asked.is_object() {
            let object = object_of(&mut asked);
            object.set("kind", KIND.kind);
            object.set("apiVersion", "authentication.k8s.io/v1");
            asked.set_meta_str("name", name);
            asked.set_meta_str("namespace", namespace);
        }
        let gate = Gate::new(&cx, &accounts, Operation::Create, &*admission, registry);
        gate.admit(&mut asked, None).await?;
        let account = registry.get(&accounts, namespace, name).await?;
        if !asked.uid().is_empty() && asked.uid() != account.uid() {
            let resource = GroupResource { group: KIND.group, resource: KIND.kind };
            let why = format!(
                "the UID in the token request ({}) does not match the UID of the service account ({})",
                asked.uid(),
                account.uid()
            );
            return Err(ApiError::conflict(resource, name, why));
        }
        let bound = bound(asked.field("spec").field("boundObjectRef"), namespace, name, registry).await?;
        node_restriction::check_token(&cx.user, asked.field("spec"), bound.object.as_ref())
            .map_err(|why| ApiError::forbidden(accounts.group_resource(), name, why))?;
        let now = jiff::Timestamp::now();
        let spec = object_of(&mut asked).child_or_new("spec");
        spec.fill("expirationSeconds", 3600);
        if spec.items("audiences").is_empty() {
            spec.set("audiences", self.keys.audiences().to_vec());
        }
        check_expiration(&asked)?;
        gate.validate(&asked, None).await?;

        let spec = asked.field("spec");
        let audiences: Vec<String> = spec.texts("audiences").map(str::to_owned).collect();
        let wanted = spec.int("expirationSeconds");
        let ours = audiences.iter().all(|audience| self.keys.audiences().contains(audience));
        let extended = bound.pod.is_some() && wanted == WARN_ONLY && ours;
        let second = now.as_second();
        let claims = Claims {
            aud: audiences,
            iat: second,
            nbf: second,
            exp: second.saturating_add(if extended { EXTENDED } else { wanted }),
            iss: String::new(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            kubernetes: KubernetesClaims {
                namespace: namespace.to_owned(),
                serviceaccount: Ref { name: name.to_owned(), uid: account.uid().to_owned() },
                pod: bound.pod,
                node: bound.node,
                secret: bound.secret,
                warnafter: extended.then(|| second + wanted),
            },
        };
        cx.annotate("authentication.kubernetes.io/issued-credential-id", format!("JTI={}", claims.jti));
        let token = self
            .keys
            .sign(claims)
            .map_err(|error| ApiError::internal(format_args!("failed to generate token: {error}")))?;

        let expires = jiff::Timestamp::from_second(second.saturating_add(wanted)).unwrap_or(jiff::Timestamp::MAX);
        asked.set_meta_str("name", name);
        asked.set_meta_str("namespace", namespace);
        asked.set_meta_str("uid", account.uid());
        asked.set_meta_str("creationTimestamp", meta::time(now));
        let object = object_of(&mut asked);
        object.set("kind", KIND.kind);
        object.set("apiVersion", "authentication.k8s.io/v1");
        object.set("status", json!({"token": token, "expirationTimestamp": meta::time(expires)}));
        Ok(SpecialResponse::Object(StatusCode::CREATED, asked))
    }

    fn handles(&self, verb: &str) -> bool {
        verb == "create"
    }
}

fn check_place(asked: &Value, namespace: &str, name: &str) -> Result<(), ApiError> {
    let metadata = Path::root("metadata");
    let differs = |field: &str, given: &str, wanted: &str| {
        (!given.is_empty() && given != wanted).then(|| {
            let detail = format!("must match the service account {field} if specified");
            ApiError::invalid(KIND, name, &[FieldError::invalid(&metadata.child(field), given, detail)])
        })
    };
    let error = differs("name", asked.name(), name).or_else(|| differs("namespace", asked.namespace(), namespace));
    error.map_or(Ok(()), Err)
}

fn check_expiration(asked: &Value) -> Result<(), ApiError> {
    let seconds = asked.field("spec").int("expirationSeconds");
    let detail = match seconds {
        ..600 => "may not specify a duration less than 10 minutes",
        0x1_0000_0001.. => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let spec = Path::root("spec");
    Err(ApiError::invalid(KIND, "", &[FieldError::invalid(&spec.child("expirationSeconds"), seconds, detail)]))
}

async fn bound(reference: &Value, namespace: &str, account: &str, registry: &Registry) -> Result<Bound, ApiError> {
    let mut bound = Bound::default();
    if reference.is_null() {
        return Ok(bound);
    }
    let name = reference.text("name");
    let (group, version) = split_api_version(reference.text("apiVersion"));
    let (plural, space) = match (group, reference.text("kind")) {
        ("", "Pod") => ("pods", namespace),
        ("", "Node") => ("nodes", ""),
        ("", "Secret") => ("secrets", namespace),
        (_, kind) => {
            let kind = format!("{group}/{version}, Kind={kind}");
            return Err(ApiError::bad_request(format!("cannot bind token to object of type {kind}")));
        }
    };
    let resource = registry.resource("", plural)?;
    let object = registry.get(&resource, space, name).await?;
    let found = Ref { name: name.to_owned(), uid: object.uid().to_owned() };
    match plural {
        "pods" => {
            if object.field("spec").text("serviceAccountName") != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            bound.node = node_of(object.field("spec").text("nodeName"), registry).await?;
            bound.pod = Some(found.clone());
        }
        "nodes" => bound.node = Some(found.clone()),
        _ => bound.secret = Some(found.clone()),
    }
    let uid = reference.text("uid");
    if !uid.is_empty() && uid != found.uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        );
        return Err(ApiError::conflict(GroupResource { group, resource: reference.text("kind") }, name, why));
    }
    bound.object = Some(object);
    Ok(bound)
}

/// The node of a bound pod; one that does not exist is still named.
async fn node_of(name: &str, registry: &Registry) -> Result<Option<Ref>, ApiError> {
    if name.is_empty() {
        return Ok(None);
    }
    let nodes = registry.resource("", "nodes")?;
    let uid = match registry.get(&nodes, "", name).await {
        Ok(node) => node.uid().to_owned(),
        Err(error) if error.code == 404 => String::new(),
        Err(error) => return Err(error),
    };
    Ok(Some(Ref { name: name.to_owned(), uid }))
}
