//! Variables from a file in a volume: lines of `NAME='value'`, values always in single quotes.
// upstream: pkg/kubelet/util/env, ParseEnv; KEP 3721

/// The value of `key` in a file's text; `None` if it is not there, or empty.
pub fn parse(text: &str, key: &str) -> Result<Option<String>, String> {
    let invalid = |line: usize, why: &str| Err(format!("invalid environment variable format at line {line}: {why}"));
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { return invalid(number, "missing '='") };
        if name.trim_end_matches([' ', '\t']).is_empty() {
            return invalid(number, "empty variable name");
        }
        if name.ends_with([' ', '\t']) {
            return invalid(number, "whitespace before '=' is not allowed");
        }
        if value.starts_with([' ', '\t']) {
            // As in a shell: an empty value, and a word that means nothing here.
            if name == key {
                return Ok(None);
            }
            continue;
        }
        let Some(mut rest) = value.strip_prefix('\'') else {
            return invalid(number, "value must be enclosed in single quotes");
        };
        let mut whole = String::new();
        let (after, last) = loop {
            if let Some((inside, after)) = rest.split_once('\'') {
                whole.push_str(inside);
                break (after, number);
            }
            whole.push_str(rest);
            whole.push('\n');
            let Some((_, next)) = lines.next() else {
                return Err(format!(
                    "invalid environment variable format starting at line {number}: unclosed single quote"
                ));
            };
            rest = next;
        };
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with('#') {
            return invalid(last, "unexpected content after closing quote");
        }
        if name == key {
            return Ok(Some(whole).filter(|value| !value.is_empty()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_single_quotes_and_may_span_lines() {
        let text = "# c\n\n  A='1' # one\nB= 'x'\nC='two\nlines'\nD=''\n";
        let value = |key: &str| parse(text, key).unwrap();
        assert_eq!(value("A").as_deref(), Some("1"));
        assert_eq!(value("C").as_deref(), Some("two\nlines"));
        assert_eq!((value("B"), value("D"), value("E")), (None, None, None));
        for bad in ["A", "=x", "A ='1'", "A=1", "A='1' x", "A='1"] {
            assert!(parse(bad, "Z").is_err(), "{bad}");
        }
    }
}
