//! Certificates for nodes: approves the requests of kubelets, signs what was approved, forgets old requests. The decisions
//! are in [`recognize`] and [`serving_problem`].
// upstream: pkg/controller/certificates, approver/sarapprove.go, signer/signer.go, cleaner/cleaner.go
use crate::Context;
use crate::claim::{name, uid};
use crate::error::{Error, is_not_found, unless_not_found};
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use pintle_client::WorkQueue;
use pintle_client::informer::{Change, Informer};
use pintle_pki::authority::LEAF_LIFE;
use pintle_pki::{Authority, SigningRequest, Usages};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The signer of kubelets' client certificates.
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The signer of kubelets' serving certificates.
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// The signer of everybody else's client certificates.
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// The signer of whatever was asked for before there were signers.
const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";
const NODE_PREFIX: &str = "system:node:";
const NODES: &str = "system:nodes";
const BOOTSTRAP_PREFIX: &str = "system:bootstrap:";
const HOUR: Duration = Duration::from_secs(3600);

/// On a bootstrap token's Secret: `true` if it makes one node only.
pub const ONE_TIME: &str = "pintle.dev/one-time";
/// On a bootstrap token's Secret: the UID of the request that it was used for.
pub const USED_BY: &str = "pintle.dev/used-by";
/// A used token is kept this long, so that its user can fetch the certificate.
const USED_FOR: Duration = Duration::from_secs(60);

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A kubelet's client certificate; true: the node asks itself, which has one already.
    Client { own: bool },
    /// A kubelet's serving certificate.
    Serving,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let Some(authority) = cx.config.signer.clone() else { return };
    let requests = cx.informers.of::<CertificateSigningRequest>();
    let queue = WorkQueue::<String>::new();
    let added = queue.clone();
    requests.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            added.add(name(change.object().as_ref()).to_owned());
        }
    });
    let nodes = cx.informers.of::<Node>();
    requests.synced().await;
    let client = cx.clients.controller("certificate-controller");
    let signing = Arc::new(Signing { client, requests, nodes, authority });
    queue
        .run("certificate-signing", 1, cx.stop, move |named| {
            let signing = signing.clone();
            async move { signing.reconcile(&named).await }
        })
        .await;
}

struct Signing {
    client: Client,
    requests: Informer<CertificateSigningRequest>,
    nodes: Informer<Node>,
    authority: Arc<Authority>,
}

impl Signing {
    async fn reconcile(&self, named: &str) -> Result<Option<Duration>, Error> {
        let Some(request) = self.requests.get("", named) else { return Ok(None) };
        if let Some(due) = expiry(&request) {
            let left = SignedDuration::from_secs(due.as_second() - Timestamp::now().as_second());
            if left.is_zero() || left.is_negative() {
                let params = DeleteParams { preconditions: of_uid(uid(request.as_ref())), ..DeleteParams::default() };
                unless_not_found(self.api().delete(named, &params).await)?;
                return Ok(None);
            }
        }
        if !has_condition(&request, "Approved") && !has_condition(&request, "Denied") {
            return self.approve(&request).await;
        }
        if has_condition(&request, "Approved") && !has_condition(&request, "Failed") && certificate(&request).is_none()
        {
            return self.sign(&request).await;
        }
        if let Some(later) = self.forget_used_token(&request).await? {
            return Ok(Some(later));
        }
        let due = expiry(&request).map(|due| due.as_second() - Timestamp::now().as_second());
        Ok(due.and_then(|left| u64::try_from(left).ok()).map(|left| Duration::from_secs(left.max(1))))
    }

