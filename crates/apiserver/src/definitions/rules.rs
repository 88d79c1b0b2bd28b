//! `x-kubernetes-validations`: rules in CEL that objects of custom resources must satisfy. Start at [`check`], which judges the
//! rules, and [`Rules::judge`], which judges objects by them.
// upstream: apiextensions-apiserver pkg/apiserver/schema/cel
mod compile;
mod costs;

use crate::value::Read;
use compile::{Compiler, Findings};
use pintle_api::custom::Custom;
use pintle_api::field::{BadValue, ErrorType, FieldError, Path, go_quote};
use pintle_cel::{Activation, Budget, Error, Program, Type, Value as CelValue};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest text of a `messageExpression`, in bytes.
const MAX_MESSAGE: usize = 5120;

/// The rules of a schema and of what is inside it.
#[derive(Debug)]
pub(crate) struct Rules {
    own: Vec<Rule>,
    ty: Type,
    /// `type` of the schema, which errors show in the place of the value.
    type_name: String,
    nullable: bool,
    properties: BTreeMap<String, Rules>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    /// The keys by which items correspond to old ones; none: they do not.
    keys: Option<Vec<String>>,
}

#[derive(Debug)]
struct Rule {
    /// The rule, or why it does not compile.
    program: Result<Program, String>,
    /// Whether the rule is about a change.
    transition: bool,
    /// Whether a rule about a change also judges values without an old one.
    optional_old: bool,
    /// What errors of the evaluation call it.
    name: String,
    /// What is said of a value that breaks it.
    text: String,
    message: Option<Program>,
    reason: String,
    /// The field that is blamed, from the value on.
    field: String,
}

/// What is wrong with the rules of the `openAPIV3Schema` at `path`, where there are errors at the paths `broken`. `unchanged`:
/// the schema was the same before, so that single rules may be expensive.
pub(crate) fn check(openapi: &Value, path: &Path<'_>, broken: &[String], unchanged: bool) -> Vec<FieldError> {
    let path = path.to_string();
    let mut compiler = Compiler { findings: Some(Findings::new(broken, !unchanged)) };
    compiler.root(openapi, true, &path);
    compiler.findings.map(|findings| findings.finish(&path)).unwrap_or_default()
}

impl Rules {
    /// Compiles the rules of an `openAPIV3Schema`; none if there are none.
    fn compile(openapi: &Value, root: bool) -> Option<Rules> {
        Compiler::default().root(openapi, root, "")
    }

    /// The rules of a version of a custom resource, compiled once.
    pub(crate) fn of(custom: &Custom) -> Option<&Rules> {
        let make =
            |openapi: &Value| -> Box<dyn std::any::Any + Send + Sync> { Box::new(Rules::compile(openapi, true)) };
        custom.rules(make)?.downcast_ref::<Option<Rules>>()?.as_ref()
    }

    /// The errors of `object`; `old` is what it was before an update. What breaks a rule and did not change may stay: `warn` is
    /// told of it.
    pub(crate) fn judge(&self, object: &Value, old: Option<&Value>, warn: &mut dyn FnMut(String)) -> Vec<FieldError> {
        let mut judge = Judge::new(true);
        judge.value(self, object, old, false, &Path::root(""));
        judge.warnings.iter().for_each(|warning| warn(warning.to_string()));
        judge.errors
    }
}

/// The errors of the defaults in an `openAPIV3Schema` at `path`.
// upstream: apiextensions-apiserver pkg/apiserver/schema/defaulting, ValidateDefaults
pub(crate) fn judge_defaults(openapi: &Value, path: &Path<'_>) -> Vec<FieldError> {
    let mut judge = Judge::new(false);
    judge.defaults(openapi, path);
    judge.errors
}

/// Whether the form of an object is so wrong that its rules are not asked.
// upstream: customresource/strategy.go, hasBlockingErr
pub(crate) fn blocked(errors: &[FieldError]) -> Option<FieldError> {
    let blocking =
        [ErrorType::NotSupported, ErrorType::Required, ErrorType::TooLong, ErrorType::TooMany, ErrorType::TypeInvalid];
    let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete \
               validation";
    let blocked = errors.iter().any(|error| blocking.contains(&error.error_type));
    blocked.then(|| FieldError::invalid(&Path::root("<nil>"), &Value::Null, why))
}

struct Judge {
    budget: Budget,
    errors: Vec<FieldError>,
    /// Whether the budget is used up, so that nothing more is asked.
    spent: bool,
    /// Whether what did not change may stay, even if it breaks a rule.
    lenient: bool,
    /// What may stay.
    warnings: Vec<FieldError>,
}

impl Judge {
    fn new(lenient: bool) -> Self {
        Judge { budget: Budget::default(), errors: Vec::new(), spent: false, lenient, warnings: Vec::new() }
    }

