//! `$(VAR)` references in commands, arguments and environment values.
// upstream: third_party/forked/golang/expansion

/// Replaces `$(NAME)` by what `lookup` knows, leaves unknown names as they are; `$$` is a literal `$`.
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut output = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            output.push('$');
            rest = tail;
        } else if let Some(inner) = after.strip_prefix('(') {
            if let Some(end) = inner.find(')') {
                let name = &inner[..end];
                match lookup(name) {
                    Some(value) => output.push_str(&value),
                    None => {
                        output.push_str("$(");
                        output.push_str(name);
                        output.push(')');
                    }
                }
                rest = &inner[end + 1..];
            } else {
                output.push_str("$(");
                rest = inner;
            }
        } else {
            output.push('$');
            rest = after;
        }
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_upstream_does() {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (input, expected) in [
            ("$(A)", "a"),
            ("x$(A)y", "xay"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$(MISSING)", "$(MISSING)"),
            ("$(A", "$(A"),
            ("$A$", "$A$"),
            ("[$(EMPTY)]", "[]"),
            ("$($(A))", "$($(A))"),
        ] {
            assert_eq!(expand(input, lookup), expected, "{input}");
        }
    }
}