    fn api(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.client.clone())
    }

    async fn approve(&self, request: &CertificateSigningRequest) -> Result<Option<Duration>, Error> {
        let Some(parsed) = SigningRequest::parse(&request.spec.request.0) else { return Ok(Some(HOUR)) };
        let Some(purpose) = recognize(request, &parsed) else { return Ok(Some(HOUR)) };
        match purpose {
            Purpose::Client { own } => {
                let allowed = own && self.allows(request, "selfnodeclient").await?;
                if allowed {
                    let text = "Auto approving self kubelet client certificate after SubjectAccessReview.";
                    return self.condition(request, "Approved", "AutoApproved", text).await;
                }
                if !self.allows(request, "nodeclient").await? {
                    return Ok(Some(HOUR));
                }
                if let Some(problem) = self.use_token(request, &parsed).await? {
                    return self.condition(request, "Denied", "TokenUsed", &problem).await;
                }
                let text = "Auto approving kubelet client certificate after SubjectAccessReview.";
                self.condition(request, "Approved", "AutoApproved", text).await
            }
            Purpose::Serving => {
                self.nodes.synced().await;
                match serving_problem(&parsed, &self.nodes.list()) {
                    None => {
                        let text = "Auto approving kubelet serving certificate for the Node's own name and addresses.";
                        self.condition(request, "Approved", "AutoApproved", text).await
                    }
                    // The Node may not have told its addresses yet, or this copy does not show them.
                    Some(problem) => Err(Error::Unfinished(problem)),
                }
            }
        }
    }

    /// Whether the API lets the sender of `request` have what `subresource` stands for.
    async fn allows(&self, request: &CertificateSigningRequest, subresource: &str) -> Result<bool, Error> {
        let spec = &request.spec;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    version: Some("*".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    verb: Some("create".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Takes the sender's bootstrap token for this request, if it is one that makes one node only. Says why not if it was
    /// taken for another one.
    async fn use_token(
        &self,
        request: &CertificateSigningRequest,
        parsed: &SigningRequest,
    ) -> Result<Option<String>, Error> {
        let Some(id) = bootstrap_id(request) else { return Ok(None) };
        let secrets = self.tokens();
        let secret_name = format!("bootstrap-token-{id}");
        let secret = match secrets.get(&secret_name).await {
            Ok(secret) => secret,
            Err(error) if is_not_found(&error) => return Ok(Some(format!("the bootstrap token {id} was revoked"))),
            Err(error) => return Err(error.into()),
        };
        if annotation(&secret, ONE_TIME) != Some("true") {
            return Ok(None);
        }
        match annotation(&secret, USED_BY) {
            Some(by) if by == uid(request) => Ok(None),
            Some(_) => Ok(Some(format!("the bootstrap token {id} is for one node and has been used"))),
            None => {
                let version = secret.metadata.resource_version.clone();
                let patch = json!({"metadata": {"resourceVersion": version, "annotations": {USED_BY: uid(request)}}});
                secrets.patch(&secret_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                tracing::info!(token = id, node = parsed.common_name, "a bootstrap token was used");
                Ok(None)
            }
        }
    }

    /// Removes the token that made `request` if it was for one node only; how long until then.
    async fn forget_used_token(&self, request: &CertificateSigningRequest) -> Result<Option<Duration>, Error> {
        let Some(id) = bootstrap_id(request) else { return Ok(None) };
        let since = request.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        let age = u64::try_from(Timestamp::now().as_second() - since).unwrap_or(0);
        if age > HOUR.as_secs() {
            return Ok(None);
        }
        let secret_name = format!("bootstrap-token-{id}");
        let secret = match self.tokens().get(&secret_name).await {
            Ok(secret) if annotation(&secret, USED_BY) == Some(uid(request)) => secret,
            Ok(_) => return Ok(None),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if age < USED_FOR.as_secs() {
            return Ok(Some(Duration::from_secs(USED_FOR.as_secs() - age)));
        }
        let params = DeleteParams { preconditions: of_uid(uid(&secret)), ..DeleteParams::default() };
        unless_not_found(self.tokens().delete(&secret_name, &params).await)?;
        Ok(None)
    }

    fn tokens(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), "kube-system")
    }

    async fn condition(
        &self,
        request: &CertificateSigningRequest,
        kind: &str,
        reason: &str,
        message: &str,
    ) -> Result<Option<Duration>, Error> {
        let mut changed = request.clone();
        let condition = CertificateSigningRequestCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            ..CertificateSigningRequestCondition::default()
        };
        changed.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
        self.api().replace_subresource("approval", name(request), &PostParams::default(), &changed).await?;
        Ok(None)
    }

    async fn sign(&self, request: &CertificateSigningRequest) -> Result<Option<Duration>, Error> {
        let Some(parsed) = SigningRequest::parse(&request.spec.request.0) else { return Ok(None) };
        let mut changed = request.clone();
        let status = changed.status.get_or_insert_default();
        match signing_problem(request, &parsed) {
            None => return Ok(Some(HOUR)),
            Some(None) => {
                let names = request.spec.usages.iter().flatten().map(String::as_str);
                let unknown = |names: Vec<String>| Error::Unfinished(format!("unrecognized usages: {names:?}"));
                let usages = Usages::parse(names).map_err(unknown)?;
                let pem = String::from_utf8_lossy(&request.spec.request.0).into_owned();
                let issued = self.authority.sign_as_asked(&pem, &usages, life(request.spec.expiration_seconds));
                let issued = issued.map_err(|error| Error::Unfinished(error.to_string()))?;
                status.certificate = Some(ByteString(issued.certificate_pem.into_bytes()));
            }
            Some(Some(problem)) => {
                status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                    type_: "Failed".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("SignerValidationFailure".to_owned()),
                    message: Some(problem),
                    last_update_time: Some(Time(Timestamp::now())),
                    ..CertificateSigningRequestCondition::default()
                });
            }
        }
        self.api().replace_status(name(request), &PostParams::default(), &changed).await?;
        Ok(None)
    }
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn of_uid(uid: &str) -> Option<Preconditions> {
    Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None })
}

