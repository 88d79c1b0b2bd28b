//! What changed between two values, as a unified diff of their JSON. Start at [`diff`].
// upstream: k8s.io/apimachinery/pkg/util/diff
use pintle_api::facts;
use serde_json::Value;
use std::fmt::Write;

/// Lines around a change.
const CONTEXT: usize = 3;

/// Beyond this many differing lines no shortest diff is sought.
const MAX_LINES: usize = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit {
    Keep,
    Remove,
    Add,
}

/// The lines by which the JSON of `a` and `b` differ; empty if none do.
pub fn diff(a: &Value, b: &Value) -> String {
    lines(&pretty(a), &pretty(b))
}

/// The same for two values of the type of this name, in the form of upstream's internal type.
pub fn internal(ty: &str, a: &Value, b: &Value) -> String {
    let Some(ty) = facts::by_name(ty) else { return diff(a, b) };
    lines(&indented(&facts::go::internal(ty, a)), &indented(&facts::go::internal(ty, b)))
}

/// Compact JSON, a line for each value, its fields in the order in which they are.
fn indented(json: &str) -> String {
    let (mut out, mut depth, mut in_text, mut escaped) = (String::new(), 0usize, false, false);
    let mut chars = json.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&" ".repeat(depth));
    };
    while let Some(c) = chars.next() {
        if in_text {
            out.push(c);
            (in_text, escaped) = (escaped || c != '"', !escaped && c == '\\');
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                if let Some(end) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => {
                in_text = c == '"';
                out.push(c);
            }
        }
    }
    out
}

fn lines(a: &str, b: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let edits = edits(&a, &b);
    let mut out = String::new();
    let (mut i, mut j, mut at) = (0, 0, 0);
    while let Some(first) = edits[at..].iter().position(|e| *e != Edit::Keep) {
        let lead = first.min(CONTEXT);
        (i, j) = (i + first - lead, j + first - lead);
        let start = at + first - lead;
        let mut end = start;
        let mut quiet = 0;
        for (k, edit) in edits.iter().enumerate().skip(start + lead) {
            quiet = if *edit == Edit::Keep { quiet + 1 } else { 0 };
            end = k + 1;
            if quiet > 2 * CONTEXT {
                break;
            }
        }
        end -= quiet.saturating_sub(CONTEXT);
        let hunk = &edits[start..end];
        let count = |skip| hunk.iter().filter(|e| **e != skip).count();
        let (removed, added) = (count(Edit::Add), count(Edit::Remove));
        writeln!(out, "@@ -{},{removed} +{},{added} @@", i + 1, j + 1).expect("writing to a String succeeds");
        for edit in hunk {
            let (sign, line) = match edit {
                Edit::Keep => (' ', a[i]),
                Edit::Remove => ('-', a[i]),
                Edit::Add => ('+', b[j]),
            };
            writeln!(out, "{sign}{line}").expect("writing to a String succeeds");
            i += usize::from(*edit != Edit::Add);
            j += usize::from(*edit != Edit::Remove);
        }
        at = end;
    }
    out
}

fn pretty(value: &Value) -> String {
    use serde::Serialize;
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, format);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        Err(error) => error.to_string(),
    }
}

fn edits(a: &[&str], b: &[&str]) -> Vec<Edit> {
    let head = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (rest_a, rest_b) = (&a[head..], &b[head..]);
    let tail = rest_a.iter().rev().zip(rest_b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (mid_a, mid_b) = (&rest_a[..rest_a.len() - tail], &rest_b[..rest_b.len() - tail]);
    let mut edits = vec![Edit::Keep; head];
    if mid_a.len() > MAX_LINES || mid_b.len() > MAX_LINES {
        edits.extend(vec![Edit::Remove; mid_a.len()]);
        edits.extend(vec![Edit::Add; mid_b.len()]);
    } else {
        edits.extend(shortest(mid_a, mid_b));
    }
    edits.extend(vec![Edit::Keep; tail]);
    edits
}

/// By the longest common subsequence.
fn shortest(a: &[&str], b: &[&str]) -> Vec<Edit> {
    let width = b.len() + 1;
    let mut common = vec![0u16; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i * width + j] = if a[i] == b[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut edits) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            edits.push(Edit::Keep);
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]) {
            edits.push(Edit::Remove);
            i += 1;
        } else {
            edits.push(Edit::Add);
            j += 1;
        }
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_json_is_indented_as_gos() {
        let json = r#"{"A":[],"B":{"C":"x:,\"{","D":[1,2]}}"#;
        let wanted = "{\n \"A\": [],\n \"B\": {\n  \"C\": \"x:,\\\"{\",\n  \"D\": [\n   1,\n   2\n  ]\n }\n}";
        assert_eq!(indented(json), wanted);
    }

    use serde_json::json;

    #[test]
    fn only_changed_lines_and_their_neighbours_are_shown() {
        let list = |x: i32| json!([1, 2, 3, 4, x, 6, 7, 8, 9]);
        assert_eq!(diff(&list(5), &list(5)), "");
        assert_eq!(diff(&list(5), &list(0)), "@@ -3,7 +3,7 @@\n  2,\n  3,\n  4,\n- 5,\n+ 0,\n  6,\n  7,\n  8,\n");
    }

    #[test]
    fn changes_far_apart_are_shown_apart() {
        let list = |x: i32, y: i32| {
            let mut v: Vec<i32> = (0..30).collect();
            (v[2], v[25]) = (x, y);
            json!(v)
        };
        assert_eq!(diff(&list(2, 25), &list(-1, -2)).matches("@@ -").count(), 2);
    }
}
