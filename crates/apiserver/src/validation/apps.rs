//! Workloads: Deployments, ReplicaSets, StatefulSets, DaemonSets, ReplicationControllers, ControllerRevisions.
use super::common::{internal, is_empty_selector, label_selector, selector_json};
use super::field::{Errors, Field};
use super::{claim, pod};
use crate::value::{Read, same};
use pintle_api::{
    field::{BadValue, FieldError},
    int_or_string::IntOrString,
    names,
    selector::LabelSelector,
};
use serde_json::{Value, json};

/// A new Deployment.
pub(crate) fn deployment(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    spec.child("replicas").nonnegative(&mut errors);
    selector_and_template(&spec, "deployment", "ReplicaSet", &mut errors);
    deployment_strategy(&spec.child("strategy"), &mut errors);
    for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        spec.child(field).nonnegative(&mut errors);
    }
    let deadline = spec.child("progressDeadlineSeconds");
    if deadline.is_set() && deadline.int() <= spec.value.int("minReadySeconds") {
        errors.push(deadline.invalid("must be greater than minReadySeconds"));
    }
    errors
}

/// A changed Deployment.
pub(crate) fn deployment_update(new: &Value, old: &Value) -> Errors {
    with_immutable_selector(deployment(new), new, old)
}

/// A changed status of a Deployment.
pub(crate) fn deployment_status(new: &Value, old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    let counts = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    counts_of_replicas(&status, &counts, &["updatedReplicas", "readyReplicas", "availableReplicas"], &mut errors);
    not_more_available_than_ready(&status, "readyReplicas", &mut errors);
    not_decremented(&status, old, &mut errors);
    errors
}

/// A new ReplicaSet.
pub(crate) fn replica_set(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    spec.child("replicas").nonnegative(&mut errors);
    spec.child("minReadySeconds").nonnegative(&mut errors);
    // upstream: the message does say deployment
    selector_and_template(&spec, "deployment", "ReplicaSet", &mut errors);
    errors
}

/// A changed ReplicaSet.
pub(crate) fn replica_set_update(new: &Value, old: &Value) -> Errors {
    with_immutable_selector(replica_set(new), new, old)
}

/// A changed status of a ReplicaSet or ReplicationController.
pub(crate) fn replica_set_status(new: &Value, _old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    let counts = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ];
    counts_of_replicas(&status, &counts, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], &mut errors);
    not_more_available_than_ready(&status, "readyReplicas", &mut errors);
    errors
}

/// A new ReplicationController.
pub(crate) fn replication_controller(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    spec.child("minReadySeconds").nonnegative(&mut errors);
    let selector = spec.child("selector");
    selector.required("", &mut errors);
    spec.child("replicas").nonnegative(&mut errors);
    let template = spec.child("template");
    if template.is_set() {
        let labels = template.value.field("metadata").field("labels");
        if selector.entries().any(|(key, value)| labels.field(key) != value.value) {
            mismatch(&template, &mut errors);
        }
        pod::template(&template, &mut errors);
        runs_always(&template, "ReplicationController", &mut errors);
    } else {
        errors.push(template.missing(""));
    }
    errors
}

/// A changed ReplicationController.
pub(crate) fn replication_controller_update(new: &Value, _old: &Value) -> Errors {
    replication_controller(new)
}

/// A new DaemonSet.
pub(crate) fn daemon_set(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let (selector, template) = (spec.child("selector"), spec.child("template"));
    label_selector(&selector, &mut errors);
    if !selects(&selector, &template) {
        mismatch(&template, &mut errors);
    }
    if selector.is_set() && is_empty_selector(selector.value) {
        errors.push(selector.invalid("empty selector is invalid for daemonset"));
    }
    pod::template(&template, &mut errors);
    runs_always(&template, "DaemonSet", &mut errors);
    spec.child("minReadySeconds").nonnegative(&mut errors);
    daemon_set_strategy(&spec.child("updateStrategy"), &mut errors);
    spec.child("revisionHistoryLimit").nonnegative(&mut errors);
    errors
}

/// A changed DaemonSet.
pub(crate) fn daemon_set_update(new: &Value, old: &Value) -> Errors {
    let spec = Field::root(new, "spec");
    let mut errors = Errors::new();
    spec.child("selector").immutable(old.field("spec").field("selector"), &mut errors);
    errors.extend(daemon_set(new));
    errors
}

