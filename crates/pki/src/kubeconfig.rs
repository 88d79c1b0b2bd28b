//! Kubeconfig files with embedded certificates.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a kubeconfig says: one cluster, one user, one context.
#[derive(Clone, Debug)]
pub struct Kubeconfig<'a> {
    /// The cluster's and the context's name.
    pub cluster: &'a str,
    /// The user's name in the file.
    pub user: &'a str,
    /// `https://host:port`.
    pub server: &'a str,
    /// The authority that signed the server's certificate, PEM.
    pub authority_pem: &'a str,
    /// The client certificate, PEM.
    pub certificate_pem: &'a str,
    /// The client key, PEM.
    pub key_pem: &'a str,
}

impl Kubeconfig<'_> {
    /// The file as YAML text. Names are written as JSON strings, which YAML reads as they are.
    pub fn render(&self) -> String {
        let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let (cluster, user, server) = (quote(self.cluster), quote(self.user), quote(self.server));
        let (authority, certificate, key) =
            (STANDARD.encode(self.authority_pem), STANDARD.encode(self.certificate_pem), STANDARD.encode(self.key_pem));
        format!(
            "apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster:
    certificate-authority-data: {authority}
    server: {server}
users:
- name: {user}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {cluster}
  context:
    cluster: {cluster}
    user: {user}
current-context: {cluster}
preferences: {{}}
"
        )
    }
}