fn bootstrap_id(request: &CertificateSigningRequest) -> Option<&str> {
    request.spec.username.as_deref()?.strip_prefix(BOOTSTRAP_PREFIX)
}

fn has_condition(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn certificate(request: &CertificateSigningRequest) -> Option<&ByteString> {
    request.status.as_ref()?.certificate.as_ref().filter(|bytes| !bytes.0.is_empty())
}

/// When a request is forgotten: an hour after it was denied, failed or served, a day after it was made or approved without
/// that, and at the latest when its certificate ends.
// upstream: cleaner.go
fn expiry(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let conditions: Vec<_> = request.status.iter().flat_map(|status| status.conditions.iter().flatten()).collect();
    if conditions.is_empty() {
        let made = request.metadata.creation_timestamp.as_ref()?.0;
        return Some(made + SignedDuration::from_hours(24));
    }
    let issued = certificate(request);
    let of = |condition: &CertificateSigningRequestCondition| {
        let hours = match condition.type_.as_str() {
            "Denied" | "Failed" => 1,
            "Approved" => {
                if issued.is_some() {
                    1
                } else {
                    24
                }
            }
            _ => return None,
        };
        Some(condition.last_update_time.as_ref()?.0 + SignedDuration::from_hours(hours))
    };
    let end = issued.and_then(|pem| pintle_pki::signer::end_of(&pem.0));
    let end = end.and_then(|end| Timestamp::try_from(end).ok()).filter(|_| has_condition(request, "Approved"));
    conditions.into_iter().filter_map(of).chain(end).min()
}

fn life(seconds: Option<i32>) -> Duration {
    let asked = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    asked.unwrap_or(LEAF_LIFE).clamp(Duration::from_secs(600), LEAF_LIFE)
}

/// What `request` is for; `None`: nothing that is approved here.
fn recognize(request: &CertificateSigningRequest, parsed: &SigningRequest) -> Option<Purpose> {
    let spec = &request.spec;
    match spec.signer_name.as_str() {
        KUBELET_CLIENT => client_problem(parsed, spec.usages.as_deref().unwrap_or_default())
            .is_none()
            .then(|| Purpose::Client { own: spec.username.as_deref() == Some(parsed.common_name.as_str()) }),
        KUBELET_SERVING => {
            let groups = spec.groups.as_deref().unwrap_or_default();
            let of_node = groups.iter().any(|group| group == NODES)
                && spec.username.as_deref() == Some(parsed.common_name.as_str());
            let problem = serving_form_problem(parsed, spec.usages.as_deref().unwrap_or_default());
            (of_node && problem.is_none()).then_some(Purpose::Serving)
        }
        _ => None,
    }
}

/// What keeps an approved request from being signed, if anything does; `None` if another signer is asked.
// upstream: signer.go, getCSRVerificationFuncForSignerName
fn signing_problem(request: &CertificateSigningRequest, parsed: &SigningRequest) -> Option<Option<String>> {
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    match request.spec.signer_name.as_str() {
        KUBELET_CLIENT => Some(client_problem(parsed, usages)),
        KUBELET_SERVING => Some(serving_form_problem(parsed, usages)),
        API_CLIENT => Some(api_client_problem(usages)),
        LEGACY_UNKNOWN => Some(None),
        _ => None,
    }
}

/// What keeps usages from being those of a client of the API.
// upstream: validAPIServerClientUsages
fn api_client_problem(usages: &[String]) -> Option<String> {
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !allowed.contains(&usage.as_str())) {
        return Some(format!("invalid usage for client certificate: {other}"));
    }
    let is_client = usages.iter().any(|usage| usage == "client auth");
    (!is_client).then(|| "missing required usage for client certificate: client auth".to_owned())
}

