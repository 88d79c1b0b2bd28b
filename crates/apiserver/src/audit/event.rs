//! `audit.k8s.io/v1` Event: [`Event`].
use crate::listener::Peer;
use crate::request_info::RequestInfo;
use http::header::{HeaderMap, USER_AGENT};
use pintle_api::user::UserInfo;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How long a user agent is recorded, in bytes.
const MAX_USER_AGENT: usize = 1024;

/// How much of a request is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who asked for what, and how it ended.
    Metadata,
    /// Also the object that was sent.
    Request,
    /// Also the object that was answered.
    RequestResponse,
}

impl Level {
    /// As a policy writes it.
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// Where a request is when an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Received, and nothing done about it.
    RequestReceived,
    /// The head of the answer is sent, the body is not; for watches and streams only.
    ResponseStarted,
    /// All is sent.
    ResponseComplete,
    /// The server failed.
    Panic,
}

/// Who asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct User {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
}

impl From<&UserInfo> for User {
    fn from(user: &UserInfo) -> Self {
        let UserInfo { name, uid, groups, extra } = user.clone();
        User { username: name, uid, groups, extra }
    }
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    /// The resource in plural.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// The namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The object's UID, if the request names it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// The API version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// The revision that the request names.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// The subresource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

/// By which rights somebody acted as someone else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationMetadata {
    /// The verb that was needed; only where it constrains what may be done.
    pub impersonation_constraint: String,
}

/// One line of the audit log.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// How much is recorded.
    pub level: Level,
    /// The same in all events of a request.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// Where the request is.
    pub stage: Stage,
    /// Path and query, as they were sent.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// The verb.
    pub verb: &'static str,
    /// Who asked.
    pub user: User,
    /// As whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<User>,
    /// By which rights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_metadata: Option<AuthenticationMetadata>,
    /// From where, proxies included.
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    /// The client.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectReference>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<Value>,
    /// What was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_object: Option<Value>,
    /// What was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_object: Option<Value>,
    /// When the request came.
    pub request_received_timestamp: String,
    /// When it came to this stage.
    pub stage_timestamp: String,
    /// What others had to say about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Event {
    /// What is known when a request comes.
    // upstream: audit.LogRequestMetadata
    pub fn of_request(
        level: Level,
        user: &UserInfo,
        info: &RequestInfo,
        parts: &http::request::Parts,
        id: &str,
    ) -> Self {
        let now = now();
        let object_ref = info.is_resource_request.then(|| ObjectReference {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.api_group.clone(),
            api_version: info.api_version.clone(),
            subresource: info.subresource.clone(),
            ..ObjectReference::default()
        });
        Event {
            level,
            audit_id: id.to_owned(),
            stage: Stage::RequestReceived,
            request_uri: parts.uri.path_and_query().map(|uri| uri.as_str().to_owned()).unwrap_or_default(),
            verb: info.verb,
            user: user.into(),
            impersonated_user: None,
            authentication_metadata: None,
            source_ips: source_ips(&parts.headers, parts.extensions.get::<Peer>().map(|peer| peer.address.ip())),
            user_agent: user_agent(&parts.headers),
            object_ref,
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: now.clone(),
            stage_timestamp: now,
            annotations: BTreeMap::new(),
        }
    }
}

/// The time as `MicroTime` writes it.
pub fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::fmt::temporal::DateTimePrinter::new().precision(Some(6)).timestamp_to_string(&now)
}

fn user_agent(headers: &HeaderMap) -> String {
    let given = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match given.get(..MAX_USER_AGENT) {
        Some(start) if given.len() > MAX_USER_AGENT => format!("{start}...TRUNCATED"),
        _ => given.to_owned(),
    }
}

/// Whom the proxies on the way name, and then who connected. Components in the process connect from the loopback.
// upstream: apimachinery pkg/util/net, SourceIPs
fn source_ips(headers: &HeaderMap, peer: Option<IpAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut found: Vec<IpAddr> = text("x-forwarded-for").split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
    if let Ok(real) = text("x-real-ip").parse()
        && !found.contains(&real)
    {
        found.push(real);
    }
    let peer = peer.unwrap_or(IpAddr::from([127, 0, 0, 1])).to_canonical();
    if found.last() != Some(&peer) {
        found.push(peer);
    }
    found.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_addresses_name_proxies_and_end_with_the_peer() {
        let mut headers = HeaderMap::new();
        let peer = Some(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(source_ips(&headers, peer), ["10.0.0.1"]);
        headers.insert("x-forwarded-for", "1.2.3.4, nonsense, 5.6.7.8".parse().unwrap());
        headers.insert("x-real-ip", "1.2.3.4".parse().unwrap());
        assert_eq!(source_ips(&headers, peer), ["1.2.3.4", "5.6.7.8", "10.0.0.1"]);
        headers.insert("x-forwarded-for", "10.0.0.1".parse().unwrap());
        headers.remove("x-real-ip");
        assert_eq!(source_ips(&headers, peer), ["10.0.0.1"]);
    }

    #[test]
    fn long_user_agents_are_cut() {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, "a".repeat(1025).parse().unwrap());
        let cut = user_agent(&headers);
        assert!(cut.ends_with("a...TRUNCATED") && cut.len() == 1024 + 12);
        headers.insert(USER_AGENT, "kubectl".parse().unwrap());
        assert_eq!(user_agent(&headers), "kubectl");
    }

    #[test]
    fn times_have_six_digits() {
        let now = now();
        assert_eq!((now.len(), &now[19..20], &now[26..]), (27, ".", "Z"), "{now}");
    }
}
