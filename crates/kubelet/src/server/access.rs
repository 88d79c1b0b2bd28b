//! Who asks, and whether the API allows it: client certificates, TokenReview and SubjectAccessReview, cached.
// upstream: pkg/kubelet/server, auth.go
use super::Failure;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// How long answers are remembered (upstream's defaults).
const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
/// Most answers remembered of each kind.
const REMEMBERED: usize = 1024;

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// The user a client certificate names: its common name, its organizations as groups.
pub fn user_of(certificate: &[u8]) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = subject.iter_organization().filter_map(|one| one.as_str().ok()).map(ToOwned::to_owned);
    let groups = organizations.chain(["system:authenticated".to_owned()]).collect();
    Some(User { name, groups, ..Default::default() })
}

struct Cache<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    fn new() -> Self {
        Cache(Mutex::default())
    }
    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }
    fn put(&self, key: K, value: V, ttl: Duration) {
        let now = Instant::now();
        let mut all = self.0.lock();
        if all.len() >= REMEMBERED {
            all.retain(|_, (_, until)| *until > now);
        }
        if all.len() < REMEMBERED {
            all.insert(key, (value, now + ttl));
        }
    }
}

/// Asks the API, remembers its answers.
pub struct Access {
    client: Client,
    node_name: String,
    tokens: Cache<String, Option<User>>,
    decisions: Cache<(User, &'static str, &'static str), bool>,
}

impl Access {
    /// Access to the node `node_name`'s server, decided by the API behind `client`.
    pub fn new(client: Client, node_name: String) -> Self {
        Access { client, node_name, tokens: Cache::new(), decisions: Cache::new() }
    }

    /// Refuses a request whose user is unknown or not allowed.
    pub async fn check(&self, request: &Request<Incoming>, user: Option<User>) -> Result<(), Failure> {
        let unauthorized = || Failure(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
        let user = match user {
            Some(user) => user,
            None => {
                let header = request.headers().get(hyper::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
                let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(unauthorized)?;
                self.token_user(token.trim()).await?.ok_or_else(unauthorized)?
            }
        };
        let verb = verb_of(request.method());
        let subresources = subresources_of(request.uri().path());
        for subresource in &subresources {
            if self.allowed(&user, verb, subresource).await? {
                return Ok(());
            }
        }
        let shown = subresources.join(", ");
        Err(Failure(
            StatusCode::FORBIDDEN,
            format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{shown}])", user.name),
        ))
    }

    async fn token_user(&self, token: &str) -> Result<Option<User>, Failure> {
        if let Some(known) = self.tokens.get(&token.to_owned()) {
            return Ok(known);
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), ..Default::default() },
            ..Default::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await.map_err(unavailable)?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|info| User {
            name: info.username.unwrap_or_default(),
            uid: info.uid.unwrap_or_default(),
            groups: info.groups.unwrap_or_default(),
            extra: info.extra.unwrap_or_default(),
        });
        self.tokens.put(token.to_owned(), user.clone(), TOKEN_TTL);
        Ok(user)
    }

    async fn allowed(&self, user: &User, verb: &'static str, subresource: &'static str) -> Result<bool, Failure> {
        let key = (user.clone(), verb, subresource);
        if let Some(known) = self.decisions.get(&key) {
            return Ok(known);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node_name.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await.map_err(unavailable)?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        self.decisions.put(key, allowed, if allowed { ALLOWED_TTL } else { DENIED_TTL });
        Ok(allowed)
    }
}

fn unavailable(error: kube::Error) -> Failure {
    tracing::warn!(%error, "cannot ask the API whether a request is allowed");
    Failure(StatusCode::INTERNAL_SERVER_ERROR, "Authorization error".to_owned())
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// Subresources of `nodes` of which one must be allowed, the narrowest first.
fn subresources_of(path: &str) -> Vec<&'static str> {
    let first = path.split('/').find(|part| !part.is_empty()).unwrap_or_default();
    match first {
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "healthz" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "checkpoint" => vec!["checkpoint"],
        _ => vec!["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_map_to_subresources() {
        assert_eq!(subresources_of("/pods"), ["pods", "proxy"]);
        assert_eq!(subresources_of("/metrics/resource"), ["metrics"]);
        assert_eq!(subresources_of("/exec/ns/p/c"), ["proxy"]);
        assert_eq!(subresources_of("/statsx"), ["proxy"]);
    }
}
