//! Rules for names, label keys and values, ports, with upstream's texts. Each check returns the complaints; none: valid.
// upstream: apimachinery pkg/util/validation and pkg/api/validate/content

const DNS1123_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035_LABEL: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

fn max_length(value: &str, max: usize) -> Option<String> {
    (value.len() > max).then(|| format!("must be no more than {max} characters"))
}

/// The same as the newer checks say it, those of labels.
fn max_bytes(value: &str, max: usize) -> Option<String> {
    (value.len() > max).then(|| format!("must be no more than {max} bytes"))
}

/// The complaint about a value that does not match a regular expression, with examples.
pub fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn lower_alphanumeric(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// `[first]([middle]*[last])?` on bytes.
fn shaped(s: &str, first: fn(u8) -> bool, middle: fn(u8) -> bool, last: fn(u8) -> bool) -> bool {
    match s.as_bytes() {
        [] => false,
        [one] => first(*one),
        [a, mid @ .., z] => first(*a) && mid.iter().all(|b| middle(*b)) && last(*z),
    }
}

fn is_label(s: &str) -> bool {
    shaped(s, lower_alphanumeric, |b| lower_alphanumeric(b) || b == b'-', lower_alphanumeric)
}

fn is_subdomain(s: &str) -> bool {
    s.split('.').all(is_label)
}

fn is_label_key_name(s: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    shaped(s, |b| b.is_ascii_alphanumeric(), inner, |b| b.is_ascii_alphanumeric())
}

/// A name of at most 63 lower case letters, digits and `-`: namespaces, containers, …
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = max_length(value, 63).into_iter().collect();
    if !is_label(value) {
        errors.push(if is_subdomain(value) {
            "must not contain dots".into()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                DNS1123_LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    errors
}

/// A name of at most 253 characters, labels joined with dots: most objects.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = max_length(value, 253).into_iter().collect();
    if !is_subdomain(value) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            DNS1123_SUBDOMAIN,
            &["example.com"],
        ));
    }
    errors
}

/// `*.` and a subdomain: wildcard hosts of an Ingress.
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = max_length(value, 253).into_iter().collect();
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        errors.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{DNS1123_SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    errors
}

