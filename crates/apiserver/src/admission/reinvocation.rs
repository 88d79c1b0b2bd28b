//! Which mutating webhooks and policies are asked again, because others changed the object after them. Start at [`Round`].
// upstream: webhook/mutating/reinvocationcontext.go, policy/mutating/reinvocationcontext.go
use serde_json::Value;
use std::collections::BTreeSet;

/// What one plugin called in the first round, and has to call in the second.
#[derive(Debug, Default)]
pub(super) struct Round {
    again: bool,
    called: BTreeSet<String>,
    due: BTreeSet<String>,
    output: Option<Value>,
    changed: bool,
}

impl Round {
    /// Whether something changed the object in this round.
    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    /// Whether this is the second round.
    pub(super) fn is_second(&self) -> bool {
        self.again
    }

    /// Starts the second round.
    pub(super) fn again(&mut self) {
        self.again = true;
        self.changed = false;
    }

    /// The plugin begins on `object`; in the second round everything is due if others changed it meanwhile.
    pub(super) fn begin(&mut self, object: Option<&Value>) {
        if self.again && self.output.as_ref() != object {
            self.due.append(&mut self.called);
        }
    }

    /// Whether `id` is to be called.
    pub(super) fn calls(&self, id: &str) -> bool {
        !self.again || self.due.contains(id)
    }

    /// `id` was called.
    pub(super) fn called(&mut self, id: &str, reinvocable: bool, changed: bool) {
        if changed {
            self.due.append(&mut self.called);
            self.changed = true;
        }
        if reinvocable {
            self.called.insert(id.to_owned());
        }
    }

    /// The plugin is done with `object`. It is only kept where a second round may ask.
    pub(super) fn end(&mut self, object: Option<&Value>) {
        self.output = if self.called.is_empty() { None } else { object.cloned() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_called_before_a_change_is_due_again_if_it_wants_to_be() {
        let mut round = Round::default();
        let object = json!({});
        round.begin(Some(&object));
        round.called("a", true, false);
        round.called("b", false, false);
        round.called("c", true, true);
        round.end(Some(&object));
        assert!(round.has_changed());
        round.again();
        round.begin(Some(&object));
        assert!(round.calls("a") && !round.calls("b") && !round.calls("c"));
        let mut round = Round::default();
        round.called("c", true, true);
        round.end(Some(&object));
        round.again();
        round.begin(Some(&json!({"changed": "by another plugin"})));
        assert!(round.calls("c"));
    }
}
