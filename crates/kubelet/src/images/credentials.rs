//! Registry credentials from `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg` Secrets.
// upstream: pkg/credentialprovider
use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use pintle_runtime::cri::AuthConfig;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

/// Credentials for `image`, those of the most specific registry path first.
pub fn matching(image: &str, secrets: &[Arc<Secret>]) -> Vec<AuthConfig> {
    let image = canonical(image);
    let mut found: Vec<(String, AuthConfig)> = Vec::new();
    for secret in secrets {
        let Some(data) = &secret.data else { continue };
        let logins = if let Some(json) = data.get(".dockerconfigjson") {
            serde_json::from_slice::<DockerConfig>(&json.0).map(|config| config.auths)
        } else if let Some(json) = data.get(".dockercfg") {
            serde_json::from_slice(&json.0)
        } else {
            continue;
        };
        let Ok(logins) = logins else {
            tracing::warn!(secret = secret.metadata.name, "image pull secret is not valid JSON");
            continue;
        };
        for (server, login) in logins {
            let path = server_path(&server);
            if matches(&path, &image) {
                found.push((path, auth(&server, login)));
            }
        }
    }
    found.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn auth(server: &str, login: Login) -> AuthConfig {
    let decoded = base64::engine::general_purpose::STANDARD.decode(login.auth.as_bytes()).ok();
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (username, password) = match pair {
        Some((username, password)) => (username.to_owned(), password.to_owned()),
        None => (login.username, login.password),
    };
    AuthConfig { username, password, server_address: server.to_owned(), ..Default::default() }
}

/// The image's name with its registry.
fn canonical(image: &str) -> String {
    let first = image.split('/').next().unwrap_or_default();
    let has_registry = image.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    if has_registry { image.to_owned() } else { format!("docker.io/{image}") }
}

fn server_path(server: &str) -> String {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.trim_end_matches("/v1").trim_end_matches("/v2");
    if bare == "index.docker.io" { "docker.io".to_owned() } else { bare.to_owned() }
}

fn matches(server: &str, image: &str) -> bool {
    let (server_host, server_rest) = server.split_once('/').unwrap_or((server, ""));
    let (host, rest) = image.split_once('/').unwrap_or((image, ""));
    let parts = |host: &str| host.split('.').map(ToOwned::to_owned).collect::<Vec<_>>();
    let (wanted, got) = (parts(server_host), parts(host));
    let host_ok = wanted.len() == got.len() && wanted.iter().zip(&got).all(|(a, b)| a == "*" || a == b);
    host_ok && (server_rest.is_empty() || rest.starts_with(server_rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn the_most_specific_login_comes_first() {
        let json = r#"{"auths": {"reg.example": {"username": "a", "password": "b"},
            "https://reg.example/team/": {"auth": "dXNlcjpwYXNz"}, "other.example": {}}}"#;
        let data = BTreeMap::from([(".dockerconfigjson".to_owned(), ByteString(json.into()))]);
        let secret = Arc::new(Secret { data: Some(data), ..Default::default() });
        let got = matching("reg.example/team/app:1", &[secret]);
        assert_eq!(got.iter().map(|auth| auth.username.as_str()).collect::<Vec<_>>(), ["user", "a"]);
    }
}
