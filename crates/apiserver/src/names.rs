//! The rules for names, labels and annotation keys, with upstream's texts. Each function returns what is wrong.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const ALPHANUMERIC_ENDS: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// "must be no more than … bytes".
pub fn max_length_error(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

/// A rule's text with examples and the regular expression that upstream tells.
pub fn regex_error(rule: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{rule} (regex used for validation is '{regex}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{rule} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn label_matches(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| is_lower_alphanumeric(*byte));
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|byte| is_lower_alphanumeric(*byte) || *byte == b'-')
}

fn qualified_matches(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(inner)
}

/// A DNS label: `my-name`.
pub fn is_dns1123_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(max_length_error(63));
    }
    if !label_matches(value) {
        let rule = if is_dns1123_subdomain(value).is_empty() {
            "must not contain dots".to_owned()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        };
        errors.push(rule);
    }
    errors
}

/// A DNS subdomain: `example.com`.
pub fn is_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 253 {
        errors.push(max_length_error(253));
    }
    if !value.split('.').all(label_matches) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            &format!("{LABEL}(\\.{LABEL})*"),
            &["example.com"],
        ));
    }
    errors
}

/// A label or annotation key, a finalizer: `example.com/MyName`.
pub fn is_qualified_name(value: &str) -> Vec<String> {
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, name)) if name.contains('/') => {
            let rule = regex_error(ALPHANUMERIC_ENDS, QUALIFIED, EXAMPLES);
            let shape = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {rule} {shape}")];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(is_dns1123_subdomain(prefix).iter().map(|error| format!("prefix part {error}")));
            }
            name
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", max_length_error(63)));
    }
    if !qualified_matches(name) {
        errors.push(format!("name part {}", regex_error(ALPHANUMERIC_ENDS, QUALIFIED, EXAMPLES)));
    }
    errors
}

/// A label's value: empty, or like a key's name part.
pub fn is_label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(max_length_error(63));
    }
    if !value.is_empty() && !qualified_matches(value) {
        errors.push(regex_error(
            &format!(
                "a valid label must be an empty string or consist of {}",
                &ALPHANUMERIC_ENDS["must consist of ".len()..]
            ),
            &format!("({QUALIFIED})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A name that only has to fit into a path (RBAC's roles and bindings).
pub fn is_path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    let contained = ["/", "%"].into_iter().filter(|illegal| value.contains(illegal));
    contained.map(|illegal| format!("may not contain '{illegal}'")).collect()
}

/// `name` as a prefix of generated names is judged: a trailing dash is fine there.
pub fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-').and_then(|rest| rest.get(..rest.len().checked_sub(1)?)) {
        Some(rest) => format!("{rest}a"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_with_upstreams_texts() {
        assert!(is_dns1123_subdomain("a.b-c.d1").is_empty() && is_dns1123_label("my-name").is_empty());
        assert_eq!(
            is_dns1123_subdomain("Bad_Name"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(is_path_segment("a/b%"), ["may not contain '/'", "may not contain '%'"]);
        assert_eq!(mask_trailing_dash("web-"), "wea");
        assert_eq!(mask_trailing_dash("-"), "-");
    }

    #[test]
    fn label_keys_and_values_are_judged() {
        assert!(is_qualified_name("example.com/MyName").is_empty() && is_label_value("").is_empty());
        assert_eq!(is_qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(is_qualified_name("a/b/c").len(), 1);
        assert!(
            is_label_value("a b")[0].starts_with("a valid label must be an empty string or consist of alphanumeric")
        );
    }
}
