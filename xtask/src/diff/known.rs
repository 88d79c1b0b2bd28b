//! The differences that have a reason: `xtask/diff/known.yaml`. Start at [`Known::split`].
use super::report::{Difference, Report};
use anyhow::{Context, Result};
use regex::Regex;
use serde::Deserialize;

const FILE: &str = include_str!("../../diff/known.yaml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// A pattern for the request: method, path, and what is special in brackets.
    request: String,
    /// A pattern for the place in the answer.
    path: String,
    /// A pattern for what upstream answers, as JSON; anything by default.
    #[serde(default)]
    upstream: String,
    /// A pattern for what Pintle answers, as JSON; anything by default.
    #[serde(default)]
    pintle: String,
    /// Why it differs.
    reason: String,
}

/// The patterns, ready to use.
pub struct Known(Vec<[Regex; 4]>);

impl Known {
    /// Reads the file.
    pub fn load() -> Result<Self> {
        Self::parse(FILE)
    }

    fn parse(text: &str) -> Result<Self> {
        let entries: Vec<Entry> = serde_saphyr::from_str(text).context("known differences")?;
        let compile = |entry: &Entry| {
            anyhow::ensure!(!entry.reason.is_empty(), "{} {} has no reason", entry.request, entry.path);
            let whole = |pattern: &str| Regex::new(&format!("^(?:{pattern})$"));
            let part = |pattern: &str| Regex::new(pattern);
            Ok([part(&entry.request)?, whole(&entry.path)?, part(&entry.upstream)?, part(&entry.pintle)?])
        };
        Ok(Known(entries.iter().map(compile).collect::<Result<_>>()?))
    }

    /// The differences without a known reason, and how many have one.
    pub fn split(&self, report: &Report) -> (Vec<Difference>, usize) {
        let unknown: Vec<_> = report.differences.iter().filter(|d| !self.explains(d)).cloned().collect();
        let explained = report.differences.len() - unknown.len();
        (unknown, explained)
    }

    fn explains(&self, difference: &Difference) -> bool {
        let change = &difference.change;
        let text = |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string).unwrap_or_default();
        let (theirs, ours) = (text(&change.theirs), text(&change.ours));
        self.0.iter().any(|[request, path, upstream, pintle]| {
            request.is_match(&difference.request)
                && path.is_match(&change.path)
                && upstream.is_match(&theirs)
                && pintle.is_match(&ours)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::Change;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_committed_file_is_readable() {
        Known::load().expect("readable");
    }

    #[test]
    fn an_entry_without_a_reason_is_refused() {
        assert!(Known::parse("- {request: a, path: b, reason: ''}").is_err());
    }

    #[test]
    fn an_entry_explains_only_what_it_matches() {
        let known = Known::parse("- {request: ^GET /version, path: 'body\\.git.*', pintle: pintle, reason: r}");
        let known = known.expect("valid");
        let difference = |request: &str, path: &str, ours: &str| Difference {
            request: request.into(),
            change: Change { path: path.into(), theirs: None, ours: Some(json!(ours)) },
        };
        let report = Report {
            compared: 3,
            differences: vec![
                difference("GET /version", "body.gitVersion", "v1+pintle"),
                difference("GET /version", "body.gitVersion", "v1"),
                difference("GET /version", "code", "pintle"),
            ],
        };
        assert_eq!(known.split(&report).1, 1);
    }
}
