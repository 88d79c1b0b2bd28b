//! From a schema to its rules. Start at [`Compiler`].
use super::costs::{Costs, cardinality};
use super::{Rule, Rules};
use crate::value::Read;
use pintle_api::field::{BadValue, FieldError, Path, go_json};
use pintle_cel::schema::of_schema;
use pintle_cel::{Env, Program, Sizes, Type};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Compiles the rules of a schema and of what is inside it.
#[derive(Default)]
pub(super) struct Compiler<'a> {
    /// What is found to be wrong; nobody asks once the definition is stored.
    pub(super) findings: Option<Findings<'a>>,
}

/// What is wrong with the rules of a definition that is written.
pub(super) struct Findings<'a> {
    /// Where there are errors in the schema, so that the rules there and around it are not looked at.
    broken: &'a [String],
    costs: Costs,
    errors: Vec<FieldError>,
}

/// Where a schema stands.
struct Place {
    /// Its path.
    at: String,
    /// The path of the schema around it inside which values do not correspond to old ones.
    lost: Option<String>,
    /// How often its values can be in an object; `None`: without limit.
    cardinality: Option<u64>,
    /// How large its values can be, where a schema around it knows that.
    sizes: Option<Arc<Sizes>>,
}

impl<'a> Findings<'a> {
    /// `each`: whether each expression has to keep its limit.
    pub(super) fn new(broken: &'a [String], each: bool) -> Self {
        Findings { broken, costs: Costs::new(each), errors: Vec::new() }
    }

    /// All that was found in the schema at `root`.
    pub(super) fn finish(mut self, root: &str) -> Vec<FieldError> {
        self.costs.judge(root, &mut self.errors);
        self.errors
    }

    /// Whether the schema at `at` or one inside it has errors.
    fn is_broken(&self, at: &str) -> bool {
        let within =
            |path: &String| path.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.broken.iter().any(within)
    }
}

impl Compiler<'_> {
    /// The rules of the schema at `at`; none if there are none. `root`: whether it is that of whole objects.
    pub(super) fn root(&mut self, openapi: &Value, root: bool, at: &str) -> Option<Rules> {
        self.schema(openapi, root, &Place { at: at.to_owned(), lost: None, cardinality: Some(1), sizes: None })
    }

    fn schema(&mut self, openapi: &Value, root: bool, place: &Place) -> Option<Rules> {
        let given = openapi.items("x-kubernetes-validations");
        let sizes = match (&self.findings, &place.sizes) {
            (Some(_), None) if !given.is_empty() => Sizes::of_schema(openapi, root).map(Arc::new),
            (_, known) => known.clone(),
        };
        let cardinality = cardinality(openapi, place.cardinality);
        let keyed = openapi.text("x-kubernetes-list-type") == "map";
        let mut inside = |name: &str, schema: &Value, loses: bool, sizes: Option<Arc<Sizes>>| {
            let lost = place.lost.clone().or_else(|| loses.then(|| place.at.clone()));
            let place = Place { at: format!("{}.{name}", place.at), lost, cardinality, sizes };
            self.schema(schema, false, &place)
        };
        let mut properties = BTreeMap::new();
        for (name, property) in openapi.entries("properties") {
            let sizes = sizes.as_ref().and_then(|sizes| sizes.field(name));
            let rules = inside(&format!("properties[{name}]"), property, false, sizes);
            properties.extend(rules.map(|rules| (name.to_owned(), rules)));
        }
        let mut element = |name: &str, loses: bool| {
            let (schema, sizes) = (openapi.field(name), sizes.as_ref().and_then(|sizes| sizes.element()));
            schema.is_object().then(|| inside(name, schema, loses, sizes)).flatten().map(Box::new)
        };
        let additional = element("additionalProperties", false);
        let items = element("items", !keyed);
        let (ty, own) = self.own(openapi, root, place, sizes.as_deref());
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
        })
    }

    /// The type of the values and the rules about them.
    fn own(&mut self, openapi: &Value, root: bool, place: &Place, sizes: Option<&Sizes>) -> (Type, Vec<Rule>) {
        let given = openapi.items("x-kubernetes-validations");
        if given.is_empty() || self.findings.as_ref().is_some_and(|findings| findings.is_broken(&place.at)) {
            return (Type::Dyn, Vec::new());
        }
        let at = format!("{}.x-kubernetes-validations", place.at);
        let Some(ty) = of_schema(openapi, root, "object") else {
            if let Some(findings) = &mut self.findings {
                let why = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to \
                           convert structural schema to CEL declarations";
                findings.errors.push(FieldError::internal(&Path::root(&at), why));
            }
            return (Type::Dyn, Vec::new());
        };
        let compile = |(index, given): (usize, &Value)| {
            let compiled = compile(given, &ty);
            if let Some(findings) = &mut self.findings {
                findings.judge(given, &compiled, &format!("{at}[{index}]"), place, sizes);
            }
            compiled.rule
        };
        let own = given.iter().enumerate().map(compile).collect();
        (ty, own)
    }
}