fn usages_are(usages: &[String], purpose: &str) -> bool {
    let is: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let mut wanted = BTreeSet::from(["digital signature", purpose]);
    is == wanted || {
        wanted.insert("key encipherment");
        is == wanted
    }
}

fn usage_problem(usages: &[String], purpose: &str) -> Option<String> {
    let mut wanted = [purpose, "digital signature", "key encipherment"];
    wanted.sort_unstable();
    (!usages_are(usages, purpose)).then(|| format!("usages did not match [{}]", wanted.join(" ")))
}

/// What keeps a request from being one for a kubelet's client certificate.
fn client_problem(parsed: &SigningRequest, usages: &[String]) -> Option<String> {
    let text = match () {
        () if parsed.organizations != [NODES] => "subject organization is not system:nodes",
        () if !parsed.dns_names.is_empty() => "DNS subjectAltNames are not allowed",
        () if parsed.emails > 0 => "Email subjectAltNames are not allowed",
        () if !parsed.addresses.is_empty() => "IP subjectAltNames are not allowed",
        () if parsed.uris > 0 => "URI subjectAltNames are not allowed",
        () if !parsed.common_name.starts_with(NODE_PREFIX) => "subject common name does not begin with system:node:",
        () => return usage_problem(usages, "client auth"),
    };
    Some(text.to_owned())
}

/// What keeps a request from being one for a kubelet's serving certificate.
fn serving_form_problem(parsed: &SigningRequest, usages: &[String]) -> Option<String> {
    let text = match () {
        () if parsed.organizations != [NODES] => "subject organization is not system:nodes",
        () if parsed.dns_names.is_empty() && parsed.addresses.is_empty() => "DNS or IP subjectAltName is required",
        () if parsed.emails > 0 => "Email subjectAltNames are not allowed",
        () if parsed.uris > 0 => "URI subjectAltNames are not allowed",
        () if !parsed.common_name.starts_with(NODE_PREFIX) => "subject common name does not begin with system:node:",
        () => return usage_problem(usages, "server auth"),
    };
    Some(text.to_owned())
}

