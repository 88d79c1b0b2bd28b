//! What differed, in a form for people. Start at [`render`].
use super::compare::Change;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A value is printed up to this length.
const SHOWN: usize = 300;

/// One difference in the answers to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Method, path and what is special about the request.
    pub request: String,
    /// Where the answers differ, and how.
    pub change: Change,
}

/// The differences of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many answers were compared.
    pub compared: usize,
    /// How they differed.
    pub differences: Vec<Difference>,
}

/// The differences, those of one kind together and the most frequent kind first; of each kind so many examples.
pub fn render(differences: &[Difference], examples: usize) -> String {
    let mut groups: BTreeMap<String, Vec<&Difference>> = BTreeMap::new();
    for difference in differences {
        groups.entry(class(difference)).or_default().push(difference);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
    let mut out = String::new();
    for (class, members) in groups {
        let _ = writeln!(out, "{:4} × {class}", members.len());
        for Difference { request, change } in members.into_iter().take(examples) {
            let (theirs, ours) = (shown(change.theirs.as_ref()), shown(change.ours.as_ref()));
            let _ = writeln!(out, "       {request}\n         {}\n         - {theirs}\n         + {ours}", change.path);
        }
    }
    out
}

/// What kind of difference it is: the resource, and the place without indices.
fn class(difference: &Difference) -> String {
    let uri = difference.request.split(' ').nth(1).unwrap_or_default();
    let path = uri.split('?').next().unwrap_or_default().replace("/namespaces/{ns}/", "/");
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let kind = parts.get(if parts.first() == Some(&"apis") { 3 } else { 2 }).copied().unwrap_or(&path);
    let mut place = String::new();
    let mut inside = false;
    for c in difference.change.path.chars() {
        inside = (inside || c == '[') && c != ']';
        if !inside && c != ']' {
            place.push(c);
        }
    }
    if let Some((before, _)) = place.split_once("managedFields.") {
        place = format!("{before}managedFields");
    }
    let sides = [&difference.change.theirs, &difference.change.ours];
    let field = sides.into_iter().flatten().find_map(|value| value["field"].as_str()).unwrap_or_default();
    format!("{kind} {place} {}", field.split('[').next().unwrap_or_default()).trim_end().to_owned()
}

fn shown(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "(nothing)".to_owned(), ToString::to_string);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_of_one_kind_stand_together_the_most_frequent_first() {
        let difference = |request: &str, path: &str| Difference {
            request: request.into(),
            change: Change { path: path.into(), theirs: Some(json!(1)), ours: None },
        };
        let text = render(
            &[
                difference("POST /api/v1/namespaces/{ns}/pods [a]", "code"),
                difference("POST /apis/apps/v1/namespaces/{ns}/deployments?x=1 [b]", "body.items[0].x"),
                difference("POST /apis/apps/v1/namespaces/{ns}/deployments [c]", "body.items[7].x"),
            ],
            1,
        );
        let heads: Vec<&str> = text.lines().filter(|line| line.contains('×')).collect();
        assert_eq!(heads, ["   2 × deployments body.items.x", "   1 × pods code"]);
        assert_eq!(text.lines().filter(|line| line.contains("/deployments")).count(), 1);
    }
}