/// A rule and what it was compiled in.
struct Compiled {
    rule: Rule,
    env: Env,
    /// Why the `messageExpression` does not compile.
    message_error: Option<String>,
}

fn compile(given: &Value, ty: &Type) -> Compiled {
    let optional_old = given.flag("optionalOldSelf");
    let old = if optional_old { Type::optional(ty.clone()) } else { ty.clone() };
    let env = Env::new().variable("self", ty.clone()).variable("oldSelf", old);
    let compiled = |source: &str, wanted: &Type, of: &str, otherwise: &str| match env.compile(source) {
        Ok(program) if program.output() == wanted => Ok(program),
        Ok(_) => Err(otherwise.to_owned()),
        Err(error) => Err(format!("{of}compilation failed: {error}")),
    };
    let source = given.text("rule");
    let program = compiled(source, &Type::Bool, "", "cel expression must evaluate to a bool");
    let message = match given.text("messageExpression") {
        "" => None,
        source if program.is_ok() => {
            let otherwise = "messageExpression must evaluate to a string";
            Some(compiled(source, &Type::String, "messageExpression ", otherwise))
        }
        _ => None,
    };
    let (message, message_error) = match message {
        Some(Ok(program)) => (Some(program), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let (name, text) = match given.text("message") {
        "" => (source.trim().to_owned(), format!("failed rule: {}", source.trim())),
        message => (message.trim().to_owned(), message.trim().to_owned()),
    };
    let rule = Rule {
        transition: program.as_ref().is_ok_and(|program| program.uses("oldSelf")),
        program,
        optional_old,
        name,
        text,
        message,
        reason: given.text("reason").to_owned(),
        field: given.text("fieldPath").trim_start_matches('.').to_owned(),
    };
    Compiled { rule, env, message_error }
}

impl Findings<'_> {
    /// Judges the rule at `at`, which belongs to the schema at `place`.
    fn judge(&mut self, given: &Value, compiled: &Compiled, at: &str, place: &Place, sizes: Option<&Sizes>) {
        let Compiled { rule, env, message_error } = compiled;
        let cost = |program: &Program| env.estimate(program, sizes).max;
        let (rule_at, message_at) = (format!("{at}.rule"), format!("{at}.messageExpression"));
        let times = place.cardinality.or_else(|| sizes.map(Sizes::max_cardinality)).unwrap_or(u64::MAX);
        let rule_cost = rule.program.as_ref().map_or(0, |program| cost(program).saturating_mul(times));
        self.costs.add("estimated rule cost", rule_cost, &rule_at, &mut self.errors);
        if let Err(why) = &rule.program {
            self.errors.push(FieldError::invalid(&Path::root(&rule_at), shown(given), why));
        }
        if let Some(why) = message_error {
            self.errors.push(FieldError::invalid(&Path::root(&message_at), shown(given), why));
        } else if let Some(program) = &rule.message {
            self.costs.add("estimated messageExpression cost", cost(program), &message_at, &mut self.errors);
        }
        if !rule.transition {
            if given.has("optionalOldSelf") {
                let at = format!("{at}.optionalOldSelf");
                let why = "may not be set if oldSelf is not used in rule";
                self.errors.push(FieldError::invalid(&Path::root(&at), given.field("optionalOldSelf"), why));
            }
        } else if let Some(lost) = &place.lost {
            let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}");
            self.errors.push(FieldError::invalid(&Path::root(&rule_at), given.text("rule"), why));
        }
    }
}

/// What an error shows of a rule: all of it, with the field names of upstream's internal type.
fn shown(rule: &Value) -> BadValue {
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
