//! Tokens of an OpenID issuer: JSON web tokens that somebody else signs. Start at [`Oidc::authenticate`].
// upstream: apiserver plugin/pkg/authenticator/token/oidc
use crate::remote::Remote;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use pintle_api::user::UserInfo;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(10);
/// The wait before an issuer that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(10);
/// Keys are asked for at most once in this time, however many tokens name unknown ones.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a token waits for keys that are being asked for.
const KEY_WAIT: Duration = Duration::from_secs(5);
/// By how many seconds a token may come before its time. upstream: go-oidc, nbf leeway
const NOT_BEFORE_LEEWAY: f64 = 300.0;

/// What is expected of tokens and made of their claims.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `--oidc-issuer-url`.
    pub issuer: String,
    /// `--oidc-client-id`: one of the token's audiences.
    pub client_id: String,
    /// `--oidc-username-claim`; empty: `sub`.
    pub username_claim: String,
    /// `--oidc-username-prefix`; empty: the issuer and `#`, for all claims but `email`; `-`: none.
    pub username_prefix: String,
    /// `--oidc-groups-claim`; empty: no groups.
    pub groups_claim: String,
    /// `--oidc-groups-prefix`.
    pub groups_prefix: String,
    /// `--oidc-required-claim`.
    pub required_claims: Vec<(String, String)>,
    /// `--oidc-signing-algs`; empty: RS256.
    pub signing_algs: Vec<String>,
    /// The content of `--oidc-ca-file`; none: the system's authorities.
    pub authorities: Option<Vec<u8>>,
}

/// Why settings do not fit together.
pub fn validate(settings: &Settings) -> Result<(), String> {
    if settings.client_id.is_empty() {
        return Err("--oidc-client-id must be set when --oidc-issuer-url is".to_owned());
    }
    if !settings.issuer.starts_with("https://") {
        return Err(format!("--oidc-issuer-url {}: URL scheme must be https", settings.issuer));
    }
    Ok(())
}

/// Names users by the tokens of one issuer.
#[derive(Clone, Debug)]
pub struct Oidc {
    settings: Arc<Settings>,
    algorithms: Vec<Algorithm>,
    keys: watch::Receiver<Arc<Keys>>,
    wanted: Arc<Notify>,
}

/// The issuer's keys by their ids.
#[derive(Default)]
struct Keys(Vec<(String, DecodingKey)>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

impl Oidc {
    /// Asks the issuer for its keys until `stop`.
    pub fn start(mut settings: Settings, stop: CancellationToken) -> Result<Self, String> {
        if settings.username_claim.is_empty() {
            settings.username_claim = "sub".to_owned();
        }
        settings.username_prefix = match settings.username_prefix.as_str() {
            "-" => String::new(),
            "" if settings.username_claim != "email" => format!("{}#", settings.issuer),
            given => given.to_owned(),
        };
        if settings.signing_algs.is_empty() {
            settings.signing_algs = vec!["RS256".to_owned()];
        }
        let algorithm = |name: &String| match name.parse() {
            Ok(Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) | Err(_) => {
                Err(format!("oidc: unsupported signing alg: {name:?}"))
            }
            Ok(algorithm) => Ok(algorithm),
        };
        let algorithms = settings.signing_algs.iter().map(algorithm).collect::<Result<_, _>>()?;
        let remote = Remote::at(&settings.issuer, settings.authorities.take())?;
        let (sender, keys) = watch::channel(Arc::default());
        let oidc = Oidc { settings: Arc::new(settings), algorithms, keys, wanted: Arc::default() };
        let follow = follow(remote, oidc.settings.issuer.clone(), oidc.wanted.clone(), sender);
        tokio::spawn(async move {
            tokio::select! { () = follow => {} () = stop.cancelled() => {} }
        });
        Ok(oidc)
    }

    /// The user of `token`; `None` if another issuer made it.
    pub async fn authenticate(&self, token: &str, now: i64) -> Option<Result<UserInfo, String>> {
        if issuer_of(token)? != self.settings.issuer {
            return None;
        }
        Some(self.verified(token, now).await)
    }

    async fn verified(&self, token: &str, now: i64) -> Result<UserInfo, String> {
        let wrong = |why: &dyn std::fmt::Display| format!("oidc: verify token: {why}");
        let header = jsonwebtoken::decode_header(token).map_err(|error| wrong(&error))?;
        if !self.algorithms.contains(&header.alg) {
            let expected = &self.settings.signing_algs;
            return Err(wrong(&format_args!("id token signed with unsupported algorithm, expected {expected:?}")));
        }
        let id = header.kid.unwrap_or_default();
        let mut validation = Validation::new(header.alg);
        // Times and audiences are checked below, with upstream's leeway and words.
        (validation.validate_exp, validation.validate_aud) = (false, false);
        validation.required_spec_claims.clear();
        let verify = |keys: &Keys| {
            let fitting = keys.0.iter().filter(|(known, _)| id.is_empty() || known.is_empty() || *known == id);
            fitting
                .filter_map(|(_, key)| jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation).ok())
                .next()
        };
        let mut keys = self.keys.clone();
        let held = keys.borrow_and_update().clone();
        let claims = match verify(&held) {
            Some(verified) => verified.claims,
            None => {
                self.wanted.notify_one();
                let fresh = tokio::time::timeout(KEY_WAIT, keys.changed()).await;
                if !matches!(fresh, Ok(Ok(()))) && held.0.is_empty() {
                    return Err("oidc: authenticator not initialized".to_owned());
                }
                let fresh = keys.borrow().clone();
                verify(&fresh).ok_or_else(|| wrong(&"failed to verify signature"))?.claims
            }
        };
        user_of(&self.settings, &claims, now)
    }
}