/// As a DNS-1123 label, but starting with a letter: services.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = max_length(value, 63).into_iter().collect();
    if !shaped(value, |b| b.is_ascii_lowercase(), |b| lower_alphanumeric(b) || b == b'-', lower_alphanumeric) {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            DNS1035_LABEL,
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// A label or annotation key: `name` or `example.com/name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    const EXAMPLES: [&str; 3] = ["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let mut parts = value.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".into());
            } else {
                errors.extend(dns1123_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            let about = regex_error(MESSAGE, LABEL_KEY, &EXAMPLES);
            return vec![format!(
                "a valid label key {about} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if let Some(e) = max_bytes(name, 63) {
        errors.push(format!("name part {e}"));
    }
    if !is_label_key_name(name) {
        errors.push(format!("name part {}", regex_error(MESSAGE, LABEL_KEY, &EXAMPLES)));
    }
    errors
}

/// A label's value.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = max_bytes(value, 63).into_iter().collect();
    if !value.is_empty() && !is_label_key_name(value) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({LABEL_KEY})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A name that can be a segment of a URL path.
pub fn path_segment(value: &str) -> Vec<String> {
    if matches!(value, "." | "..") {
        return vec![format!("may not be '{value}'")];
    }
    path_segment_prefix(value)
}

/// The beginning of a name that can be a segment of a URL path, as `generateName`.
pub fn path_segment_prefix(value: &str) -> Vec<String> {
    ["/", "%"].into_iter().filter(|c| value.contains(c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// What `check` says of a `generateName`: a trailing dash is allowed, for a suffix follows.
// upstream: apimachinery pkg/api/validation, maskTrailingDash
pub fn generate_name_prefix(value: &str, check: fn(&str) -> Vec<String>) -> Vec<String> {
    match value.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => check(&format!("{stem}a")),
        _ => check(value),
    }
}

/// A C identifier.
pub fn c_identifier(value: &str) -> Vec<String> {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let valid = value.bytes().next().is_some_and(letter) && value.bytes().all(|b| letter(b) || b.is_ascii_digit());
    complain(valid, || {
        regex_error(
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
            "[A-Za-z_][A-Za-z0-9_]*",
            &["my_name", "MY_NAME", "MyName"],
        )
    })
}

/// The name of an environment variable as pods' specs take it.
pub fn relaxed_env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.is_empty() {
        errors.push("environment variable name must be non-empty".into());
    }
    if value.chars().any(|c| !matches!(c, ' '..='~') || c == '=') {
        errors.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='".into(),
        );
    }
    errors
}

/// The classic, narrower rule for names of environment variables.
pub fn env_var_name(value: &str) -> Vec<String> {
    let start = |b: u8| b.is_ascii_alphabetic() || matches!(b, b'-' | b'.' | b'_');
    let valid = value.bytes().next().is_some_and(start) && value.bytes().all(|b| start(b) || b.is_ascii_digit());
    let mut errors = complain(valid, || {
        regex_error(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        )
    });
    errors.extend(parent_directory_prefix(value));
    errors
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = max_length(value, 253).into_iter().collect();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    errors.extend(complain(!value.is_empty() && value.bytes().all(allowed), || {
        regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        )
    }));
    errors.extend(parent_directory_prefix(value));
    errors
}

/// The name of a container's port.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors: Vec<String> = max_length(value, 15).into_iter().collect();
    if value.is_empty() || !value.bytes().all(|b| lower_alphanumeric(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// A port's number.
pub fn port_number(port: i64) -> Vec<String> {
    in_range(port, 1, 65535)
}

/// A number from `min` to `max`.
pub fn in_range(value: i64, min: i64, max: i64) -> Vec<String> {
    complain((min..=max).contains(&value), || format!("must be between {min} and {max}, inclusive"))
}

/// A percentage such as `25%`.
pub fn percent(value: &str) -> Vec<String> {
    let valid = value.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    complain(valid, || {
        regex_error(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )
    })
}

/// The name of an HTTP header.
pub fn http_header_name(value: &str) -> Vec<String> {
    let valid = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    complain(valid, || {
        regex_error(
            "a valid HTTP header must consist of alphanumeric characters or '-'",
            "[-A-Za-z0-9]+",
            &["X-Header-Name"],
        )
    })
}

fn complain(valid: bool, message: impl FnOnce() -> String) -> Vec<String> {
    if valid { Vec::new() } else { vec![message()] }
}

fn parent_directory_prefix(value: &str) -> Option<String> {
    match value {
        "." | ".." => Some(format!("must not be '{value}'")),
        _ if value.starts_with("..") => Some("must not start with '..'".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names() {
        assert!(dns1123_label("my-name").is_empty());
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            dns1123_label("-A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert!(dns1123_subdomain("a.b-c.9").is_empty());
        for bad in ["", "a..b", ".a", "a.", "a_b", "A"] {
            assert_eq!(dns1123_subdomain(bad).len(), 1, "{bad}");
        }
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert!(!dns1035_label("1a").is_empty() && dns1035_label("a1").is_empty());
        assert!(wildcard_dns1123_subdomain("*.a.b").is_empty() && !wildcard_dns1123_subdomain("*a.b").is_empty());
    }

    #[test]
    fn label_keys_and_values() {
        assert!(qualified_name("app.kubernetes.io/Name_1").is_empty());
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert!(qualified_name("a/b/c")[0].starts_with("a valid label key must consist of"));
        assert_eq!(qualified_name("a/").len(), 2);
        assert!(label_value("").is_empty() && label_value("A_1").is_empty() && label_value("-a").len() == 1);
    }

    #[test]
    fn generated_names_may_end_in_a_dash() {
        assert!(generate_name_prefix("web-", dns1123_subdomain).is_empty());
        assert!(!generate_name_prefix("-", dns1123_subdomain).is_empty());
    }

    #[test]
    fn ports_and_keys() {
        assert!(port_name("http-1").is_empty());
        assert_eq!(port_name("1").len(), 1);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert!(config_map_key("a.b_C").is_empty());
        assert_eq!(config_map_key(".."), ["must not be '..'"]);
        assert!(percent("5%").is_empty() && !percent("%").is_empty());
    }
}
