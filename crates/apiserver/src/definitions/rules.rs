//! `x-kubernetes-validations`: rules in CEL that objects of custom resources must satisfy. Start at [`Rules::compile`] and
//! [`Rules::judge`].
// upstream: apiextensions-apiserver pkg/apiserver/schema/cel
use crate::value::Read;
use pintle_api::custom::Custom;
use pintle_api::field::{BadValue, ErrorType, FieldError, Path, go_json};
use pintle_cel::{Activation, Budget, Env, Error, Program, Type, Value as CelValue, schema::of_schema};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest text of a `messageExpression`, in bytes.
const MAX_MESSAGE: usize = 5120;
/// How the error begins for a rule about changes of values that have no old ones.
const UNCORRELATED: &str = "oldSelf cannot be used on the uncorrelatable portion of the schema within";
/// What stands for the place of the root schema in [`Wrong::why`].
pub(crate) const ROOT: &str = "{root}";

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
    /// Whether fields do not correspond to old ones.
    atomic: bool,
}

#[derive(Debug)]
struct Rule {
    program: Program,
    /// Whether the rule is about a change.
    transition: bool,
    /// Whether a rule about a change also judges values without an old one.
    optional_old: bool,
    /// What is said of a value that breaks it.
    text: String,
    message: Option<Program>,
    reason: String,
    /// The field that is blamed, from the value on.
    field: String,
}

/// What is wrong with the rule at this index: `rule` or `messageExpression`, and why.
pub(crate) struct Wrong {
    /// The place of the schema, as far as names go, below the root schema.
    pub(crate) at: String,
    /// Which of the schema's rules.
    pub(crate) index: usize,
    /// `rule` or `messageExpression`.
    pub(crate) part: &'static str,
    /// What the error shows in the place of the value.
    pub(crate) shown: BadValue,
    /// Why it does not compile.
    pub(crate) why: String,
}

impl Rules {
    /// Compiles the rules of an `openAPIV3Schema`; none if there are none. What does not compile is added to `wrong`.
    pub(crate) fn compile(openapi: &Value, wrong: &mut Vec<Wrong>) -> Option<Rules> {
        compile(openapi, true, "", None, wrong)
    }

    /// The rules of a version of a custom resource, compiled once.
    pub(crate) fn of(custom: &Custom) -> Option<&Rules> {
        let make = |openapi: &Value| -> Box<dyn std::any::Any + Send + Sync> {
            Box::new(Rules::compile(openapi, &mut Vec::new()))
        };
        custom.rules(make)?.downcast_ref::<Option<Rules>>()?.as_ref()
    }

    /// The errors of `object`; `old` is what it was before an update.
    pub(crate) fn judge(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut judge = Judge { budget: Budget::default(), errors: Vec::new(), spent: false };
        judge.value(self, object, old, &Path::root(""));
        judge.errors
    }
}

/// The errors of the defaults in an `openAPIV3Schema` at `path`, all of whose rules compile.
// upstream: apiextensions-apiserver pkg/apiserver/schema/defaulting, ValidateDefaults
pub(crate) fn judge_defaults(openapi: &Value, path: &Path<'_>) -> Vec<FieldError> {
    let mut judge = Judge { budget: Budget::default(), errors: Vec::new(), spent: false };
    judge.defaults(openapi, path);
    judge.errors
}

/// `lost`: the schema on the way here inside which values do not correspond to old ones.
fn compile(openapi: &Value, root: bool, at: &str, lost: Option<&str>, wrong: &mut Vec<Wrong>) -> Option<Rules> {
    let mut properties = BTreeMap::new();
    let atomic = openapi.text("x-kubernetes-map-type") == "atomic";
    let keyed = openapi.text("x-kubernetes-list-type") == "map";
    for (name, property) in openapi.entries("properties") {
        let lost = lost.or(atomic.then_some(at));
        let rules = compile(property, false, &format!("{at}.properties[{name}]"), lost, wrong);
        properties.extend(rules.map(|rules| (name.to_owned(), rules)));
    }
    let mut inner = |name: &str, lost: Option<&str>| {
        let schema = openapi.field(name);
        schema.is_object().then(|| compile(schema, false, &format!("{at}.{name}"), lost, wrong)).flatten().map(Box::new)
    };
    let additional = inner("additionalProperties", lost);
    let items = inner("items", lost.or((!keyed).then_some(at)));
    let given = openapi.items("x-kubernetes-validations");
    let ty = of_schema(openapi, root, "object").unwrap_or(Type::Dyn);
    let mut own = Vec::new();
    for (index, rule) in given.iter().enumerate() {
        let compiled = compile_rule(rule, &ty).and_then(|compiled| match lost {
            Some(lost) if compiled.transition => Err(("rule", format!("{UNCORRELATED} {ROOT}{lost}"))),
            _ if !compiled.transition && rule.has("optionalOldSelf") => {
                Err(("optionalOldSelf", "may not be set if oldSelf is not used in rule".to_owned()))
            }
            _ => Ok(compiled),
        });
        match compiled {
            Ok(rule) => own.push(rule),
            Err((part, why)) => {
                wrong.push(Wrong { at: at.to_owned(), index, part, shown: shown(rule, part, &why), why });
            }
        }
    }
    if own.is_empty() && properties.is_empty() && additional.is_none() && items.is_none() {
        return None;
    }
    Some(Rules {
        own,
        ty,
        type_name: openapi.text("type").to_owned(),
        nullable: openapi.flag("nullable"),
        properties,
        additional,
        items,
        keys: keyed.then(|| openapi.texts("x-kubernetes-list-map-keys").map(str::to_owned).collect()),
        atomic,
    })
}

