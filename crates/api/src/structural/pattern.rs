//! Patterns of schemas: Go's regular expressions, compiled when first used.
use std::sync::OnceLock;

use regex::Regex;

/// A pattern as the schema gives it.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: OnceLock<Result<Regex, String>>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// The pattern `text`.
    pub fn new(text: &str) -> Pattern {
        Pattern { text: text.to_owned(), regex: OnceLock::new() }
    }

    /// As it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The compiled pattern, or why it is none.
    pub fn regex(&self) -> Result<&Regex, &str> {
        let compile = || Regex::new(&translate(&self.text)).map_err(|error| reason(&error));
        self.regex.get_or_init(compile).as_ref().map_err(String::as_str)
    }
}

/// The last line of the parser's complaint, which says what is wrong.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("error parsing regexp: {}", last.trim_start_matches("error: "))
}

/// A pattern of Go's syntax in Rust's: classes such as `\d` are ASCII, and fewer characters are special inside brackets.
fn translate(go: &str) -> String {
    let mut out = String::with_capacity(go.len() + 8);
    let mut chars = go.char_indices().peekable();
    let mut in_class = false;
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, escaped)) => out.push_str(&escape(escaped, in_class)),
                None => out.push('\\'),
            },
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if let Some((_, '^')) = chars.peek() {
                    chars.next();
                    out.push('^');
                }
                // A bracket that comes first stands for itself.
                if let Some((_, ']')) = chars.peek() {
                    chars.next();
                    out.push_str("\\]");
                }
            }
            '[' if go[at..].starts_with("[:") => {
                let end = go[at..].find(":]").map_or(at + 1, |i| at + i + 2);
                out.push_str(&go[at..end]);
                while chars.peek().is_some_and(|(i, _)| *i < end) {
                    chars.next();
                }
            }
            '[' | '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
            }
            '-' if in_class && go[at + 1..].starts_with('-') => out.push_str("\\-"),
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '{' if !in_class && !is_repetition(&go[at..]) => out.push_str("\\{"),
            c => out.push(c),
        }
    }
    out
}

fn escape(c: char, in_class: bool) -> String {
    match (c, in_class) {
        ('d', false) => "[0-9]".into(),
        ('d', true) => "0-9".into(),
        ('D', _) => "[^0-9]".into(),
        ('w', false) => "[0-9A-Za-z_]".into(),
        ('w', true) => "0-9A-Za-z_".into(),
        ('W', _) => "[^0-9A-Za-z_]".into(),
        ('s', false) => "[\\t\\n\\f\\r ]".into(),
        ('s', true) => "\\t\\n\\f\\r ".into(),
        ('S', _) => "[^\\t\\n\\f\\r ]".into(),
        ('b', false) => "(?-u:\\b)".into(),
        ('B', false) => "(?-u:\\B)".into(),
        (c, _) => format!("\\{c}"),
    }
}

/// Whether `{…` here says how often something repeats.
fn is_repetition(rest: &str) -> bool {
    let Some((inside, _)) = rest[1..].split_once('}') else { return false };
    let (min, max) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    !min.is_empty() && digits(min) && digits(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_syntax_is_understood() {
        for (pattern, good, bad) in [
            (r"^\d+$", "12", "٣"),
            (r"^[\w-]+$", "a-b_c", "a b"),
            (r"^[[]$", "[", "]"),
            (r"^[]a]+$", "]a", "b"),
            (r"^a{,2}$", "a{,2}", "aa"),
            (r"^a{1,2}$", "aa", "aaa"),
            (r"^[[:alpha:]&~]+$", "a&~", "1"),
            (r"^https?:\/\/x$", "http://x", "ftp://x"),
        ] {
            let pattern = Pattern::new(pattern);
            let regex = pattern.regex().unwrap();
            assert!(regex.is_match(good) && !regex.is_match(bad), "{}", pattern.text());
        }
    }

    #[test]
    fn a_wrong_pattern_says_why() {
        assert!(Pattern::new("a(").regex().unwrap_err().starts_with("error parsing regexp: "));
    }
}
