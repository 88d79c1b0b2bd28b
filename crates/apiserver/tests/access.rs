//! Who else names users and decides what they may do: an OpenID issuer and webhooks, over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use pintle_api::user::UserInfo;
use pintle_apiserver::authn::oidc::{Oidc, Settings};
use pintle_apiserver::authn::tokens::{Claims, TokenKeys};
use pintle_apiserver::authn::webhook::TokenWebhook;
use pintle_apiserver::authz::webhook::AuthorizationWebhook;
use pintle_apiserver::authz::{Attributes, Decision};
use pintle_apiserver::remote::Remote;
use pintle_pki::ServiceAccountKey;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const NOW: i64 = 1_000_000;

/// Answers every request with what `answer` makes of its path and body.
async fn serve(listener: TcpListener, answer: impl Fn(&str, Value) -> Value + Send + Sync + 'static) {
    let answer = Arc::new(answer);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = answer.clone();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let answer = answer.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let document = answer(&path, serde_json::from_slice(&body).unwrap_or_default());
                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(document.to_string()))))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move { connection.await.ok() });
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

fn keys(directory: &tempfile::TempDir, name: &str, issuer: &str) -> TokenKeys {
    let key = ServiceAccountKey::open_or_create(&directory.path().join(name)).unwrap();
    TokenKeys::new(&key, issuer, &[]).unwrap()
}

fn claims(user: &str) -> Claims {
    Claims { aud: vec!["client".into()], exp: NOW + 60, sub: user.into(), ..Claims::default() }
}

#[tokio::test]
async fn tokens_of_an_issuer_are_believed_also_after_its_keys_changed() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, issuer) = listen().await;
    let (first, second) = (keys(&directory, "first", &issuer), keys(&directory, "second", &issuer));
    let shown = Arc::new(Mutex::new(first.jwks()));
    let (published, url) = (shown.clone(), issuer.clone());
    tokio::spawn(serve(listener, move |path, _| match path {
        "/.well-known/openid-configuration" => json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
        _ => published.lock().clone(),
    }));
    let settings = Settings {
        issuer: issuer.clone(),
        client_id: "client".into(),
        username_prefix: "-".into(),
        signing_algs: vec!["ES256".into()],
        ..Settings::default()
    };
    let stop = CancellationToken::new();
    let oidc = Oidc::start(settings, stop.clone()).unwrap();
    let user = oidc.authenticate(&first.sign(claims("jane")).unwrap(), NOW).await.unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.groups), ("jane", vec!["system:authenticated".to_owned()]));
    *shown.lock() = second.jwks();
    let user = oidc.authenticate(&second.sign(claims("joe")).unwrap(), NOW).await.unwrap().unwrap();
    assert_eq!(user.name, "joe");
    let foreign = keys(&directory, "foreign", "https://other");
    assert!(oidc.authenticate(&foreign.sign(claims("eve")).unwrap(), NOW).await.is_none());
    let forged = keys(&directory, "forged", &issuer).sign(claims("eve")).unwrap();
    let error = oidc.authenticate(&forged, NOW).await.unwrap().unwrap_err();
    assert_eq!(error, "oidc: verify token: failed to verify signature");
    stop.cancel();
}

#[tokio::test]
async fn a_token_webhook_is_asked_once_for_a_token() {
    let (listener, url) = listen().await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    tokio::spawn(serve(listener, move |_, review| {
        seen.lock().push(review.clone());
        let known = review["spec"]["token"] == "good";
        json!({"status": {"authenticated": known, "user": {"username": "jane", "groups": ["g"]}, "error": "unknown"}})
    }));
    let remote = Remote::at(&url, None).unwrap();
    let webhook = TokenWebhook::new(remote, "v1beta1", Duration::from_secs(120)).unwrap();
    let audiences = ["api".to_owned()];
    for _ in 0..2 {
        assert_eq!(webhook.authenticate("good", &audiences).await.unwrap().name, "jane");
        assert_eq!(webhook.authenticate("bad", &audiences).await.unwrap_err(), "unknown");
    }
    let asked = asked.lock();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0]["apiVersion"], "authentication.k8s.io/v1beta1");
    assert_eq!(asked[0]["spec"]["audiences"], json!(["api"]));
}

#[tokio::test]
async fn an_authorization_webhook_allows_denies_or_has_no_opinion() {
    let (listener, url) = listen().await;
    tokio::spawn(serve(listener, |_, review| match review["spec"]["user"].as_str() {
        Some("jane") => json!({"status": {"allowed": true, "reason": "known"}}),
        Some("eve") => json!({"status": {"denied": true, "reason": "never"}}),
        _ => json!({"status": {"allowed": false}}),
    }));
    let remote = Remote::at(&url, None).unwrap();
    let ttl = Duration::from_secs(30);
    let webhook = AuthorizationWebhook::new(remote, "v1", ttl, ttl).unwrap();
    let ask = async |user: &str| {
        let user = UserInfo::new(user, &[]);
        webhook.decide(&Attributes { user, verb: "get".into(), path: "/".into(), ..Attributes::default() }).await
    };
    assert_eq!(ask("jane").await, (Decision::Allow, "known".into()));
    assert_eq!(ask("eve").await.0, Decision::Deny("never".into()));
    assert_eq!(ask("joe").await.0, Decision::NoOpinion(String::new()));
}