    fn defaults(&mut self, openapi: &Value, path: &Path<'_>) {
        let default = openapi.field("default");
        if !default.is_null() {
            let embedded = openapi.flag("x-kubernetes-embedded-resource");
            if let Some(rules) = Rules::compile(openapi, embedded) {
                // Rules about changes see a value that stays; then a value that is new.
                let (before, at) = (self.errors.len(), path.child("default"));
                self.value(&rules, default, Some(default), false, &at);
                if self.errors.len() == before {
                    self.value(&rules, default, None, false, &at);
                }
            }
        }
        let items = openapi.field("items");
        if items.is_object() {
            self.defaults(items, &path.child("items"));
        }
        for (name, property) in openapi.entries("properties") {
            self.defaults(property, &path.child("properties").key(name));
        }
    }

    /// `same`: whether a value around this one is known to be what it was.
    // upstream: apiextensions-apiserver pkg/apiserver/schema/cel/validation.go, ratchetingOptions
    fn value(&mut self, rules: &Rules, value: &Value, old: Option<&Value>, same: bool, path: &Path<'_>) {
        if self.spent || (value.is_null() && rules.nullable) {
            return;
        }
        // Items that have no old one are what they were if the list is.
        let matters = !rules.own.is_empty() || (rules.items.is_some() && rules.keys.is_none());
        let same = same || (matters && self.lenient && old == Some(value));
        for rule in &rules.own {
            self.rule(rules, rule, value, (old.filter(|old| !old.is_null()), same), path);
            if self.spent {
                return;
            }
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let old = old.and_then(|old| old.get(name));
                    if let Some(inner) = rules.properties.get(name) {
                        self.value(inner, value, old, same, &path.child(name));
                    } else if let Some(inner) = &rules.additional {
                        self.value(inner, value, old, same, &path.key(name));
                    }
                }
            }
            Value::Array(items) => {
                let Some(inner) = &rules.items else { return };
                for (i, item) in items.iter().enumerate() {
                    self.value(inner, item, rules.old_item(item, old), same, &path.index(i));
                }
            }
            _ => {}
        }
    }

    /// `old`: what the value was, and whether it is that still.
    fn rule(
        &mut self,
        rules: &Rules,
        rule: &Rule,
        value: &Value,
        (old, same): (Option<&Value>, bool),
        path: &Path<'_>,
    ) {
        let program = match &rule.program {
            Ok(program) => program,
            Err(why) => {
                let place = path.to_string();
                let place = Path::root(if place.is_empty() { "<nil>" } else { &place });
                self.errors.push(FieldError::invalid(
                    &place,
                    rules.type_name.as_str(),
                    format!("rule compile error: {why}"),
                ));
                return;
            }
        };
        if rule.transition && old.is_none() && !rule.optional_old {
            return;
        }
        let mut activation = Activation::new();
        activation.bind("self", CelValue::typed(value, &rules.ty));
        if rule.transition {
            let old = old.map(|old| CelValue::typed(old, &rules.ty));
            match (rule.optional_old, old) {
                (true, old) => activation.bind("oldSelf", CelValue::Optional(old.map(Arc::new))),
                (false, Some(old)) => activation.bind("oldSelf", old),
                (false, None) => {}
            }
        }
        let outcome = program.eval_bool(&activation, &mut self.budget);
        let place = path.to_string();
        let place = if place.is_empty() { "<nil>" } else { place.as_str() };
        let blamed = match (place, rule.field.as_str()) {
            (place, "") => place.to_owned(),
            ("<nil>", field) => field.to_owned(),
            (place, field) => format!("{place}.{field}"),
        };
        let type_name = rules.type_name.as_str();
        match outcome {
            Ok(true) => {}
            Ok(false) => {
                let at = Path::root(&blamed);
                let shown = match type_name {
                    "object" | "array" => BadValue::json(""),
                    _ => value.into(),
                };
                let error = match self.message(rule, &activation).map(|text| text.unwrap_or_else(|| rule.text.clone()))
                {
                    Ok(text) => match rule.reason.as_str() {
                        "FieldValueForbidden" => FieldError::forbidden(&at, text),
                        "FieldValueRequired" => FieldError::required(&at, text),
                        "FieldValueDuplicate" => FieldError::duplicate(&at, shown),
                        _ => FieldError::invalid(&at, shown, text),
                    },
                    Err(why) => {
                        self.spent = true;
                        FieldError::invalid(&at, type_name, why)
                    }
                };
                let stays = self.lenient && same && !rule.transition;
                if stays { self.warnings.push(error) } else { self.errors.push(error) }
            }
            Err(error) => {
                let text = match &error {
                    Error::OutOfBudget => {
                        self.spent = true;
                        error.to_string()
                    }
                    Error::CallTooExpensive => {
                        self.spent = true;
                        format!(
                            "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                            rule.name
                        )
                    }
                    Error::Failed(why) if why.starts_with("no such overload") => format!(
                        "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                        rule.name
                    ),
                    Error::Failed(why) => format!("{why} evaluating rule: {}", rule.name),
                };
                self.errors.push(FieldError::invalid(&Path::root(place), type_name, text));
            }
        }
    }

    /// What the rule's own expression says of the value, if that is fit to be shown; an error if it did too much work.
    fn message(&mut self, rule: &Rule, activation: &Activation<'_>) -> Result<Option<String>, String> {
        let Some(program) = &rule.message else { return Ok(None) };
        let value = match program.eval(activation, &mut self.budget) {
            Ok(value) => value,
            Err(Error::Failed(_)) => return Ok(None),
            Err(Error::OutOfBudget) => {
                return Err("messageExpression evaluation failed due to running out of cost budget, no further validation rules \
                            will be run"
                    .to_owned());
            }
            Err(Error::CallTooExpensive) => {
                return Err(format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {}",
                    go_quote(program.source())
                ));
            }
        };
        let json = value.to_json();
        let text = json.as_ref().and_then(Value::as_str).unwrap_or_default().trim();
        Ok((!text.is_empty() && !text.contains(['\n', '\r']) && text.len() <= MAX_MESSAGE).then(|| text.to_owned()))
    }
}

