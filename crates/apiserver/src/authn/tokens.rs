//! Service-account tokens as JSON web tokens: signing, verifying, publishing the key. Start at [`TokenKeys`].
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use pintle_pki::ServiceAccountKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Seconds by which clocks may differ.
const LEEWAY: i64 = 60;

/// Why a token is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token was not issued here: another issuer, another key, or no token at all.
    #[error("the token was not issued by this cluster")]
    Foreign,
    /// Its time is over.
    #[error("service account token has expired")]
    Expired,
    /// Its time has not come.
    #[error("service account token is not valid yet")]
    NotYet,
    /// It was made for others.
    #[error("token audiences {0:?} is invalid for the target audiences {1:?}")]
    Audience(Vec<String>, Vec<String>),
    /// What it is bound to is gone or changed.
    #[error("{0}")]
    Invalidated(String),
}

/// The key pair that signs service-account tokens, and who the tokens say issued them.
#[derive(Clone)]
pub struct TokenKeys {
    issuer: String,
    audiences: Vec<String>,
    id: String,
    point: Vec<u8>,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKeys").field("issuer", &self.issuer).field("id", &self.id).finish_non_exhaustive()
    }
}

/// A reference to an object by name and UID.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct Ref {
    /// The name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The UID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claims of Kubernetes' own: whose token it is and what it is bound to.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct KubernetesClaims {
    /// The service account's namespace.
    pub namespace: String,
    /// The node of a token bound to a node, or to a pod on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    /// The pod that the token is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    /// The secret that the token is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    /// The service account.
    pub serviceaccount: Ref,
    /// After this time (Unix seconds) the holder should have taken a new token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// All claims of a service-account token.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default)]
pub struct Claims {
    /// Whom the token is for.
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// The end of its validity, Unix seconds.
    pub exp: i64,
    /// When it was issued.
    pub iat: i64,
    /// Who issued it.
    pub iss: String,
    /// A unique id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// Kubernetes' own claims.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: KubernetesClaims,
    /// The start of its validity.
    pub nbf: i64,
    /// The user name.
    pub sub: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

impl TokenKeys {
    /// Keys of the issuer `issuer` (an URL), whose tokens are for `audiences` if they name none of their own.
    pub fn new(
        key: &ServiceAccountKey,
        issuer: &str,
        audiences: &[String],
    ) -> Result<Self, jsonwebtoken::errors::Error> {
        Ok(TokenKeys {
            issuer: issuer.to_owned(),
            audiences: if audiences.is_empty() { vec![issuer.to_owned()] } else { audiences.to_vec() },
            id: URL_SAFE_NO_PAD.encode(Sha256::digest(&key.public_der)),
            point: key.public_point.clone(),
            signing: EncodingKey::from_ec_pem(key.private_pem.as_bytes())?,
            verifying: DecodingKey::from_ec_pem(key.public_pem.as_bytes())?,
        })
    }

    /// The audiences of the API server.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The issuer's URL.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs `claims` as this issuer.
    pub fn sign(&self, mut claims: Claims) -> Result<String, jsonwebtoken::errors::Error> {
        claims.iss.clone_from(&self.issuer);
        let header = Header { typ: None, kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.signing)
    }

    /// The claims of `token`, if this issuer signed it, it is valid at `now` (Unix seconds) and for one of `audiences`.
    pub fn verify(&self, token: &str, audiences: &[String], now: i64) -> Result<Claims, TokenError> {
        let mut validation = Validation::new(Algorithm::ES256);
        // Times and audiences are checked below, for upstream's words.
        (validation.validate_exp, validation.validate_aud) = (false, false);
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation)
            .map_err(|_| TokenError::Foreign)?
            .claims;
        if claims.iss != self.issuer {
            return Err(TokenError::Foreign);
        }
        if now > claims.exp.saturating_add(LEEWAY) {
            return Err(TokenError::Expired);
        }
        if now < claims.nbf.saturating_sub(LEEWAY) {
            return Err(TokenError::NotYet);
        }
        if !claims.aud.iter().any(|audience| audiences.contains(audience)) {
            return Err(TokenError::Audience(claims.aud, audiences.to_vec()));
        }
        Ok(claims)
    }

    /// The public key as a JSON web key set.
    pub fn jwks(&self) -> Value {
        let coordinate =
            |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(self.point.get(range).unwrap_or_default());
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": coordinate(1..33), "y": coordinate(33..65),
        }]})
    }

    /// The OpenID discovery document; the keys are at `jwks_uri`.
    pub fn openid_configuration(&self, jwks_uri: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (tempfile::TempDir, TokenKeys) {
        let dir = tempfile::tempdir().unwrap();
        let key = ServiceAccountKey::open_or_create(&dir.path().join("sa.pem")).unwrap();
        let keys = TokenKeys::new(&key, "https://kubernetes.default.svc.cluster.local", &[]).unwrap();
        (dir, keys)
    }

    fn claims() -> Claims {
        Claims { aud: vec!["a".into()], nbf: 1000, iat: 1000, exp: 2000, sub: "s".into(), ..Claims::default() }
    }

    #[test]
    fn a_token_is_valid_for_its_audience_and_time_only() {
        let (_dir, keys) = keys();
        let token = keys.sign(claims()).unwrap();
        let audience = |name: &str| vec![name.to_owned()];
        assert_eq!(keys.verify(&token, &audience("a"), 1500).unwrap().sub, "s");
        assert_eq!(keys.verify(&token, &audience("a"), 2061), Err(TokenError::Expired));
        assert_eq!(keys.verify(&token, &audience("a"), 900), Err(TokenError::NotYet));
        assert!(matches!(keys.verify(&token, &audience("b"), 1500), Err(TokenError::Audience(..))));
        assert!(keys.verify(&token, &audience("a"), 2059).is_ok());
    }

    #[test]
    fn tampered_foreign_and_unsigned_tokens_are_refused() {
        let ((_one, keys), (_two, others)) = (keys(), keys());
        let foreign = others.sign(claims()).unwrap();
        let token = keys.sign(claims()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let mut longer = claims();
        longer.exp = i64::MAX;
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&longer).unwrap());
        for bad in [
            foreign,
            format!("{}.{body}.{}", parts[0], parts[2]),
            format!("{none}.{}.", parts[1]),
            String::new(),
            "a.b.c".into(),
        ] {
            assert_eq!(keys.verify(&bad, &["a".into()], 1500), Err(TokenError::Foreign), "{bad}");
        }
    }
}
