//! `pintle token`: what lets a machine join as a node. A token is a bootstrap token of Kubernetes together with the hash of
//! the cluster's authority, so that whoever holds it knows the server before it says the secret.
use crate::cli::{DataDir, TokenCommand};
use crate::instance::Paths;
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use pintle_controllers::certificate_signing::{ONE_TIME, USED_BY};
use serde_json::json;
use std::fmt;
use std::str::FromStr;

const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// A token as a person passes it on: `<id>.<secret>@sha256:<hash of the authority's public key>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Public: names the token.
    pub id: String,
    /// Secret.
    pub secret: String,
    /// SHA-256 of the authority's public key (SubjectPublicKeyInfo), in hex.
    pub authority: String,
}

impl Token {
    /// What the API takes as bearer token.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@sha256:{}", self.id, self.secret, self.authority)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

impl FromStr for Token {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.trim().split_once("@sha256:").and_then(|(bearer, authority)| {
            let (id, secret) = bearer.split_once('.')?;
            let lower = |text: &str, length: usize, alphabet: fn(&u8) -> bool| {
                text.len() == length && text.as_bytes().iter().all(alphabet)
            };
            let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
            (lower(id, 6, word) && lower(secret, 16, word) && lower(authority, 64, hex)).then(|| Token {
                id: id.to_owned(),
                secret: secret.to_owned(),
                authority: authority.to_owned(),
            })
        });
        parts.context("this is not a token; `pintle token create` on the server prints one")
    }
}

/// What a new token is for.
pub struct Wish {
    /// How long it is valid; `None`: until it is removed.
    pub life: Option<SignedDuration>,
    /// Whether it makes one node only.
    pub one_time: bool,
    /// For people.
    pub description: String,
}

/// Makes a token in the cluster behind `client`, whose authority has the hash `authority`.
pub async fn create(client: &kube::Client, authority: String, wish: &Wish) -> Result<Token> {
    let word = |length| -> String { random_word(length) };
    let token = Token { id: word(6), secret: word(16), authority };
    let expiration = wish.life.map(|life| (Timestamp::now() + life).strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let mut secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": TYPE,
        "metadata": {"name": format!("{PREFIX}{}", token.id), "namespace": NAMESPACE},
        "stringData": {
            "token-id": token.id,
            "token-secret": token.secret,
            "usage-bootstrap-authentication": "true",
            "description": wish.description,
        },
    });
    if let Some(expiration) = expiration {
        secret["stringData"]["expiration"] = expiration.into();
    }
    if wish.one_time {
        secret["metadata"]["annotations"] = json!({ONE_TIME: "true"});
    }
    let secret: Secret = serde_json::from_value(secret).context("a token is plain data")?;
    secrets(client).create(&PostParams::default(), &secret).await.context("cannot keep the token")?;
    Ok(token)
}

fn random_word(length: usize) -> String {
    // The system's randomness: a token is a secret.
    let mut word = String::with_capacity(length);
    while word.len() < length {
        let mut bytes = [0u8; 32];
        if pintle_pki::tls::provider().secure_random.fill(&mut bytes).is_err() {
            continue;
        }
        let letters = bytes.iter().filter(|byte| **byte < 252).map(|byte| byte % 36);
        let letters = letters.filter_map(|number| char::from_digit(number.into(), 36));
        word.extend(letters.take(length - word.len()));
    }
    word
}

fn secrets(client: &kube::Client) -> Api<Secret> {
    Api::namespaced(client.clone(), NAMESPACE)
}

/// Runs a token command.
pub fn run(command: TokenCommand) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            TokenCommand::Create { data_dir, ttl, one_time, description } => {
                let (paths, client) = connect(&data_dir).await?;
                let life = match ttl.as_str() {
                    "0" | "never" => None,
                    text => Some(text.parse::<SignedDuration>().with_context(|| {
                        format!("--ttl {text}: a duration is a number with a unit, for example 30m or 24h")
                    })?),
                };
                if life.is_some_and(|life| !life.is_positive()) {
                    bail!("--ttl {ttl}: a token must be valid for some time");
                }
                let authority = pintle_pki::Trusted::open(&paths.authority())?;
                let authority = authority.context("the cluster has no authority yet; start it with `pintle up`")?;
                let wish = Wish { life, one_time, description };
                println!("{}", create(&client, authority.public_key_hash()?, &wish).await?);
                Ok(())
            }
            TokenCommand::Ls { data_dir } => list(&connect(&data_dir).await?.1).await,
            TokenCommand::Rm { data_dir, tokens } => {
                let (_, client) = connect(&data_dir).await?;
                for token in tokens {
                    let id = token.split(['.', '@']).next().unwrap_or_default();
                    match secrets(&client).delete(&format!("{PREFIX}{id}"), &DeleteParams::default()).await {
                        Ok(_) => println!("token {id} is revoked"),
                        Err(kube::Error::Api(status)) if status.code == 404 => bail!("there is no token {id}"),
                        Err(error) => return Err(error).with_context(|| format!("cannot revoke token {id}")),
                    }
                }
                Ok(())
            }
        }
    })
}

async fn list(client: &kube::Client) -> Result<()> {
    let params = ListParams::default().fields(&format!("type={TYPE}"));
    let mut found = secrets(client).list(&params).await.context("cannot list tokens")?.items;
    found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    println!("{:<8} {:<22} {:<9} DESCRIPTION", "ID", "EXPIRES", "USES");
    for secret in found {
        let data = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
        };
        let annotation = |key: &str| secret.metadata.annotations.as_ref().and_then(|all| all.get(key)).is_some();
        let uses = match (annotation(ONE_TIME), annotation(USED_BY)) {
            (true, true) => "used",
            (true, false) => "one",
            (false, _) => "any",
        };
        let expiration = Some(data("expiration")).filter(|text| !text.is_empty());
        let expired = expiration.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
        let expires = match expired {
            Some(time) if time <= Timestamp::now() => "expired".to_owned(),
            _ => expiration.unwrap_or_else(|| "never".to_owned()),
        };
        println!("{:<8} {expires:<22} {uses:<9} {}", data("token-id"), data("description"));
    }
    Ok(())
}

/// The administrator's client of the cluster in `data_dir`.
pub async fn connect(data_dir: &DataDir) -> Result<(Paths, kube::Client)> {
    let paths = Paths::new(&data_dir.path())?;
    if paths.load()?.is_none() {
        bail!("there is no cluster in {}; `pintle up` makes one", paths.data.display());
    }
    let client = admin_client(&paths).await?;
    Ok((paths, client))
}

/// The administrator's client, as the kubeconfig of the cluster says.
pub async fn admin_client(paths: &Paths) -> Result<kube::Client> {
    let text =
        kube::config::Kubeconfig::read_from(paths.kubeconfig()).context("the cluster has not been started yet")?;
    let config = kube::Config::from_custom_kubeconfig(text, &kube::config::KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_printed_and_nothing_else_is_one() {
        let token = Token { id: random_word(6), secret: random_word(16), authority: "0a".repeat(32) };
        assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        assert_eq!(format!("{token:?}"), format!("Token({})", token.id));
        for other in ["", "abcdef.0123456789abcdef", "abcdef.0123456789abcdef@sha256:00", "ABCDEF.0@sha256:"] {
            assert!(other.parse::<Token>().unwrap_err().to_string().contains("pintle token create"), "{other}");
        }
    }
}