/// What keeps a node from answering for the names in `parsed`: they must be its own name and addresses, and no other
/// node's.
fn serving_problem(parsed: &SigningRequest, nodes: &[Arc<Node>]) -> Option<String> {
    let node = parsed.common_name.strip_prefix(NODE_PREFIX).unwrap_or_default();
    let addresses = |node: &Node| -> BTreeSet<String> {
        let status = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        status.map(|address| address.address.clone()).collect()
    };
    let Some(own) = nodes.iter().find(|one| name(one.as_ref()) == node).map(|node| addresses(node)) else {
        return Some(format!("there is no Node {node}"));
    };
    for asked in parsed.names() {
        if asked != node && !own.contains(&asked) {
            return Some(format!("Node {node} does not have the address {asked}"));
        }
        let taken = nodes.iter().find(|one| name(one.as_ref()) != node && addresses(one).contains(&asked));
        if let Some(other) = taken {
            return Some(format!("the address {asked} is that of Node {}, too", name(other.as_ref())));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_pki::{LeafSpec, request};
    use serde_json::Value;

    fn usages(purpose: &str) -> Value {
        json!(["digital signature", purpose])
    }

    fn csr(user: &str, groups: &[&str], signer: &str, usages: &Value, spec: &LeafSpec) -> CertificateSigningRequest {
        let (_, pem) = request::create(spec).unwrap();
        let request = serde_json::to_value(ByteString(pem.into_bytes())).unwrap();
        serde_json::from_value(json!({"metadata": {"name": "r"}, "spec": {"request": request, "signerName": signer,
            "usages": usages, "username": user, "groups": groups}}))
        .unwrap()
    }

    fn parsed(request: &CertificateSigningRequest) -> SigningRequest {
        SigningRequest::parse(&request.spec.request.0).unwrap()
    }

    #[test]
    fn kubelets_are_recognized_by_what_they_ask_for() {
        let client = |user: &str, spec: &LeafSpec| {
            let request = csr(user, &["system:bootstrappers"], KUBELET_CLIENT, &usages("client auth"), spec);
            recognize(&request, &parsed(&request))
        };
        assert_eq!(
            client("system:bootstrap:abc123", &LeafSpec::node_client("n1")),
            Some(Purpose::Client { own: false })
        );
        assert_eq!(client("system:node:n1", &LeafSpec::node_client("n1")), Some(Purpose::Client { own: true }));
        assert_eq!(client("system:bootstrap:abc123", &LeafSpec::client("admin", Some("system:masters"))), None);
        assert_eq!(client("system:bootstrap:abc123", &LeafSpec::client("ann", Some("system:nodes"))), None);
        let serving = |user: &str, groups: &[&str]| {
            let spec = LeafSpec::kubelet_serving("n1", &["192.0.2.1".parse().unwrap()]);
            let request = csr(user, groups, KUBELET_SERVING, &usages("server auth"), &spec);
            recognize(&request, &parsed(&request))
        };
        assert_eq!(serving("system:node:n1", &["system:nodes"]), Some(Purpose::Serving));
        assert_eq!(serving("system:node:n2", &["system:nodes"]), None);
        assert_eq!(serving("system:node:n1", &[]), None);
    }

    #[test]
    fn a_node_answers_for_its_own_addresses_only() {
        let node = |name: &str, address: &str| {
            Arc::new(
                serde_json::from_value::<Node>(json!({"metadata": {"name": name},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]}}))
                .unwrap(),
            )
        };
        let asks = |address: &str| SigningRequest {
            common_name: "system:node:n1".into(),
            dns_names: vec!["n1".into()],
            addresses: vec![address.parse().unwrap()],
            ..SigningRequest::default()
        };
        let nodes = [node("n1", "192.0.2.1"), node("n2", "192.0.2.2")];
        assert_eq!(serving_problem(&asks("192.0.2.1"), &nodes), None);
        assert!(serving_problem(&asks("192.0.2.3"), &nodes).unwrap().contains("does not have"));
        assert!(serving_problem(&asks("192.0.2.1"), &nodes[1..]).unwrap().contains("no Node n1"));
        let both = [node("n1", "192.0.2.2"), node("n2", "192.0.2.2")];
        assert!(serving_problem(&asks("192.0.2.2"), &both).unwrap().contains("Node n2, too"));
    }

    #[test]
    fn an_approved_request_that_breaks_its_signers_rules_fails() {
        let problem = |signer: &str, usages: Value, spec: &LeafSpec| {
            let request = csr("admin", &[], signer, &usages, spec);
            signing_problem(&request, &parsed(&request))
        };
        let (admin, node) = (LeafSpec::client("admin", Some("system:masters")), LeafSpec::node_client("n1"));
        let said = |text: &str| Some(Some(text.to_owned()));
        assert_eq!(
            problem(KUBELET_CLIENT, usages("client auth"), &admin),
            said("subject organization is not system:nodes")
        );
        assert_eq!(
            problem(KUBELET_CLIENT, json!(["any"]), &node),
            said("usages did not match [client auth digital signature key encipherment]")
        );
        assert_eq!(problem(KUBELET_CLIENT, usages("client auth"), &node), Some(None));
        assert_eq!(problem(API_CLIENT, usages("client auth"), &admin), Some(None));
        assert_eq!(
            problem(API_CLIENT, usages("server auth"), &admin),
            said("invalid usage for client certificate: server auth")
        );
        assert_eq!(
            problem(API_CLIENT, json!(["digital signature"]), &admin),
            said("missing required usage for client certificate: client auth")
        );
        assert_eq!(problem(LEGACY_UNKNOWN, json!(["any"]), &admin), Some(None));
        assert_eq!(problem("example.com/mine", json!(["any"]), &node), None);
    }

    #[test]
    fn requests_are_forgotten_by_what_became_of_them() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let request = |conditions: Value, issued: bool| -> CertificateSigningRequest {
            let mut value = json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "s"}, "status": {"conditions": conditions}});
            if issued {
                value["status"]["certificate"] = "eA==".into();
            }
            serde_json::from_value(value).unwrap()
        };
        let condition =
            |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T06:00:00Z"}]);
        assert_eq!(expiry(&request(json!([]), false)), Some(at("2026-01-02T00:00:00Z")));
        assert_eq!(expiry(&request(condition("Approved"), false)), Some(at("2026-01-02T06:00:00Z")));
        assert_eq!(expiry(&request(condition("Approved"), true)), Some(at("2026-01-01T07:00:00Z")));
        assert_eq!(expiry(&request(condition("Denied"), false)), Some(at("2026-01-01T07:00:00Z")));
        assert_eq!(expiry(&request(condition("Failed"), false)), Some(at("2026-01-01T07:00:00Z")));
    }
}