/// A changed status of a DaemonSet.
pub(crate) fn daemon_set_status(new: &Value, old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    for count in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ] {
        status.child(count).nonnegative(&mut errors);
    }
    not_decremented(&status, old, &mut errors);
    errors
}

/// A new StatefulSet.
pub(crate) fn stateful_set(object: &Value) -> Errors {
    let mut errors = stateful_set_spec(object);
    let spec = Field::root(object, "spec");
    let templates = spec.child("volumeClaimTemplates");
    for template in templates.items() {
        claim::spec(&template.child("spec"), &mut errors);
    }
    let service = spec.child("serviceName");
    if !service.is_zero() {
        service.checked(names::dns1123_label, &mut errors);
    }
    errors
}

fn stateful_set_spec(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let management = spec.child("podManagementPolicy");
    match management.text() {
        "" => errors.push(management.missing("")),
        "OrderedReady" | "Parallel" => {}
        _ => errors.push(management.invalid("must be 'OrderedReady' or 'Parallel'")),
    }
    stateful_set_strategy(&spec.child("updateStrategy"), &mut errors);
    let retention = spec.child("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        if retention.is_set() {
            retention.child(field).one_of(&["Retain", "Delete"], &mut errors);
        }
    }
    spec.child("replicas").nonnegative(&mut errors);
    spec.child("minReadySeconds").nonnegative(&mut errors);
    let ordinals = spec.child("ordinals");
    ordinals.child("start").nonnegative(&mut errors);
    let (selector, template) = (spec.child("selector"), spec.child("template"));
    selector_rules(&selector, "statefulset", &mut errors);
    if LabelSelector::from_value(selector.value).is_err() {
        errors.push(FieldError::invalid(&selector.path, selector_json(selector.value), ""));
    } else {
        if !selects(&selector, &template) {
            mismatch(&template, &mut errors);
        }
        let judged = without_identity(template.value, spec.value);
        pod::template(&Field { path: template.path, value: &judged }, &mut errors);
        // upstream: labels and annotations are judged twice
        pod::template_metadata(&template, &mut errors);
    }
    runs_always(&template, "StatefulSet", &mut errors);
    errors
}

/// The template without what a StatefulSet gives each pod (names), and with the volumes it adds.
fn without_identity(template: &Value, spec: &Value) -> Value {
    let mut template = template.clone();
    let claims = spec.items("volumeClaimTemplates").iter().map(|t| t.field("metadata").text("name"));
    let mut volumes: Vec<Value> =
        claims.map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})).collect();
    let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) else { return template };
    pod.remove("subdomain");
    pod.remove("hostname");
    if !volumes.is_empty() {
        let own: Vec<Value> = pod.items("volumes").to_vec();
        let replaced: Vec<String> = volumes.iter().map(|v| v.text("name").to_owned()).collect();
        volumes.extend(own.into_iter().filter(|v| !replaced.iter().any(|name| name == v.text("name"))));
        pod.insert("volumes".into(), volumes.into());
    }
    template
}

/// A changed StatefulSet.
pub(crate) fn stateful_set_update(new: &Value, old: &Value) -> Errors {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
    ];
    let mut errors = stateful_set_spec(new);
    let rest = |spec: &Value| {
        let fields = spec.as_object().into_iter().flatten().filter(|(key, _)| !MUTABLE.contains(&key.as_str()));
        Value::Object(fields.map(|(k, v)| (k.clone(), v.clone())).collect())
    };
    if !same(&rest(new.field("spec")), &rest(old.field("spec"))) {
        errors.push(Field::root(new, "spec").forbidden(
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ));
    }
    errors
}

/// A changed status of a StatefulSet.
pub(crate) fn stateful_set_status(new: &Value, old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    let counts = [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    let bounded = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    counts_of_replicas(&status, &counts, &bounded, &mut errors);
    not_more_available_than_ready(&status, "status.readyReplicas", &mut errors);
    not_decremented(&status, old, &mut errors);
    errors
}

/// A new ControllerRevision.
pub(crate) fn controller_revision(object: &Value) -> Errors {
    let (mut errors, data) = (Errors::new(), Field::root(object, "data"));
    Field::root(object, "revision").nonnegative(&mut errors);
    if !data.is_set() {
        errors.push(data.missing("data is mandatory"));
    } else if !data.value.is_object() {
        errors.push(data.missing("data must be a valid JSON object"));
    }
    errors
}

/// A changed ControllerRevision.
pub(crate) fn controller_revision_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::new();
    Field::root(new, "revision").nonnegative(&mut errors);
    Field::root(new, "data").immutable(old.field("data"), &mut errors);
    errors
}

