//! Policies and bindings, compiled. Start at [`Policy`].
// upstream: validating/plugin.go compilePolicy, mutating/compilation.go
use crate::admission::matching::Matching;
use crate::admission::matching::conditions::{Conditions, Expression, environment};
use crate::value::Read;
use pintle_api::meta::ObjectExt;
use pintle_cel::{Activation, Budget, Env, Error, Field, Fields, ObjectType, Type, Value as Cel};
use serde_json::Value;
use std::sync::Arc;

/// A policy.
#[derive(Debug)]
pub(crate) struct Policy {
    pub name: String,
    /// What it was made of.
    spec: Value,
    pub matching: Matching,
    /// `apiVersion` and `kind` of its parameters.
    pub params: Option<(String, String)>,
    /// Whether writes go on when it cannot be evaluated.
    pub fails_open: bool,
    pub conditions: Conditions,
    variables: Vec<(String, Expression)>,
    pub validations: Vec<Validation>,
    pub audit_annotations: Vec<(String, Expression)>,
    pub mutations: Vec<Mutation>,
    pub reinvocable: bool,
}

/// What must hold.
#[derive(Debug)]
pub(crate) struct Validation {
    pub expression: Expression,
    pub message: String,
    pub message_expression: Option<Expression>,
    pub reason: String,
}

/// A change.
#[derive(Debug)]
pub(crate) enum Mutation {
    /// Merged as an applied configuration.
    Apply(Expression),
    /// A list of JSON patch operations.
    Patch(Expression),
}

/// A binding.
#[derive(Debug)]
pub(crate) struct Binding {
    pub name: String,
    pub policy: String,
    /// `spec.paramRef`, null if there is none.
    pub params: Value,
    pub matching: Option<Matching>,
    pub actions: Vec<String>,
}

/// An object of which nothing is known: any field may be there.
#[derive(Debug)]
struct Anything;

impl Fields for Anything {
    fn field(&self, name: &str) -> Option<Field> {
        Some(Field { json: name.to_owned(), ty: Type::Dyn })
    }
}

/// The type of applied configurations.
pub(crate) fn object_type() -> Type {
    Type::Object(Arc::new(ObjectType { name: "Object".to_owned(), fields: Arc::new(Anything) }))
}

/// The type of lists of JSON patch operations.
pub(crate) fn patch_type() -> Type {
    let fields = [("op", Type::String), ("path", Type::String), ("from", Type::String), ("value", Type::Dyn)];
    Type::object("JSONPatch", fields)
}

/// Adds the object that the variables of a policy are fields of; each is declared on its own.
pub(crate) fn with_variables(env: Env) -> Env {
    env.variable("variables", Type::object("kubernetes.variables", []))
}

/// What expressions of a mutation may construct.
pub(crate) fn with_patch_types(env: Env) -> Env {
    env.constructible(object_type()).constructible(patch_type()).patching()
}

/// The environments of a policy: with its variables, and the same without the authorizer, for messages.
pub(crate) struct Environments {
    pub conditions: Env,
    pub full: Env,
    pub messages: Env,
}

impl Environments {
    /// Compiles the variables of a policy's spec and declares them; `each` sees what came of them.
    pub(crate) fn of(spec: &Value, mut each: impl FnMut(&Value, Expression)) -> Self {
        let params = spec.has("paramKind");
        let (mut full, mut messages) = (environment(params, true), environment(params, false));
        let conditions = full.clone();
        if !spec.items("variables").is_empty() {
            (full, messages) = (with_variables(full), with_variables(messages));
        }
        for variable in spec.items("variables") {
            let expression = Expression::compile(&full, variable.text("expression"), &[]);
            let output = expression.program.as_ref().map_or(Type::Dyn, |program| program.output().of_variable());
            let name = format!("variables.{}", variable.text("name"));
            full = full.variable(name.clone(), output.clone());
            messages = messages.variable(name, output);
            each(variable, expression);
        }
        Environments { conditions, full, messages }
    }
}

