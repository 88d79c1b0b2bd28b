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
        self.order(&mut value);
        value
    }

    /// Takes out of `value` the orders that mean nothing: of managed fields, of reviewed rules, of the fields of objects in
    /// texts, and YAML's and the watch's own forms.
    fn order(&self, value: &mut Value) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(|item| self.order(item)),
            Value::Object(map) => {
                for (key, value) in map {
                    self.order(value);
                    sort_by_chance(key, value);
                }
            }
            Value::String(text) => {
                if let Some(read) = self.document(text) {
                    *value = read;
                } else if let Some(ordered) = self.quoted_objects(text) {
                    *text = ordered;
                }
            }
            _ => {}
        }
    }

    /// A whole document in a text: the events of a watch, or an object in YAML.
    fn document(&self, text: &str) -> Option<Value> {
        if text.starts_with("{\"type\":") {
            let events: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>().ok()?;
            return Some(events.iter().map(|event| self.apply(event)).collect());
        }
        let is_yaml = text.contains("\napiVersion: ") || text.starts_with("apiVersion: ");
        is_yaml.then(|| serde_saphyr::from_str::<Value>(text).ok()).flatten().map(|value| self.apply(&value))
    }

    /// `text` with the JSON objects in it, as values of error messages, in one order; none if there are none.
    fn quoted_objects(&self, text: &str) -> Option<String> {
        const VALUE: &str = "Invalid value: ";
        let (mut out, mut rest, mut found) = (String::new(), text, false);
        while let Some(at) = rest.find(VALUE) {
            let (head, tail) = rest.split_at(at + VALUE.len());
            out.push_str(head);
            let mut values = serde_json::Deserializer::from_str(tail).into_iter::<Value>();
            let first = values.next().and_then(Result::ok);
            let end = values.byte_offset();
            rest = tail;
            let ordered = match first {
                Some(Value::Object(map)) => Some(self.apply(&Value::Object(map)).to_string()),
                Some(Value::String(inner)) if inner.starts_with('{') => {
                    let object = serde_json::from_str::<Value>(&inner).ok();
                    object.map(|object| Value::String(self.apply(&object).to_string()).to_string())
                }
                _ => None,
            };
            if let Some(ordered) = ordered {
                out.push_str(&ordered);
                rest = tail.get(end..).unwrap_or_default();
                found = true;
            }
        }
        out.push_str(rest);
        found.then_some(out)
    }

    /// `text` with everything masked.
    pub fn text(&self, text: &str) -> String {
        let mask = |text: String, (pattern, mask): &(Regex, &str)| pattern.replace_all(&text, *mask).into_owned();
        self.0.iter().fold(text.to_owned(), mask)
    }
}

/// Entries of managed fields stand in the order of their times, which is chance within a second; the rules of a review in
/// that of a hash map.
fn sort_by_chance(key: &str, value: &mut Value) {
    let Value::Array(entries) = value else { return };
    match key {
        "managedFields" => entries.sort_by_cached_key(|entry| {
            ["operation", "manager", "subresource", "apiVersion"].map(|field| entry[field].to_string())
        }),
        "resourceRules" | "nonResourceRules" => entries.sort_by_cached_key(ToString::to_string),
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
    fn objects_in_texts_have_one_order() {
        let normal = Normal::new().expect("patterns");
        let message =
            |object: &str| json!({"message": format!("x: Invalid value: {object}: no; y: Invalid value: 7: no")});
        let [a, b] = [r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#];
        assert_eq!(normal.apply(&message(a)), normal.apply(&message(b)));
        let quoted = |object: &str| message(&json!(object).to_string());
        assert_eq!(normal.apply(&quoted(a)), normal.apply(&quoted(b)));
        assert_ne!(normal.apply(&quoted(a)), normal.apply(&quoted(r#"{"b":3,"a":1}"#)));
        let events = |object: &str| json!(format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n"));
        assert_eq!(normal.apply(&events(a)), normal.apply(&events(b)));
    }

    #[test]
    fn managed_fields_have_one_order() {
        let normal = Normal::new().expect("patterns");
        let entry = |manager: &str| json!({"manager": manager, "operation": "Update"});
        let object = |a, b| json!({"metadata": {"managedFields": [entry(a), entry(b)]}});
        assert_eq!(normal.apply(&object("a", "b")), normal.apply(&object("b", "a")));
    }
}