fn selector_rules(selector: &Field<'_>, kind: &str, errors: &mut Errors) {
    if selector.is_set() {
        label_selector(selector, errors);
        if is_empty_selector(selector.value) {
            let text = format!("empty selector is invalid for {kind}");
            errors.push(FieldError::invalid(&selector.path, selector_json(selector.value), text));
        }
    } else {
        errors.push(selector.missing(""));
    }
}

fn selector_and_template(spec: &Field<'_>, kind: &str, template_of: &str, errors: &mut Errors) {
    let (selector, template) = (spec.child("selector"), spec.child("template"));
    selector_rules(&selector, kind, errors);
    if LabelSelector::from_value(selector.value).is_err() {
        errors.push(FieldError::invalid(&selector.path, selector_json(selector.value), "invalid label selector"));
        return;
    }
    if !selects(&selector, &template) {
        mismatch(&template, errors);
    }
    pod::template(&template, errors);
    runs_always(&template, template_of, errors);
}

/// Whether `selector` selects the pods of `template`; selectors in disorder are judged elsewhere.
pub(super) fn selects(selector: &Field<'_>, template: &Field<'_>) -> bool {
    let labels = template.value.field("metadata").field("labels").as_object();
    // No selector selects nothing, an empty one everything.
    selector.is_set() && LabelSelector::from_value(selector.value).map_or(true, |s| s.matches(labels))
}

/// The labels of `template` do not match.
pub(super) fn mismatch(template: &Field<'_>, errors: &mut Errors) {
    let metadata = template.child("metadata");
    errors.push(metadata.child("labels").invalid("`selector` does not match template `labels`"));
}

