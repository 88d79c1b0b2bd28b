//! Bootstrap tokens: what a machine shows that wants to become a node, kept as Secrets. Start at [`user_of_token`].
// upstream: plugin/pkg/auth/authenticator/token/bootstrap
use crate::registry::Registry;
use crate::value::Read;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pintle_api::meta::ObjectExt;
use pintle_api::user::UserInfo;
use serde_json::Value;

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// The id and the secret of a bootstrap token; `None` if `token` is none (`[a-z0-9]{6}.[a-z0-9]{16}`).
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (plain(id, 6) && plain(secret, 16)).then_some((id, secret))
}

/// The user whom the bootstrap token `id`.`secret` stands for at `now` (Unix seconds); an error says why it is no good.
pub async fn user_of_token(id: &str, secret: &str, now: i64, registry: &Registry) -> Result<UserInfo, String> {
    let secrets = registry.resource("", "secrets").map_err(|error| error.to_string())?;
    let found = registry.get(&secrets, NAMESPACE, &format!("bootstrap-token-{id}")).await;
    user_of_secret(&found.map_err(|error| error.to_string())?, id, secret, now)
}

fn user_of_secret(object: &Value, id: &str, secret: &str, now: i64) -> Result<UserInfo, String> {
    let data = |key: &str| -> Option<String> {
        let bytes = STANDARD.decode(object.field("data").text(key)).ok()?;
        String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
    };
    let invalid = |key: &str| format!("has invalid value for key {key}");
    if object.deletion_timestamp().is_some() {
        return Err("is deleted and awaiting removal".to_owned());
    }
    if object.text("type") != SECRET_TYPE {
        return Err(format!("has invalid type, expected {SECRET_TYPE}"));
    }
    if !equal(data("token-secret").unwrap_or_default().as_bytes(), secret.as_bytes()) {
        return Err(invalid("token-secret"));
    }
    if data("token-id").as_deref() != Some(id) {
        return Err(invalid("token-id"));
    }
    if let Some(expiration) = data("expiration") {
        let expiration: jiff::Timestamp = expiration.parse().map_err(|_| invalid("expiration"))?;
        if expiration.as_second() <= now {
            return Err(format!("expired at {expiration}"));
        }
    }
    if data("usage-bootstrap-authentication").as_deref() != Some("true") {
        return Err("not marked usage-bootstrap-authentication=true".to_owned());
    }
    let extra = data("auth-extra-groups").unwrap_or_default();
    let mut groups: Vec<&str> = vec![GROUP];
    for group in extra.split(',').map(str::trim).filter(|group| !group.is_empty()) {
        if !is_group(group) {
            return Err(invalid("auth-extra-groups"));
        }
        groups.push(group);
    }
    Ok(UserInfo::new(format!("system:bootstrap:{id}"), &groups))
}

/// Whether a token may be member of `group`: one below `system:bootstrappers:`.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let last = rest.bytes().next_back();
    rest.len() <= 256
        && last.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b':' | b'-'))
}

/// Compares in a time that does not depend on where the texts differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(changes: &[(&str, Option<&str>)]) -> Value {
        let mut data = json!({
            "token-id": STANDARD.encode("abc123"),
            "token-secret": STANDARD.encode("0123456789abcdef"),
            "expiration": STANDARD.encode("1970-01-01T01:00:00Z"),
            "usage-bootstrap-authentication": STANDARD.encode("true"),
            "auth-extra-groups": STANDARD.encode("system:bootstrappers:a,system:bootstrappers:b:c"),
        });
        for (key, value) in changes {
            match value {
                Some(value) => data[*key] = STANDARD.encode(value).into(),
                None => _ = data.as_object_mut().unwrap().remove(*key),
            }
        }
        json!({"metadata": {"name": "bootstrap-token-abc123"}, "type": SECRET_TYPE, "data": data})
    }

    fn user(secret: &Value) -> Result<UserInfo, String> {
        user_of_secret(secret, "abc123", "0123456789abcdef", 60)
    }

    #[test]
    fn only_the_form_of_a_bootstrap_token_is_taken_for_one() {
        assert_eq!(parse("abc123.0123456789abcdef"), Some(("abc123", "0123456789abcdef")));
        for other in ["abc123.0123456789abcde", "abc12.0123456789abcdef", "ABC123.0123456789abcdef", "a.b.c", ""] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_valid_token_is_a_bootstrapper_with_its_extra_groups() {
        let found = user(&secret(&[])).unwrap();
        assert_eq!(found.name, "system:bootstrap:abc123");
        let groups =
            ["system:bootstrappers", "system:bootstrappers:a", "system:bootstrappers:b:c", "system:authenticated"];
        assert_eq!(found.groups, groups);
        assert!(user(&secret(&[("expiration", None), ("auth-extra-groups", None)])).is_ok());
    }

    #[test]
    fn wrong_expired_unusable_and_misplaced_tokens_are_refused() {
        assert!(user_of_secret(&secret(&[]), "abc123", "0123456789abcdee", 60).is_err());
        assert!(user_of_secret(&secret(&[]), "abc123", "0123456789abcdef", 3600).unwrap_err().starts_with("expired"));
        for change in [
            ("token-id", Some("abc124")),
            ("expiration", Some("tomorrow")),
            ("usage-bootstrap-authentication", None),
            ("auth-extra-groups", Some("system:masters")),
        ] {
            assert!(user(&secret(&[change])).is_err(), "{change:?}");
        }
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        assert!(user(&other).is_err());
        let mut deleted = secret(&[]);
        deleted["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
        assert!(user(&deleted).is_err());
    }
}
