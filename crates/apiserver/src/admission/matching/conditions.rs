//! CEL in admission: the variables, and conditions that must hold. Start at [`environment`] and [`Subject`].
// upstream: apiserver pkg/admission/plugin/cel, pkg/admission/plugin/webhook/matchconditions
use super::Event;
use crate::authz::{Attributes as Question, Decision as Answer};
use crate::value::Read;
use pintle_api::scheme::Resource;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use pintle_cel::authorizer::{Authorizer, Check, Decision};
use pintle_cel::{Activation, Budget, Env, Program, Type, Value as Cel};
use serde_json::{Value, json};

/// What match conditions may cost together. upstream: RuntimeCELCostBudgetMatchConditions
const CONDITIONS_BUDGET: u64 = 2_500_000;

/// The variables of admission's expressions.
pub(crate) fn environment(params: bool, authorizer: bool) -> Env {
    let strings = || Type::list(Type::String);
    let gvk = || Type::object("kubernetes.GroupVersionKind", three("kind"));
    let gvr = || Type::object("kubernetes.GroupVersionResource", three("resource"));
    let user = Type::object(
        "kubernetes.UserInfo",
        [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", strings()),
            ("extra", Type::map(Type::String, strings())),
        ],
    );
    let request = Type::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", gvk()),
            ("resource", gvr()),
            ("subResource", Type::String),
            ("requestKind", gvk()),
            ("requestResource", gvr()),
            ("requestSubResource", Type::String),
            ("name", Type::String),
            ("namespace", Type::String),
            ("operation", Type::String),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    );
    let env = Env::new()
        .variable("object", Type::Dyn)
        .variable("oldObject", Type::Dyn)
        .variable("request", request)
        .variable("namespaceObject", namespace_type());
    let env = if params { env.variable("params", Type::Dyn) } else { env };
    if !authorizer {
        return env;
    }
    env.variable("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"))
        .variable("authorizer.requestResource", Type::Opaque("kubernetes.authorization.ResourceCheck"))
}

fn three(last: &str) -> [(&str, Type); 3] {
    [("group", Type::String), ("version", Type::String), (last, Type::String)]
}

fn namespace_type() -> Type {
    let strings = || Type::list(Type::String);
    let texts = || Type::map(Type::String, Type::String);
    let metadata = Type::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", texts()),
            ("annotations", texts()),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", strings()),
        ],
    );
    let condition = Type::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", Type::String),
            ("type", Type::String),
            ("lastTransitionTime", Type::Timestamp),
            ("message", Type::String),
            ("reason", Type::String),
        ],
    );
    Type::object(
        "kubernetes.Namespace",
        [
            ("metadata", metadata),
            ("spec", Type::object("kubernetes.NamespaceSpec", [("finalizers", strings())])),
            (
                "status",
                Type::object(
                    "kubernetes.NamespaceStatus",
                    [("conditions", Type::list(condition)), ("phase", Type::String)],
                ),
            ),
        ],
    )
}

/// The request as webhooks and expressions see it, without the objects.
// upstream: CreateAdmissionRequest
pub(crate) fn request(event: &Event<'_>, resource: &Resource) -> Value {
    let (attributes, own) = (event.attributes, event.attributes.resource);
    let kind_of = |resource: &Resource| {
        let (group, version, kind) = kind(resource, attributes.subresource, attributes.operation.as_str());
        json!({"group": group, "version": version, "kind": kind})
    };
    let resource_of = |resource: &Resource| json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
    let mut request = json!({
        "kind": kind_of(resource),
        "resource": resource_of(resource),
        "requestKind": kind_of(own),
        "requestResource": resource_of(own),
        "operation": attributes.operation.as_str(),
        "userInfo": user(&attributes.cx.user),
        "dryRun": attributes.dry_run,
        "options": attributes.options,
    });
    for (key, value) in [
        ("subResource", attributes.subresource),
        ("requestSubResource", attributes.subresource),
        ("name", event.name),
        ("namespace", event.namespace),
    ] {
        if !value.is_empty() {
            request[key] = value.into();
        }
    }
    request
}

/// The kind of the object that a request carries: subresources may have another than their resource.
fn kind<'r>(resource: &'r Resource, subresource: &str, operation: &str) -> (&'r str, &'r str, String) {
    let own = || (resource.group.as_str(), resource.version.as_str(), resource.kind.clone());
    if operation == "CONNECT" {
        let name = match (resource.kind.as_str(), subresource) {
            (kind, "proxy") => format!("{kind}ProxyOptions"),
            ("Pod", "exec") => "PodExecOptions".to_owned(),
            ("Pod", "attach") => "PodAttachOptions".to_owned(),
            ("Pod", "portforward") => "PodPortForwardOptions".to_owned(),
            _ => return own(),
        };
        return ("", "v1", name);
    }
    match subresource {
        "scale" => ("autoscaling", "v1", "Scale".to_owned()),
        "binding" => ("", "v1", "Binding".to_owned()),
        "eviction" => ("policy", "v1", "Eviction".to_owned()),
        "token" => ("authentication.k8s.io", "v1", "TokenRequest".to_owned()),
        _ => own(),
    }
}

