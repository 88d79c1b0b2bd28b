//! The approval that definitions in groups of the Kubernetes community need. Start at [`read`].
// upstream: apiextensions-apiserver pkg/apihelpers
use pintle_api::field::go_quote;

/// The annotation that says who approved.
pub(crate) const ANNOTATION: &str = "api-approved.kubernetes.io";

/// Whether only approved definitions may use the group.
pub(crate) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// What the approval annotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Neither a URL nor a reason.
    Invalid,
    /// A URL.
    Approved,
    /// A reason why there is no approval.
    Bypassed,
    /// Nothing.
    Missing,
}

/// Reads the approval annotation.
pub(crate) fn read(annotation: &str) -> (State, String) {
    let about = "see https://github.com/kubernetes/enhancements/pull/1111";
    let has_host = annotation
        .split_once("://")
        .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.split('/').next().unwrap_or_default().is_empty());
    match annotation {
        "" => {
            let text = format!("protected groups must have approval annotation {}, {about}", go_quote(ANNOTATION));
            (State::Missing, text)
        }
        text if text.starts_with("unapproved") => (State::Bypassed, format!("not approved: {}", go_quote(text))),
        text if has_host => (State::Approved, format!("approved in {text}")),
        _ => {
            let text = format!(
                "protected groups must have approval annotation {} with either a URL or a reason starting with \
                 \"unapproved\", {about}",
                go_quote(ANNOTATION)
            );
            (State::Invalid, text)
        }
    }
}