impl Rules {
    /// The old item that has the keys of `item`.
    fn old_item<'a>(&self, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
        let keys = self.keys.as_ref()?;
        let same = |old: &&Value| keys.iter().all(|key| old.get(key) == item.get(key));
        old?.as_array()?.iter().find(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(rule: Value) -> Rules {
        let openapi = json!({"type": "object", "properties": {"spec": {"type": "object",
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}}, "x-kubernetes-validations": [rule]}}});
        assert_eq!(check(&openapi, &Path::root("schema"), &[], false), []);
        Rules::compile(&openapi, true).unwrap()
    }

    fn errors(rule: Value, new: Value, old: Option<Value>) -> Vec<String> {
        let wrap = |spec: Value| json!({"spec": spec});
        let old = old.map(wrap);
        rules(rule).judge(&wrap(new), old.as_ref(), &mut |_| {}).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_that_is_broken_says_so_where_it_stands() {
        let rule = json!({"rule": "self.min <= self.max"});
        assert_eq!(errors(rule.clone(), json!({"min": 1, "max": 2}), None), Vec::<String>::new());
        assert_eq!(
            errors(rule, json!({"min": 3, "max": 2}), None),
            ["spec: Invalid value: failed rule: self.min <= self.max"]
        );
        let told = json!({"rule": "self.min <= self.max", "messageExpression": "self.min > 2 ? 'min is too much' : 'odd'",
            "fieldPath": ".min", "reason": "FieldValueForbidden"});
        assert_eq!(errors(told, json!({"min": 3, "max": 2}), None), ["spec.min: Forbidden: min is too much"]);
    }

    #[test]
    fn rules_about_changes_need_an_old_value() {
        let rule = json!({"rule": "self.min == oldSelf.min", "message": "min is immutable"});
        assert_eq!(errors(rule.clone(), json!({"min": 3}), None), Vec::<String>::new());
        assert_eq!(errors(rule, json!({"min": 3}), Some(json!({"min": 2}))), ["spec: Invalid value: min is immutable"]);
        let optional =
            json!({"rule": "oldSelf.hasValue() || self.min == 1", "optionalOldSelf": true, "message": "begin with 1"});
        assert_eq!(errors(optional, json!({"min": 3}), None), ["spec: Invalid value: begin with 1"]);
    }

    /// Errors and warnings.
    fn judged(rules: &Rules, new: &Value, old: &Value) -> (Vec<String>, Vec<String>) {
        let mut warnings = Vec::new();
        let errors = rules.judge(new, Some(old), &mut |warning| warnings.push(warning));
        (errors.iter().map(ToString::to_string).collect(), warnings)
    }

    #[test]
    fn what_broke_a_rule_before_and_did_not_change_passes_with_a_warning() {
        let rules = rules(json!({"rule": "self.min <= self.max"}));
        let wrong = json!({"spec": {"min": 3, "max": 2}});
        let told = vec!["spec: Invalid value: failed rule: self.min <= self.max".to_owned()];
        assert_eq!(judged(&rules, &wrong, &wrong), (vec![], told.clone()));
        assert_eq!(judged(&rules, &wrong, &json!({"spec": {"min": 1, "max": 2}})), (told, vec![]));
        // What cannot be judged is an error even so.
        let odd = json!({"spec": {"min": 3}});
        let why = "spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max".to_owned();
        assert_eq!(judged(&rules, &odd, &odd), (vec![why], vec![]));
    }

    #[test]
    fn items_without_an_old_one_are_unchanged_if_their_list_is() {
        let openapi = json!({"type": "object", "properties": {"size": {"type": "integer"}, "list": {"type": "array",
            "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1", "message": "small"}]}}}});
        let rules = Rules::compile(&openapi, true).unwrap();
        let object = |size: i64, list: &[i64]| json!({"size": size, "list": list});
        let told = vec!["list[0]: Invalid value: 1: small".to_owned()];
        assert_eq!(judged(&rules, &object(2, &[1, 2]), &object(1, &[1, 2])), (vec![], told.clone()));
        assert_eq!(judged(&rules, &object(1, &[1, 3]), &object(1, &[1, 2])), (told, vec![]));
    }

    fn checked(openapi: &Value, broken: &[&str]) -> Vec<String> {
        let broken: Vec<String> = broken.iter().map(|path| (*path).to_owned()).collect();
        check(openapi, &Path::root("schema"), &broken, false).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_that_do_not_compile_are_named() {
        let openapi = json!({"type": "object", "properties": {"n": {"type": "integer",
            "x-kubernetes-validations": [{"rule": "self.x > 1"}, {"rule": "self + 1"}]}}});
        let errors = checked(&openapi, &[]);
        assert!(
            errors[0].starts_with("schema.properties[n].x-kubernetes-validations[0].rule: Invalid value: "),
            "{errors:?}"
        );
        assert_eq!(
            errors[1],
            r#"schema.properties[n].x-kubernetes-validations[1].rule: Invalid value: {"Rule":"self + 1","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: cel expression must evaluate to a bool"#
        );
        assert_eq!(errors.len(), 2);
    }

    #[test]
    fn rules_of_a_schema_with_errors_inside_are_not_looked_at() {
        let rule = json!([{"rule": "nonsense"}]);
        let openapi = json!({"type": "object", "properties": {
            "a": {"type": "string", "x-kubernetes-validations": rule}, "ab": {"type": "string", "x-kubernetes-validations": rule}}});
        assert_eq!(checked(&openapi, &[]).len(), 2);
        let errors = checked(&openapi, &["schema.properties[a].type"]);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].starts_with("schema.properties[ab]"), "{errors:?}");
        assert_eq!(checked(&openapi, &["schema"]).len(), 2);
    }

    #[test]
    fn a_rule_and_its_message_have_errors_of_their_own() {
        let rule = json!({"rule": "self == oldSelf", "messageExpression": "1", "optionalOldSelf": true});
        let openapi = json!({"type": "object", "properties": {"list": {"type": "array", "maxItems": 2,
            "items": {"type": "integer", "x-kubernetes-validations": [rule, {"rule": "self > 1", "optionalOldSelf": false}]}}}});
        let errors = checked(&openapi, &[]);
        let starts = [
            "schema.properties[list].items.x-kubernetes-validations[0].rule: Invalid value: {",
            "schema.properties[list].items.x-kubernetes-validations[0].messageExpression: Invalid value: {",
        ];
        assert!(errors[0].starts_with(starts[0]) || errors[0].starts_with(starts[1]), "{errors:?}");
        assert_eq!(
            errors.last().unwrap(),
            "schema.properties[list].items.x-kubernetes-validations[1].optionalOldSelf: Invalid value: false: may not be set if \
             oldSelf is not used in rule"
        );
    }

    #[test]
    fn a_rule_costs_as_often_as_its_value_can_be_there() {
        let openapi = |max: Option<u64>| {
            json!({"type": "object", "properties": {"list": {"type": "array", "maxItems": max,
            "items": {"type": "string", "maxLength": 100, "x-kubernetes-validations": [{"rule": "self.contains('abcdefghijk')"}]}}}})
        };
        // 400 bytes are searched for 11: 40 * 2, and 1 for the variable.
        assert_eq!(checked(&openapi(Some(123_456)), &[]), Vec::<String>::new());
        let tried = " (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings \
                     are declared)";
        let at = "schema.properties[list].items.x-kubernetes-validations[0].rule";
        assert_eq!(
            checked(&openapi(Some(123_457)), &[]),
            [format!("{at}: Forbidden: estimated rule cost exceeds budget by factor of 1.000002x{tried}")]
        );
        // A request has room for a million empty texts.
        assert_eq!(
            checked(&openapi(None), &[]),
            [format!("{at}: Forbidden: estimated rule cost exceeds budget by factor of 8.5x{tried}")]
        );
        assert_eq!(check(&openapi(None), &Path::root("schema"), &[], true), []);
    }
}
