//! Names derived from content: the template hash of ReplicaSets and ControllerRevisions, and upstream's safe alphabet.
use serde::Serialize;
use serde_json::Value;

/// Letters and digits without vowels and look-alikes, so that no name spells a word.
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a, 32 bits.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Each byte of `text` as a letter of the safe alphabet.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(SAFE[usize::from(byte) % SAFE.len()])).collect()
}

/// `length` random letters of the safe alphabet.
pub fn random_suffix(length: usize) -> String {
    (0..length).map(|_| char::from(SAFE[fastrand::usize(..SAFE.len())])).collect()
}

/// The hash of a template, made different by `collision_count` when another object already has the name.
pub fn template_hash<T: Serialize>(template: &T, collision_count: Option<i32>) -> String {
    let mut bytes = canonical(template).to_string().into_bytes();
    if let Some(count) = collision_count {
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

/// True if two objects mean the same: absent, null and empty lists are equal.
pub fn semantically_equal<T: Serialize>(one: &T, other: &T) -> bool {
    canonical(one) == canonical(other)
}

/// The JSON form without nulls and empty lists, with sorted keys.
pub fn canonical<T: Serialize>(value: &T) -> Value {
    let mut json = serde_json::to_value(value).unwrap_or_default();
    prune(&mut json);
    json.sort_all_objects();
    json
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| {
                prune(field);
                !field.is_null() && !field.as_array().is_some_and(Vec::is_empty)
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hash_is_stable_and_ignores_empty_fields() {
        let hash = template_hash(&json!({"a": 1, "b": []}), None);
        assert_eq!(hash, template_hash(&json!({"b": null, "a": 1}), None));
        assert_ne!(hash, template_hash(&json!({"a": 1}), Some(1)));
        assert!(hash.bytes().all(|byte| SAFE.contains(&byte)), "{hash}");
    }

    #[test]
    fn fnv_and_encoding_are_upstreams() {
        assert_eq!(fnv32a(b"foobar"), 0xbf9c_f968);
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }
}