fn user(user: &UserInfo) -> Value {
    let mut info = json!({});
    for (key, value) in [("username", &user.name), ("uid", &user.uid)] {
        if !value.is_empty() {
            info[key] = value.as_str().into();
        }
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Asks the cluster's authorizer on behalf of the request's user.
pub(crate) struct Asker<'a> {
    event: &'a Event<'a>,
}

impl Authorizer for Asker<'_> {
    fn authorize(&self, check: &Check) -> Decision {
        let user = match &check.service_account {
            Some((namespace, name)) => UserInfo::service_account(namespace, name),
            None => self.event.attributes.cx.user.clone(),
        };
        let question = Question {
            user,
            verb: check.verb.clone(),
            namespace: check.namespace.clone(),
            group: check.group.clone(),
            version: "*".to_owned(),
            resource: check.resource.clone(),
            subresource: check.subresource.clone(),
            name: check.name.clone(),
            field_selector: check.field_selector.clone(),
            is_resource_request: check.path.is_empty(),
            path: check.path.clone(),
        };
        let (answer, reason) = self.event.authorizer.decide(&question);
        Decision { allowed: answer == Answer::Allow, reason, error: String::new() }
    }
}

/// All that expressions may ask about, for one write in one version.
pub(crate) struct Subject<'a> {
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
    pub request: Value,
    pub namespace: Option<&'a Value>,
    asker: Asker<'a>,
}

impl<'a> Subject<'a> {
    /// `object` and `old` are in the version of `resource`.
    pub(crate) async fn new(
        event: &'a Event<'a>,
        resource: &Resource,
        object: Option<&'a Value>,
        old: Option<&'a Value>,
    ) -> Result<Self, ApiError> {
        let namespace = event.namespace_object().await?;
        Ok(Subject { object, old, request: request(event, resource), namespace, asker: Asker { event } })
    }

    /// The variables with their values; `params` only where there are any.
    pub(crate) fn activation<'s>(&'s self, params: Option<&'s Value>) -> Activation<'s> {
        let dynamic = |value: Option<&'s Value>| value.map_or(Cel::Null, Cel::dynamic);
        let mut activation = Activation::new();
        activation.bind("object", dynamic(self.object));
        activation.bind("oldObject", dynamic(self.old));
        activation.bind("request", Cel::dynamic(&self.request));
        activation.bind("namespaceObject", self.namespace.map_or(Cel::Null, |ns| Cel::typed(ns, &namespace_type())));
        activation.bind("params", dynamic(params));
        activation.bind("authorizer", Cel::authorizer(&self.asker));
        activation.bind("authorizer.requestResource", Cel::request_resource(&self.asker, self.check()));
        activation
    }

    fn check(&self) -> Check {
        let text = |value: &Value, key: &str| value.text(key).to_owned();
        let resource = self.request.field("requestResource");
        Check {
            group: text(resource, "group"),
            resource: text(resource, "resource"),
            subresource: text(&self.request, "requestSubResource"),
            namespace: text(&self.request, "namespace"),
            name: text(&self.request, "name"),
            ..Check::default()
        }
    }
}

/// A compiled expression with its text.
#[derive(Clone, Debug)]
pub(crate) struct Expression {
    pub text: String,
    /// What went wrong, if it does not compile.
    pub program: Result<Program, String>,
}

impl Expression {
    /// Compiles `text`; the result must be one of `wanted`, where it is known beforehand. None wanted: anything goes.
    // upstream: compiler.CompileCELExpression
    pub(crate) fn compile(env: &Env, text: &str, wanted: &[Type]) -> Self {
        let program = env.compile(text).map_err(|error| format!("compilation failed: {error}")).and_then(|program| {
            let output = program.output();
            if wanted.is_empty() || wanted.contains(output) {
                return Ok(program);
            }
            let (wanted, output) = (wanted.iter().map(Type::full_name).collect::<Vec<_>>(), output.full_name());
            Err(match wanted.as_slice() {
                [one] => format!("must evaluate to {one} but got {output}"),
                several => format!("must evaluate to one of [{}] but got {output}", several.join(" ")),
            })
        });
        Expression { text: text.to_owned(), program }
    }

    /// The value, or why there is none in upstream's words.
    pub(crate) fn eval<'v>(&self, activation: &Activation<'v>, budget: &mut Budget) -> Result<Cel<'v>, String> {
        let program = self.program.as_ref().map_err(|why| format!("compilation error: {why}"))?;
        program.eval(activation, budget).map_err(|error| match error {
            pintle_cel::Error::OutOfBudget => error.to_string(),
            error => format!("expression '{}' resulted in error: {error}", self.text),
        })
    }
}

/// `matchConditions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions(Vec<Expression>);

/// Whether conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Yes,
    No,
    Failed(String),
}

impl Conditions {
    pub(crate) fn of(holder: &Value, env: &Env) -> Self {
        let compile = |condition: &Value| Expression::compile(env, condition.text("expression"), &[Type::Bool]);
        Conditions(holder.items("matchConditions").iter().map(compile).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One that is false decides; else one that fails.
    pub(crate) fn hold(&self, activation: &Activation<'_>) -> Held {
        let mut budget = Budget::new(CONDITIONS_BUDGET);
        let mut failures = Vec::new();
        for condition in &self.0 {
            match condition.eval(activation, &mut budget) {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return Held::No,
                Ok(other) => failures.push(format!("condition evaluated to {}", other.type_name())),
                Err(why) => failures.push(why),
            }
        }
        if failures.is_empty() { Held::Yes } else { Held::Failed(pintle_api::field::aggregate(&failures)) }
    }
}