impl Policy {
    pub(crate) fn of(object: &Value) -> Self {
        let spec = object.field("spec");
        let mut variables = Vec::new();
        let envs = Environments::of(spec, |variable, expression| {
            variables.push((format!("variables.{}", variable.text("name")), expression));
        });
        let validation = |validation: &Value| {
            let message = validation.text("messageExpression");
            Validation {
                expression: Expression::compile(&envs.full, validation.text("expression"), &[Type::Bool]),
                message: validation.text("message").to_owned(),
                message_expression: (!message.is_empty())
                    .then(|| Expression::compile(&envs.messages, message, &[Type::String])),
                reason: validation.text("reason").to_owned(),
            }
        };
        let annotation = |annotation: &Value| {
            let wanted = [Type::String, Type::Null];
            let expression = Expression::compile(&envs.full, annotation.text("valueExpression"), &wanted);
            (annotation.text("key").to_owned(), expression)
        };
        let patching = with_patch_types(envs.full.clone());
        let mutation = |mutation: &Value| {
            let text = |field: &str| mutation.field(field).text("expression").trim().to_owned();
            match mutation.text("patchType") {
                "JSONPatch" => {
                    let wanted = [Type::list(patch_type())];
                    Mutation::Patch(Expression::compile(&patching, &text("jsonPatch"), &wanted))
                }
                _ => Mutation::Apply(Expression::compile(&patching, &text("applyConfiguration"), &[object_type()])),
            }
        };
        let param_kind = spec.field("paramKind");
        Policy {
            name: object.name().to_owned(),
            matching: Matching::of(spec.field("matchConstraints"), "resourceRules"),
            params: spec
                .has("paramKind")
                .then(|| (param_kind.text("apiVersion").to_owned(), param_kind.text("kind").to_owned())),
            fails_open: spec.text("failurePolicy") == "Ignore",
            conditions: Conditions::of(spec, &envs.conditions),
            validations: spec.items("validations").iter().map(validation).collect(),
            audit_annotations: spec.items("auditAnnotations").iter().map(annotation).collect(),
            mutations: spec.items("mutations").iter().map(mutation).collect(),
            reinvocable: spec.text("reinvocationPolicy") == "IfNeeded",
            spec: spec.clone(),
            variables,
        }
    }

    /// Whether this was made of `object`.
    pub(crate) fn is_of(&self, object: &Value) -> bool {
        self.spec == *object.field("spec")
    }

    /// Evaluates an expression of this policy, and the variables that it uses the first time they are used.
    pub(crate) fn eval<'v>(
        &self,
        expression: &Expression,
        activation: &mut Activation<'v>,
        budget: &mut Budget,
    ) -> Result<Cel<'v>, String> {
        if let Ok(program) = &expression.program {
            for name in program.variables() {
                self.bind(name, activation, budget);
            }
        }
        expression.eval(activation, budget)
    }

    fn bind(&self, name: &str, activation: &mut Activation<'_>, budget: &mut Budget) {
        if activation.is_bound(name) {
            return;
        }
        let Some((_, expression)) = self.variables.iter().find(|(held, _)| held == name) else { return };
        let outcome = match &expression.program {
            Err(why) => Err(Error::Failed(format!("composited variable {name:?} fails to compile: {why}"))),
            Ok(program) => {
                // A variable uses only those before it.
                for other in program.variables() {
                    self.bind(other, activation, budget);
                }
                program.eval(activation, budget).map_err(|error| match error {
                    Error::Failed(why) => {
                        let short = name.trim_start_matches("variables.");
                        Error::Failed(format!("composited variable {short:?} fails to evaluate: {why}"))
                    }
                    limit => limit,
                })
            }
        };
        activation.bind_outcome(name, outcome);
    }
}

impl Binding {
    pub(crate) fn of(object: &Value) -> Self {
        let spec = object.field("spec");
        Binding {
            name: object.name().to_owned(),
            policy: spec.text("policyName").to_owned(),
            params: spec.field("paramRef").clone(),
            matching: spec.has("matchResources").then(|| Matching::of(spec.field("matchResources"), "resourceRules")),
            actions: spec.texts("validationActions").map(str::to_owned).collect(),
        }
    }
}