/// Keeps the keys: asks at once, and then when a token names a key that is not known.
async fn follow(remote: Remote, issuer: String, wanted: Arc<Notify>, keys: watch::Sender<Arc<Keys>>) {
    let mut place = None;
    loop {
        match fetch(&remote, &issuer, &mut place).await {
            Ok(fresh) => {
                keys.send_replace(Arc::new(fresh));
                tokio::time::sleep(PAUSE).await;
                wanted.notified().await;
            }
            Err(error) => {
                tracing::warn!(issuer, error, "the keys of the OpenID issuer cannot be read, will retry");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// The issuer's keys; `place` is where they are, once that is known.
async fn fetch(remote: &Remote, issuer: &str, place: &mut Option<String>) -> Result<Keys, String> {
    let place = match place {
        Some(place) => place,
        None => {
            let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let document = remote.get(&url, TIMEOUT).await.map_err(|error| error.to_string())?;
            let document: Value = serde_json::from_slice(&document).map_err(|error| format!("{url}: {error}"))?;
            if document["issuer"] != issuer {
                let got = &document["issuer"];
                return Err(format!(
                    "issuer did not match the issuer returned by provider, expected {issuer:?} got {got}"
                ));
            }
            let keys = document["jwks_uri"].as_str().ok_or_else(|| format!("{url}: no jwks_uri"))?;
            place.insert(keys.to_owned())
        }
    };
    let bytes = remote.get(place, TIMEOUT).await.map_err(|error| error.to_string())?;
    let set: JwkSet = serde_json::from_slice(&bytes).map_err(|error| format!("{place}: {error}"))?;
    let keys = set.keys.iter().filter_map(|key| {
        let id = key.common.key_id.clone().unwrap_or_default();
        // Keys of kinds that no accepted token is signed with are passed over.
        DecodingKey::from_jwk(key).ok().map(|key| (id, key))
    });
    Ok(Keys(keys.collect()))
}

/// Who issued `token`, as it says.
fn issuer_of(token: &str) -> Option<String> {
    let claims = jsonwebtoken::dangerous::insecure_decode::<Map<String, Value>>(token).ok()?.claims;
    claims.get("iss")?.as_str().map(str::to_owned)
}

/// The user whom verified claims name.
fn user_of(settings: &Settings, claims: &Map<String, Value>, now: i64) -> Result<UserInfo, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("oidc: verify token: {why}");
    let audiences = strings(claims.get("aud")).unwrap_or_default();
    if !audiences.contains(&settings.client_id) {
        let expected = &settings.client_id;
        return Err(wrong(&format_args!("expected audience in [{expected:?}] got {audiences:?}")));
    }
    let number = |claim: &str| claims.get(claim).and_then(Value::as_f64);
    match number("exp") {
        Some(expiry) if expiry >= now as f64 => {}
        _ => return Err(wrong(&"token is expired")),
    }
    if number("nbf").is_some_and(|begin| begin > now as f64 + NOT_BEFORE_LEEWAY) {
        return Err(wrong(&"current time is before the nbf (not before) time"));
    }
    let claim = settings.username_claim.as_str();
    let name = claims.get(claim).ok_or_else(|| format!("oidc: parse username claims {claim:?}: claim not present"))?;
    let not_text = || format!("oidc: parse username claims {claim:?}: not a string");
    let name = name.as_str().ok_or_else(not_text)?;
    if claim == "email" {
        match claims.get("email_verified") {
            None | Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => return Err("oidc: email not verified".to_owned()),
            Some(_) => return Err("oidc: parse 'email_verified' claim: not a boolean".to_owned()),
        }
    }
    let mut user = UserInfo { name: format!("{}{name}", settings.username_prefix), ..UserInfo::default() };
    if let Some(value) =
        Some(&settings.groups_claim).filter(|claim| !claim.is_empty()).and_then(|claim| claims.get(claim))
    {
        let claim = &settings.groups_claim;
        let groups = strings(Some(value)).ok_or_else(|| format!("oidc: parse groups claim {claim:?}: not strings"))?;
        user.groups = groups.into_iter().map(|group| format!("{}{group}", settings.groups_prefix)).collect();
    }
    for (claim, wanted) in &settings.required_claims {
        let held = claims.get(claim);
        let held = held.ok_or_else(|| format!("oidc: required claim {claim} not present in ID token"))?;
        let held = held.as_str().ok_or_else(|| format!("oidc: parse claim {claim}: not a string"))?;
        if held != wanted {
            return Err(format!("oidc: required claim {claim} value does not match. Got = {held}, want = {wanted}"));
        }
    }
    if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
        user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
    }
    user.groups.push("system:authenticated".to_owned());
    Ok(user)
}

/// A text, or a list of them.
fn strings(value: Option<&Value>) -> Option<Vec<String>> {
    match value? {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => many.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings() -> Settings {
        Settings {
            issuer: "https://issuer".into(),
            client_id: "client".into(),
            username_claim: "sub".into(),
            username_prefix: "https://issuer#".into(),
            groups_claim: "groups".into(),
            groups_prefix: "oidc:".into(),
            ..Settings::default()
        }
    }

    fn user(settings: &Settings, claims: Value) -> Result<UserInfo, String> {
        let mut all = json!({"iss": "https://issuer", "aud": ["client"], "exp": 2000, "sub": "jane"});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        user_of(settings, all.as_object().unwrap(), 1000)
    }

    #[test]
    fn claims_become_a_user() {
        let jane = user(&settings(), json!({"groups": ["a", "b"], "jti": "1"})).unwrap();
        assert_eq!(
            (jane.name.as_str(), jane.groups),
            ("https://issuer#jane", vec!["oidc:a".into(), "oidc:b".into(), "system:authenticated".to_string()])
        );
        assert_eq!(jane.extra["authentication.kubernetes.io/credential-id"], ["JTI=1"]);
        let one = user(&settings(), json!({"groups": "a"})).unwrap();
        assert_eq!(one.groups[0], "oidc:a");
        let by_mail = Settings { username_claim: "email".into(), username_prefix: String::new(), ..settings() };
        assert_eq!(user(&by_mail, json!({"email": "j@x.y", "email_verified": true})).unwrap().name, "j@x.y");
        assert_eq!(
            user(&by_mail, json!({"email": "j@x.y", "email_verified": false})).unwrap_err(),
            "oidc: email not verified"
        );
    }

    #[test]
    fn tokens_of_others_and_of_other_times_are_refused() {
        for (claims, why) in [
            (json!({"aud": "other"}), "expected audience"),
            (json!({"exp": 999}), "token is expired"),
            (json!({"exp": null}), "token is expired"),
            (json!({"nbf": 1301}), "before the nbf"),
            (json!({"sub": null}), "claim not present"),
        ] {
            let error = user(&settings(), claims).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(user(&settings(), json!({"nbf": 1300, "aud": "client"})).is_ok());
        let strict = Settings { required_claims: vec![("hd".into(), "x".into())], ..settings() };
        assert_eq!(user(&strict, json!({})).unwrap_err(), "oidc: required claim hd not present in ID token");
        assert!(user(&strict, json!({"hd": "y"})).unwrap_err().ends_with("Got = y, want = x"));
        assert!(user(&strict, json!({"hd": "x"})).is_ok());
    }

    #[tokio::test]
    async fn settings_that_make_no_sense_are_refused() {
        let without_client = Settings { client_id: String::new(), ..settings() };
        assert!(validate(&without_client).is_err());
        assert!(
            validate(&Settings { issuer: "http://x".into(), ..settings() }).unwrap_err().ends_with("must be https")
        );
        let secret = Settings { signing_algs: vec!["HS256".into()], ..settings() };
        assert!(Oidc::start(secret, CancellationToken::new()).unwrap_err().contains("unsupported signing alg"));
    }
}