fn runs_always(template: &Field<'_>, kind: &str, errors: &mut Errors) {
    let spec = template.child("spec");
    spec.child("restartPolicy").one_of(&["Always"], errors);
    let deadline = spec.child("activeDeadlineSeconds");
    if deadline.is_set() {
        errors.push(deadline.forbidden(format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}

fn with_immutable_selector(mut errors: Errors, new: &Value, old: &Value) -> Errors {
    Field::root(new, "spec").child("selector").immutable(old.field("spec").field("selector"), &mut errors);
    errors
}

fn counts_of_replicas(status: &Field<'_>, counts: &[&str], bounded: &[&str], errors: &mut Errors) {
    counts.iter().for_each(|count| status.child(count).nonnegative(errors));
    let replicas = status.value.int("replicas");
    for count in bounded.iter().map(|count| status.child(count)).filter(|c| c.int() > replicas) {
        errors.push(FieldError::invalid(&count.path, count.int(), "cannot be greater than status.replicas"));
    }
}

fn not_more_available_than_ready(status: &Field<'_>, ready: &str, errors: &mut Errors) {
    let available = status.child("availableReplicas");
    if available.int() > status.value.int("readyReplicas") {
        errors.push(available.invalid(format!("cannot be greater than {ready}")));
    }
}

fn not_decremented(status: &Field<'_>, old: &Value, errors: &mut Errors) {
    let count = status.child("collisionCount");
    if count.int() < old.field("status").int("collisionCount") {
        errors.push(FieldError::invalid(&count.path, count.int(), "cannot be decremented"));
    }
}

/// A number or a percentage, not negative.
pub(super) fn number_or_percent(value: &Field<'_>, errors: &mut Errors) {
    match IntOrString::from_value(value.value) {
        Some(IntOrString::String(text)) => {
            errors.extend(names::percent(text).into_iter().map(|e| value.invalid(e)));
        }
        _ => value.nonnegative(errors),
    }
}

/// A percentage is not more than all.
pub(super) fn at_most_all(value: &Field<'_>, errors: &mut Errors) {
    if value.value.is_string() && amount(value) > 100 && names::percent(value.text()).is_empty() {
        errors.push(value.invalid("must not be greater than 100%"));
    }
}

fn amount(value: &Field<'_>) -> i64 {
    match value.value.as_str() {
        Some(text) => text.trim_end_matches('%').parse().unwrap_or(0),
        None => value.int(),
    }
}

/// As upstream prints a strategy of the kind `kind`.
fn strategy_as_go(kind: &str, strategy: &Field<'_>) -> BadValue {
    internal(&format!("api.apps.v1.{kind}"), strategy.value)
}

fn deployment_strategy(strategy: &Field<'_>, errors: &mut Errors) {
    let rolling = strategy.child("rollingUpdate");
    match strategy.value.text("type") {
        "Recreate" if rolling.is_set() => {
            errors.push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"));
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.child("maxUnavailable"), rolling.child("maxSurge"));
            number_or_percent(&unavailable, errors);
            number_or_percent(&surge, errors);
            if amount(&unavailable) == 0 && amount(&surge) == 0 {
                errors.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
            }
            at_most_all(&unavailable, errors);
        }
        _ => {
            let known = ["Recreate", "RollingUpdate"];
            errors.push(FieldError::not_supported(
                &strategy.path,
                strategy_as_go("DeploymentStrategy", strategy),
                &known,
            ));
        }
    }
}

fn daemon_set_strategy(strategy: &Field<'_>, errors: &mut Errors) {
    let rolling = strategy.child("rollingUpdate");
    match strategy.value.text("type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.child("maxUnavailable"), rolling.child("maxSurge"));
            number_or_percent(&unavailable, errors);
            number_or_percent(&surge, errors);
            at_most_all(&unavailable, errors);
            at_most_all(&surge, errors);
            match (amount(&unavailable) != 0, amount(&surge) != 0) {
                (true, true) => errors.push(surge.invalid("may not be set when maxUnavailable is non-zero")),
                (false, false) => errors.push(unavailable.missing("cannot be 0 when maxSurge is 0")),
                _ => {}
            }
        }
        _ => {
            let known = ["RollingUpdate", "OnDelete"];
            errors.push(FieldError::not_supported(
                &strategy.path,
                strategy_as_go("DaemonSetUpdateStrategy", strategy),
                &known,
            ));
        }
    }
}

fn stateful_set_strategy(strategy: &Field<'_>, errors: &mut Errors) {
    let rolling = strategy.child("rollingUpdate");
    match strategy.value.text("type") {
        "" => errors.push(strategy.missing("")),
        "OnDelete" if rolling.is_set() => {
            errors.push(rolling.invalid("only allowed for updateStrategy 'RollingUpdate'"));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.child("partition").nonnegative(errors);
            let unavailable = rolling.child("maxUnavailable");
            if unavailable.is_set() {
                number_or_percent(&unavailable, errors);
                if amount(&unavailable) == 0 {
                    errors.push(unavailable.invalid("cannot be 0"));
                }
                at_most_all(&unavailable, errors);
            }
        }
        _ => {
            let text = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid(
                &strategy.path,
                strategy_as_go("StatefulSetUpdateStrategy", strategy),
                text,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> Value {
        let mut object = json!({
            "metadata": {"name": "d"},
            "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            },
        });
        crate::defaults::apps::deployment(object.as_object_mut().unwrap());
        object
    }

    fn texts(errors: &Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plain_deployment_is_in_order() {
        assert_eq!(texts(&deployment(&valid())), Vec::<String>::new());
    }

    #[test]
    fn a_selector_must_select_its_template() {
        let mut object = valid();
        object["spec"]["template"]["metadata"]["labels"] = json!({"a": "c"});
        assert_eq!(
            texts(&deployment(&object)),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
            ]
        );
    }

    #[test]
    fn a_selector_stays_as_it_is() {
        let mut object = valid();
        object["spec"]["selector"] = json!({"matchLabels": {"c": "d"}});
        object["spec"]["template"]["metadata"]["labels"] = json!({"c": "d"});
        assert_eq!(
            texts(&deployment_update(&object, &valid())),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"c\":\"d\"}}: field is immutable"]
        );
    }

    #[test]
    fn an_empty_deployment_is_told_all_that_is_missing() {
        let mut object = json!({"metadata": {"name": "d"}, "spec": {"template": {}}});
        crate::defaults::apps::deployment(object.as_object_mut().unwrap());
        assert_eq!(
            texts(&deployment(&object)),
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
                "spec.template.spec.containers: Required value",
            ]
        );
    }

    #[test]
    fn nothing_can_roll_without_room() {
        let mut object = valid();
        object["spec"]["strategy"]["rollingUpdate"] = json!({"maxUnavailable": 0, "maxSurge": "0%"});
        assert_eq!(
            texts(&deployment(&object)),
            ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"]
        );
    }
}