/// What an error about a part of a rule shows of it: mostly the whole rule, with the field names of upstream's internal type.
fn shown(rule: &Value, part: &str, why: &str) -> BadValue {
    if part == "optionalOldSelf" {
        return rule.field("optionalOldSelf").into();
    }
    if why.starts_with(UNCORRELATED) {
        return rule.text("rule").into();
    }
    let fields = [
        ("Rule", go_json(&rule.text("rule").into())),
        ("Message", go_json(&rule.text("message").into())),
        ("MessageExpression", go_json(&rule.text("messageExpression").into())),
        ("Reason", go_json(rule.field("reason"))),
        ("FieldPath", go_json(&rule.text("fieldPath").into())),
        ("OptionalOldSelf", go_json(rule.field("optionalOldSelf"))),
    ];
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    BadValue::json(format!("{{{}}}", fields.join(",")))
}

fn compile_rule(rule: &Value, ty: &Type) -> Result<Rule, (&'static str, String)> {
    let optional_old = rule.flag("optionalOldSelf");
    let old = if optional_old { Type::optional(ty.clone()) } else { ty.clone() };
    let env = Env::new().variable("self", ty.clone()).variable("oldSelf", old);
    let compile = |part: &'static str, source: &str, wanted: Type, name: &str| {
        let program = env.compile(source).map_err(|error| {
            let of = if part == "messageExpression" { "messageExpression " } else { "" };
            (part, format!("{of}compilation failed: {error}"))
        })?;
        match program.output() == &wanted || program.output().is_dynamic() {
            true => Ok(program),
            false => Err((
                part,
                format!("{} must evaluate to a {name}", if part == "rule" { "cel expression" } else { part }),
            )),
        }
    };
    let source = rule.text("rule");
    let program = compile("rule", source, Type::Bool, "bool")?;
    let dynamic = rule.text("messageExpression");
    let message = match dynamic {
        "" => None,
        source => Some(compile("messageExpression", source, Type::String, "string")?),
    };
    let text = match rule.text("message").trim() {
        "" => format!("failed rule: {}", source.trim()),
        message => message.to_owned(),
    };
    let transition = program.uses("oldSelf");
    let (reason, field) = (rule.text("reason").to_owned(), rule.text("fieldPath").trim_start_matches('.').to_owned());
    Ok(Rule { program, transition, optional_old, text, message, reason, field })
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
}

