//! What clients of a guarded server observe, over TLS: who they are, what they may do, what new objects become.
#![allow(clippy::unwrap_used, reason = "test helpers")]
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pintle_api::scheme::Scheme;
use pintle_apiserver::authn::external::External;
use pintle_apiserver::authz::default::Chain;
use pintle_apiserver::body::{RequestBody, request_body};
use pintle_apiserver::registry::Registry;
use pintle_apiserver::secure::{self, Params};
use pintle_apiserver::special::Specials;
use pintle_apiserver::{ApiServer, Features, Parts, listener};
use pintle_pki::{ClusterPki, LeafSpec};
use pintle_store::embedded::{EmbeddedStore, Options};
use rustls::ClientConfig;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

struct Cluster {
    pki: ClusterPki,
    port: u16,
    stop: CancellationToken,
    directory: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// How a client says who it is.
enum As<'a> {
    Nobody,
    Admin,
    Certificate(&'a str, Option<&'a str>),
    Token(&'a str),
    /// The administrator, acting as another user.
    Impersonating(&'a str),
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let store = EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap();
        let pki_params = pintle_pki::Params { hostname: "test".into(), ..pintle_pki::Params::default() };
        let pki = ClusterPki::open_or_create(&directory.path().join("pki"), &pki_params).unwrap();
        let registry = Registry::new(Arc::new(store), Scheme::builtin(), stop.clone());
        let mut specials = Specials::default();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let params = Params {
            service_account_issuer: "https://kubernetes.default.svc.cluster.local".into(),
            api_audiences: Vec::new(),
            external_address: format!("127.0.0.1:{port}"),
            external: External::default(),
            authorization: Chain::default(),
            addons: vec![json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
                                "metadata": {"name": "local"}, "provisioner": "example.com/local"})],
        };
        let parts = secure::parts(&pki, &registry, &params, &mut specials, &stop).await.unwrap();
        let server = ApiServer::new(Parts {
            registry,
            authenticator: parts.authenticator,
            authorizer: parts.authorizer,
            admission: parts.admission,
            specials,
            aggregator: None,
            features: Features::default(),
            stop: stop.clone(),
        });
        let tls = Arc::new(pki.apiserver_tls().unwrap());
        tokio::spawn(listener::serve(server, tcp, tls, stop.clone()));
        Cluster { pki, port, stop, directory }
    }

    async fn send(&self, who: As<'_>, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let (mut leaf, mut token) = (None, None);
        match who {
            As::Nobody => {}
            As::Admin => leaf = Some(self.pki.admin().clone()),
            As::Certificate(user, group) => {
                leaf = Some(self.pki.leaf(&format!("test/{user}"), LeafSpec::client(user, group)).unwrap());
            }
            As::Token(text) => token = Some(text),
            As::Impersonating(user) => {
                leaf = Some(self.pki.admin().clone());
                headers.insert("impersonate-user", HeaderValue::try_from(user).unwrap());
            }
        }
        let tls = self.pki.client_tls(leaf).unwrap();
        let body = if body.is_null() { request_body("") } else { request_body(Bytes::from(body.to_string())) };
        if let Some(token) = token {
            headers.insert("authorization", HeaderValue::try_from(format!("Bearer {token}")).unwrap());
        }
        let response = self.transmit(tls, method, path, headers, body).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn transmit(
        &self,
        tls: ClientConfig,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: RequestBody,
    ) -> http::Response<Incoming> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let connector = TlsConnector::from(Arc::new(tls));
        let stream = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(path).body(body).unwrap();
        *request.headers_mut() = headers;
        request.headers_mut().insert("host", HeaderValue::from_static("127.0.0.1"));
        sender.send_request(request).await.unwrap()
    }

    async fn ok(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.send(As::Admin, method, path, body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    async fn refused(&self, who: As<'_>, method: Method, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.send(who, method, path, body).await;
        (status.as_u16(), answer["message"].as_str().unwrap_or_default().to_owned())
    }

    async fn service_account(&self, namespace: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        self.ok(Method::POST, &path, json!({"metadata": {"name": name}})).await;
        let token = self.ok(Method::POST, &format!("{path}/{name}/token"), json!({"spec": {}})).await;
        token["status"]["token"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn certificates_tokens_and_nothing_name_different_users() {
    let cluster = Cluster::start().await;
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = async |who| {
        let (status, answer) = cluster.send(who, Method::POST, review, json!({})).await;
        assert!(status.is_success(), "{answer}");
        let user = answer["status"]["userInfo"].clone();
        (user["username"].as_str().unwrap().to_owned(), user["groups"].clone())
    };
    assert_eq!(who(As::Admin).await, ("kubernetes-admin".into(), json!(["system:masters", "system:authenticated"])));
    assert_eq!(who(As::Certificate("ann", Some("devs"))).await.1, json!(["devs", "system:authenticated"]));
    let token = cluster.service_account("default", "robot").await;
    let (name, groups) = who(As::Token(&token)).await;
    assert_eq!(name, "system:serviceaccount:default:robot");
    assert_eq!(groups, json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]));
    assert_eq!(who(As::Impersonating("bob")).await, ("bob".into(), json!(["system:authenticated"])));
    let (code, message) = cluster.refused(As::Token("nonsense"), Method::GET, "/api", Value::Null).await;
    assert_eq!((code, message.as_str()), (401, "Unauthorized"));
}

#[tokio::test]
async fn anonymous_clients_see_health_and_version_only() {
    let cluster = Cluster::start().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(cluster.send(As::Nobody, Method::GET, path, Value::Null).await.0, StatusCode::OK, "{path}");
    }
    let (code, message) =
        cluster.refused(As::Nobody, Method::GET, "/api/v1/namespaces/default/pods", Value::Null).await;
    assert_eq!(
        (code, message.as_str()),
        (
            403,
            r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "default""#
        )
    );
    let (_, message) = cluster.refused(As::Nobody, Method::GET, "/apis", Value::Null).await;
    assert_eq!(message, r#"forbidden: User "system:anonymous" cannot get path "/apis""#);
}

#[tokio::test]
async fn a_role_binding_gives_what_its_role_says_in_its_namespace() {
    let cluster = Cluster::start().await;
    let ann = || As::Certificate("ann", None);
    let list = "/apis/apps/v1/namespaces/default/deployments";
    let (code, message) = cluster.refused(ann(), Method::GET, list, Value::Null).await;
    assert_eq!(
        (code, message.as_str()),
        (
            403,
            r#"deployments.apps is forbidden: User "ann" cannot list resource "deployments" in API group "apps" in the namespace "default""#
        )
    );
    let binding = json!({
        "metadata": {"name": "ann"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    cluster.ok(Method::POST, bindings, binding).await;
    // The authorizer follows the store: it knows soon, not at once.
    let allowed = async {
        while cluster.send(ann(), Method::GET, list, Value::Null).await.0 != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), allowed).await.unwrap();
    let body = json!({"metadata": {"name": "d"}});
    assert_eq!(cluster.refused(ann(), Method::POST, list, body).await.0, 403);
    let other = "/apis/apps/v1/namespaces/kube-system/deployments";
    assert_eq!(cluster.refused(ann(), Method::GET, other, Value::Null).await.0, 403);
    let review = json!({"spec": {"user": "ann", "resourceAttributes":
        {"namespace": "default", "verb": "list", "group": "apps", "resource": "deployments"}}});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let status = cluster.ok(Method::POST, path, review).await["status"].clone();
    assert_eq!(
        status,
        json!({"allowed": true,
               "reason": r#"RBAC: allowed by RoleBinding "ann/default" of ClusterRole "view" to User "ann""#})
    );
}

#[tokio::test]
async fn a_token_dies_with_its_service_account_and_serves_its_audience_only() {
    let cluster = Cluster::start().await;
    let token = cluster.service_account("default", "robot").await;
    let review = |token: &str, audiences: Value| json!({"spec": {"token": token, "audiences": audiences}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let status = cluster.ok(Method::POST, path, review(&token, json!([]))).await["status"].clone();
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    assert_eq!(status["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    let status = cluster.ok(Method::POST, path, review(&token, json!(["vault"]))).await["status"].clone();
    assert_eq!(status["authenticated"], Value::Null);
    cluster.ok(Method::DELETE, "/api/v1/namespaces/default/serviceaccounts/robot", Value::Null).await;
    let status = cluster.ok(Method::POST, path, review(&token, json!([]))).await["status"].clone();
    assert_eq!(status["authenticated"], Value::Null);
}

#[tokio::test]
async fn a_token_request_is_validated_and_bound() {
    let cluster = Cluster::start().await;
    cluster.service_account("default", "robot").await;
    let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let (code, message) =
        cluster.refused(As::Admin, Method::POST, path, json!({"spec": {"expirationSeconds": 5}})).await;
    assert_eq!(
        (code, message.as_str()),
        (
            422,
            r#"TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"#
        )
    );
    let body = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "gone"}}});
    let (code, message) = cluster.refused(As::Admin, Method::POST, path, body).await;
    assert_eq!((code, message.as_str()), (404, r#"pods "gone" not found"#));
}

#[tokio::test]
async fn a_new_pod_gets_account_token_priority_and_tolerations() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, message) = cluster
        .refused(
            As::Admin,
            Method::POST,
            pods,
            json!({"metadata": {"name": "p"},
            "spec": {"serviceAccountName": "none", "containers": [{"name": "c", "image": "i"}]}}),
        )
        .await;
    assert_eq!(
        (code, message.as_str()),
        (
            403,
            r#"pods "p" is forbidden: error looking up service account default/none: serviceaccount "none" not found"#
        )
    );
    cluster.service_account("default", "default").await;
    let spec = cluster.ok(Method::POST, pods, pod).await["spec"].clone();
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert!(spec["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    let (code, message) = cluster
        .refused(
            As::Admin,
            Method::POST,
            "/api/v1/namespaces/none/pods",
            json!({"metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        )
        .await;
    assert_eq!((code, message.as_str()), (404, r#"namespaces "none" not found"#));
}

#[tokio::test]
async fn the_default_policy_survives_a_restart_and_heals() {
    let cluster = Cluster::start().await;
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/edit";
    let role = cluster.ok(Method::GET, path, Value::Null).await;
    assert!(role["rules"].as_array().is_some_and(|rules| rules.len() > 5), "aggregated");
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles?limit=500";
    let count = cluster.ok(Method::GET, roles, Value::Null).await["items"].as_array().unwrap().len();
    assert!(count >= 69, "{count}");
    cluster.ok(Method::GET, "/apis/storage.k8s.io/v1/storageclasses/local", Value::Null).await;
    assert!(cluster.directory.path().exists());
}

#[tokio::test]
async fn discovery_of_tokens_is_for_service_accounts() {
    let cluster = Cluster::start().await;
    let token = cluster.service_account("default", "robot").await;
    let (status, configuration) =
        cluster.send(As::Token(&token), Method::GET, "/.well-known/openid-configuration", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(configuration["issuer"], "https://kubernetes.default.svc.cluster.local");
    let (status, keys) = cluster.send(As::Token(&token), Method::GET, "/openid/v1/jwks", Value::Null).await;
    assert_eq!((status, keys["keys"][0]["alg"].as_str()), (StatusCode::OK, Some("ES256")));
    assert_eq!(cluster.send(As::Nobody, Method::GET, "/openid/v1/jwks", Value::Null).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn no_one_grants_rights_they_do_not_have() {
    let cluster = Cluster::start().await;
    let group = "/apis/rbac.authorization.k8s.io/v1";
    let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
    let rules = json!([
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["get", "list", "create"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    ]);
    cluster.ok(Method::POST, &format!("{group}/namespaces/default/roles"), role("author", rules)).await;
    let binding = |role: &str, kind: &str| {
        json!({"metadata": {"generateName": "b-"},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
               "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"}]})
    };
    let (roles, bindings) =
        (format!("{group}/namespaces/default/roles"), format!("{group}/namespaces/default/rolebindings"));
    cluster.ok(Method::POST, &bindings, binding("author", "Role")).await;
    let ann = || As::Certificate("ann", None);
    let known = async {
        while cluster.send(ann(), Method::GET, &roles, Value::Null).await.0 != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), known).await.unwrap();
    let held = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    assert_eq!(cluster.send(ann(), Method::POST, &roles, role("held", held)).await.0, StatusCode::CREATED);
    let more = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}]);
    let (code, message) = cluster.refused(ann(), Method::POST, &roles, role("more", more)).await;
    assert_eq!(
        (code, message.as_str()),
        (
            403,
            "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"ann\" (groups=[\"system:authenticated\"]) is \
             attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], \
             Verbs:[\"get\" \"list\"]}"
        )
    );
    assert_eq!(cluster.refused(ann(), Method::POST, &bindings, binding("cluster-admin", "ClusterRole")).await.0, 403);
    assert_eq!(cluster.send(ann(), Method::POST, &bindings, binding("held", "Role")).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_kubelet_is_kept_to_its_node() {
    let cluster = Cluster::start().await;
    let n1 = || As::Certificate("system:node:n1", Some("system:nodes"));
    let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let created = cluster.send(n1(), Method::POST, "/api/v1/nodes", node("n1", json!({}))).await;
    assert_eq!(created.0, StatusCode::CREATED, "{}", created.1);
    assert_eq!(created.1["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let (code, message) = cluster.refused(n1(), Method::POST, "/api/v1/nodes", node("n2", json!({}))).await;
    assert_eq!(
        (code, message.as_str()),
        (403, r#"nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2""#)
    );
    // What every node's network needs (pods, nodes, services), a kubelet may read; nothing that is others' alone.
    for path in ["/api/v1/secrets", "/api/v1/configmaps"] {
        assert_eq!(cluster.refused(n1(), Method::GET, path, Value::Null).await.0, 403, "{path}");
    }
    for path in ["/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", "/api/v1/nodes/n1", "/api/v1/services"] {
        assert_eq!(cluster.send(n1(), Method::GET, path, Value::Null).await.0, StatusCode::OK, "{path}");
    }
    let lease = json!({"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(cluster.send(n1(), Method::POST, leases, lease).await.0, StatusCode::CREATED);
}
