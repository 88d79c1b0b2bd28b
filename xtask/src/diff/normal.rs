//! Masks what differs from server to server and from moment to moment. Start at [`Normal::apply`].
use anyhow::Result;
use regex::Regex;
use serde_json::Value;

/// What is masked, and as what. Times before 2025 come from the fixtures and are compared.
const MASKS: [(&str, &str); 10] = [
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
    (r"20(2[5-9]|[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (r"\b10\.(9[6-9]|10\d|11[01])\.\d+\.\d+\b", "<cluster ip>"),
    (r#""(nodePort|healthCheckNodePort)":3[0-2]\d\d\d\b"#, r#""$1":0"#),
    (r"\bkube-api-access-[a-z0-9]{5}\b", "kube-api-access-"),
    (r#""resourceVersion":"\d+""#, r#""resourceVersion":"<revision>""#),
    (r#""continue":"[A-Za-z0-9_-]{8,}""#, r#""continue":"<token>""#),
    (r"\bgenerated-[a-z0-9]{5}\b", "generated-"),
    (r"X509SHA256=[0-9a-f]{64}", "<credential>"),
    (r#""kubernetes-admin""#, r#""admin""#),
];

/// The masks, ready to use.
pub struct Normal(Vec<(Regex, &'static str)>);

impl Normal {
    /// Compiles the masks.
    pub fn new() -> Result<Self> {
        Ok(Normal(MASKS.iter().map(|(pattern, mask)| Ok((Regex::new(pattern)?, *mask))).collect::<Result<_>>()?))
    }

    /// `value` with everything masked, in keys too.
    pub fn apply(&self, value: &Value) -> Value {
        let text = self.text(&value.to_string());
        let mut value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        sort_managed_fields(&mut value);
        value
    }

    /// `text` with everything masked.
    pub fn text(&self, text: &str) -> String {
        let mask = |text: String, (pattern, mask): &(Regex, &str)| pattern.replace_all(&text, *mask).into_owned();
        self.0.iter().fold(text.to_owned(), mask)
    }
}

/// Entries of managed fields stand in the order of their times, which is chance within a second.
fn sort_managed_fields(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(sort_managed_fields),
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::Array(entries) if key == "managedFields" => entries.sort_by_cached_key(|entry| {
                        ["operation", "manager", "subresource", "apiVersion"].map(|field| entry[field].to_string())
                    }),
                    _ => sort_managed_fields(value),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_server_chooses_is_masked_and_what_the_client_said_is_not() {
        let normal = Normal::new().expect("patterns");
        let object = json!({
            "metadata": {
                "uid": "0a1b2c3d-0000-1111-2222-333344445555",
                "resourceVersion": "17",
                "creationTimestamp": "2026-11-25T08:00:00Z",
                "deletionTimestamp": "2009-01-01T01:01:01Z",
                "managedFields": [{"fieldsV1": {"k:{\"uid\":\"0a1b2c3d-0000-1111-2222-333344445555\"}": {}}}],
            },
            "spec": {"clusterIP": "10.97.3.4", "podIP": "10.1.2.3", "ports": [{"nodePort": 31234, "port": 80}]},
        });
        let masked = json!({
            "metadata": {
                "uid": "<uuid>",
                "resourceVersion": "<revision>",
                "creationTimestamp": "<time>",
                "deletionTimestamp": "2009-01-01T01:01:01Z",
                "managedFields": [{"fieldsV1": {"k:{\"uid\":\"<uuid>\"}": {}}}],
            },
            "spec": {"clusterIP": "<cluster ip>", "podIP": "10.1.2.3", "ports": [{"nodePort": 0, "port": 80}]},
        });
        assert_eq!(normal.apply(&object), masked);
    }

    #[test]
    fn managed_fields_have_one_order() {
        let normal = Normal::new().expect("patterns");
        let entry = |manager: &str| json!({"manager": manager, "operation": "Update"});
        let object = |a, b| json!({"metadata": {"managedFields": [entry(a), entry(b)]}});
        assert_eq!(normal.apply(&object("a", "b")), normal.apply(&object("b", "a")));
    }
}