impl Judge {
    fn defaults(&mut self, openapi: &Value, path: &Path<'_>) {
        let default = openapi.field("default");
        if !default.is_null() {
            let embedded = openapi.flag("x-kubernetes-embedded-resource");
            if let Some(rules) = compile(openapi, embedded, "", None, &mut Vec::new()) {
                // Rules about changes see a value that stays; then a value that is new.
                let (before, at) = (self.errors.len(), path.child("default"));
                self.value(&rules, default, Some(default), &at);
                if self.errors.len() == before {
                    self.value(&rules, default, None, &at);
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

    fn value(&mut self, rules: &Rules, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        if self.spent || (value.is_null() && rules.nullable) {
            return;
        }
        for rule in &rules.own {
            self.rule(rules, rule, value, old.filter(|old| !old.is_null()), path);
            if self.spent {
                return;
            }
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let old = old.filter(|_| !rules.atomic).and_then(|old| old.get(name));
                    if let Some(inner) = rules.properties.get(name) {
                        self.value(inner, value, old, &path.child(name));
                    } else if let Some(inner) = &rules.additional {
                        self.value(inner, value, old, &path.key(name));
                    }
                }
            }
            Value::Array(items) => {
                let Some(inner) = &rules.items else { return };
                for (i, item) in items.iter().enumerate() {
                    self.value(inner, item, rules.old_item(item, old), &path.index(i));
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, rules: &Rules, rule: &Rule, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        if rule.transition && old.is_none() && !rule.optional_old {
            return;
        }
        // What was so before and did not change may stay so.
        if !rule.transition && old == Some(value) {
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
        let outcome = rule.program.eval_bool(&activation, &mut self.budget);
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
                let text = self.message(rule, &activation).unwrap_or_else(|| rule.text.clone());
                let at = Path::root(&blamed);
                let shown = match type_name {
                    "object" | "array" => BadValue::json(""),
                    _ => value.into(),
                };
                self.errors.push(match rule.reason.as_str() {
                    "FieldValueForbidden" => FieldError::forbidden(&at, text),
                    "FieldValueRequired" => FieldError::required(&at, text),
                    "FieldValueDuplicate" => FieldError::duplicate(&at, shown),
                    _ => FieldError::invalid(&at, shown, text),
                });
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
                            rule.text
                        )
                    }
                    Error::Failed(why) if why.starts_with("no such overload") => format!(
                        "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                        rule.text
                    ),
                    Error::Failed(why) => format!("{why} evaluating rule: {}", rule.text),
                };
                self.errors.push(FieldError::invalid(&Path::root(place), type_name, text));
            }
        }
    }

    /// What the rule's own expression says of the value, if that is fit to be shown.
    fn message(&mut self, rule: &Rule, activation: &Activation<'_>) -> Option<String> {
        let value = rule.message.as_ref()?.eval(activation, &mut self.budget).ok()?;
        let text = value.to_json()?.as_str()?.trim().to_owned();
        (!text.is_empty() && !text.contains('\n') && text.len() <= MAX_MESSAGE).then_some(text)
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
        let mut wrong = Vec::new();
        let openapi = json!({"type": "object", "properties": {"spec": {"type": "object",
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}}, "x-kubernetes-validations": [rule]}}});
        let rules = Rules::compile(&openapi, &mut wrong).unwrap();
        assert!(wrong.is_empty());
        rules
    }

    fn errors(rule: Value, new: Value, old: Option<Value>) -> Vec<String> {
        let wrap = |spec: Value| json!({"spec": spec});
        let old = old.map(wrap);
        rules(rule).judge(&wrap(new), old.as_ref()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_that_is_broken_says_so_where_it_stands() {
        let rule = json!({"rule": "self.min <= self.max"});
        assert_eq!(errors(rule.clone(), json!({"min": 1, "max": 2}), None), Vec::<String>::new());
        assert_eq!(
            errors(rule, json!({"min": 3, "max": 2}), None),
            ["spec: Invalid value: failed rule: self.min <= self.max"]
        );
        let told = json!({"rule": "self.min <= self.max", "messageExpression": "'min ' + string(self.min) + ' is too much'",
            "fieldPath": ".min", "reason": "FieldValueForbidden"});
        assert_eq!(errors(told, json!({"min": 3, "max": 2}), None), ["spec.min: Forbidden: min 3 is too much"]);
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

    #[test]
    fn what_broke_a_rule_before_and_did_not_change_passes() {
        let rule = json!({"rule": "self.min <= self.max"});
        let wrong = json!({"min": 3, "max": 2});
        assert_eq!(errors(rule, wrong.clone(), Some(wrong)), Vec::<String>::new());
    }

    #[test]
    fn rules_that_do_not_compile_are_named() {
        let mut wrong = Vec::new();
        let openapi = json!({"type": "object", "properties": {"n": {"type": "integer",
            "x-kubernetes-validations": [{"rule": "self.x > 1"}, {"rule": "self + 1"}]}}});
        Rules::compile(&openapi, &mut wrong);
        assert_eq!((wrong[0].at.as_str(), wrong[0].index, wrong[0].part), (".properties[n]", 0, "rule"));
        assert_eq!(wrong[1].why, "cel expression must evaluate to a bool");
        let error = FieldError::invalid(&Path::root("rule"), wrong[1].shown.clone(), "");
        assert_eq!(
            error.body(),
            r#"Invalid value: {"Rule":"self + 1","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}"#
        );
    }
}
