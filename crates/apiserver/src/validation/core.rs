//! The plainer kinds of the core group: ConfigMaps, Secrets, Namespaces, Nodes, Endpoints, quotas, limits, events.
use super::common::{cidr, endpoint_ip, go_struct, ip, quantity};
use super::field::{Errors, Field};
use super::resources::{amount, container_resource_name, is_huge_pages, may_be_overcommitted, resource_name};
use super::scheduling::TAINT_EFFECTS;
use crate::value::{Read, same};
use base64::{Engine, engine::general_purpose::STANDARD};
use pintle_api::{
    field::{BadValue, FieldError, Path, go_quote},
    names,
    quantity::Quantity,
};
use serde_json::Value;

/// The most that a ConfigMap or Secret may hold, in bytes.
const MAX_DATA: usize = 1 << 20;

/// A new ConfigMap.
pub(crate) fn config_map(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let (data, binary) = (Field::root(object, "data"), Field::root(object, "binaryData"));
    let mut size = 0;
    for (key, value) in data.entries() {
        data_key(key, &value, &mut errors);
        if binary.value.has(key) {
            errors.push(FieldError::invalid(&value.path, key, "duplicate of key present in binaryData"));
        }
        size += value.text().len();
    }
    for (key, value) in binary.entries() {
        data_key(key, &value, &mut errors);
        size += decoded_size(value.text());
    }
    if size > MAX_DATA {
        errors.push(FieldError::too_long(&Path::root(""), MAX_DATA));
    }
    errors
}

fn data_key(key: &str, at: &Field<'_>, errors: &mut Errors) {
    errors.extend(names::config_map_key(key).into_iter().map(|e| FieldError::invalid(&at.path, key, e)));
}

fn decoded_size(base64: &str) -> usize {
    let padding = base64.bytes().rev().take_while(|b| *b == b'=').count();
    (base64.len() / 4 * 3).saturating_sub(padding)
}

/// A changed ConfigMap.
pub(crate) fn config_map_update(new: &Value, old: &Value) -> Errors {
    let mut errors = frozen(new, old, &["data", "binaryData"]);
    errors.extend(config_map(new));
    errors
}

/// What is `immutable` stays so, with its data.
fn frozen(new: &Value, old: &Value, fields: &[&str]) -> Errors {
    let mut errors = Errors::new();
    if !old.flag("immutable") {
        return errors;
    }
    let text = "field is immutable when `immutable` is set";
    if !new.flag("immutable") {
        errors.push(Field::root(new, "immutable").forbidden(text));
    }
    for field in fields.iter().filter(|f| !same(new.field(f), old.field(f))) {
        errors.push(Field::root(new, field).forbidden(text));
    }
    errors
}

/// A new Secret.
pub(crate) fn secret(object: &Value) -> Errors {
    let (mut errors, data) = (Errors::new(), Field::root(object, "data"));
    let mut size = 0;
    for (key, value) in data.entries() {
        data_key(key, &value, &mut errors);
        size += decoded_size(value.text());
    }
    if size > MAX_DATA {
        errors.push(FieldError::too_long(&data.path, MAX_DATA));
    }
    let mut need = |key: &str| {
        let missing = !data.value.has(key);
        if missing {
            errors.push(FieldError::required(&data.path.key(key), ""));
        }
        missing
    };
    match object.text("type") {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            if object.field("metadata").field("annotations").is_zero(NAME) {
                let annotations = Path::root("metadata.annotations");
                errors.push(FieldError::required(&annotations.key(NAME), ""));
            }
        }
        kind @ ("kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson") => {
            let key = if kind.ends_with("json") { ".dockerconfigjson" } else { ".dockercfg" };
            if !need(key) {
                let bytes = STANDARD.decode(data.value.text(key)).unwrap_or_default();
                if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
                    let text = pintle_api::decode::go_json_error(&bytes, &error);
                    let redacted = "<secret contents redacted>";
                    errors.push(FieldError::invalid(&data.path.key(key), redacted, text));
                }
            }
        }
        "kubernetes.io/basic-auth" if !data.value.has("username") && !data.value.has("password") => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" if data.value.is_zero("ssh-privatekey") => {
            errors.push(FieldError::required(&data.path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
    errors
}

/// A changed Secret.
pub(crate) fn secret_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::new();
    Field::root(new, "type").immutable(old.field("type"), &mut errors);
    errors.extend(frozen(new, old, &["data"]));
    errors.extend(secret(new));
    errors
}

/// A new Namespace.
pub(crate) fn namespace(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    let list = spec.child("finalizers");
    for name in spec.value.texts("finalizers") {
        finalizer(name, &list.path, &mut errors);
    }
    errors
}

/// The name of a finalizer.
pub(crate) fn finalizer(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let wrong = names::qualified_name(name);
    if wrong.is_empty() && !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
        let text = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(path, name, text));
    }
    errors.extend(wrong.into_iter().map(|e| FieldError::invalid(path, name, e)));
}

/// A changed status of a Namespace.
pub(crate) fn namespace_status(new: &Value, _old: &Value) -> Errors {
    let (phase, deleted) = (new.field("status").text("phase"), new.field("metadata").has("deletionTimestamp"));
    let path = Path::root("status.Phase");
    match (deleted, phase) {
        (false, "Active") | (true, "Terminating") => Errors::new(),
        (false, _) => {
            vec![FieldError::invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty")]
        }
        (true, _) => {
            vec![FieldError::invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")]
        }
    }
}

/// A new Node.
pub(crate) fn node(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    node_taints(&spec, &mut errors);
    node_resources(object, &mut errors);
    let cidrs = spec.child("podCIDRs");
    let parsed: Vec<_> = cidrs.items().filter_map(|c| cidr(&c, &mut errors)).collect();
    if parsed.len() > 2 || matches!(parsed[..], [a, b] if a.addr().is_ipv4() == b.addr().is_ipv4()) {
        errors.push(cidrs.invalid("may specify no more than one CIDR for each IP family"));
    }
    declared_features(&Field::root(object, "status").child("declaredFeatures"), &mut errors);
    errors
}

/// Features that a node says it has: names in order.
// upstream: validateNodeDeclaredFeatures
fn declared_features(list: &Field<'_>, errors: &mut Errors) {
    let segment = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric())
    };
    let mut before: Option<String> = None;
    for feature in list.items() {
        let name = feature.value.as_str().unwrap_or_default();
        let quoted = go_quote(name);
        if name.len() > 253 {
            let why = format!("invalid feature name {quoted}: must be no more than 253 characters");
            errors.push(feature.invalid(why));
        } else if !(name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(segment)) {
            errors.push(feature.invalid(format!(
                "invalid feature name {quoted}: must start with an UpperCamelCase segment, with subsequent segments \
                 separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and \
                 slashes"
            )));
        }
        match &before {
            Some(before) if before == name => errors.push(FieldError::duplicate(&feature.path, name)),
            Some(before) if before.as_str() > name => {
                errors.push(feature.invalid("list must be sorted alphabetically"));
            }
            _ => {}
        }
        before = Some(name.to_owned());
    }
}

/// A changed Node, or status of one.
pub(crate) fn node_update(new: &Value, old: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(new, "spec"));
    node_resources(new, &mut errors);
    let status = Field::root(new, "status");
    declared_features(&status.child("declaredFeatures"), &mut errors);
    let addresses = status.child("addresses");
    let mut seen: Vec<&Value> = Vec::new();
    for (address, value) in addresses.items().zip(status.value.items("addresses")) {
        if seen.contains(&value) {
            let shown = go_struct(value, &[("Type", "type"), ("Address", "address")], true);
            errors.push(FieldError::duplicate(&address.path, shown));
        }
        seen.push(value);
    }
    let before = old.field("spec");
    let cidrs = spec.child("podCIDRs");
    if !before.is_zero("podCIDRs") && cidrs.value != before.field("podCIDRs") {
        errors.push(cidrs.forbidden("node updates may not change podCIDR except from \"\" to valid"));
    }
    let provider = spec.child("providerID");
    if !before.is_zero("providerID") && provider.value != before.field("providerID") {
        errors.push(provider.forbidden("node updates may not change providerID except from \"\" to valid"));
    }
    node_taints(&spec, &mut errors);
    errors
}

fn node_resources(object: &Value, errors: &mut Errors) {
    let status = Field::root(object, "status");
    for list in ["capacity", "allocatable"].iter().map(|l| status.child(l)) {
        for (name, value) in list.entries() {
            amount(name, &Field { path: list.path.child(name), value: value.value }, errors);
        }
    }
}

fn node_taints(spec: &Field<'_>, errors: &mut Errors) {
    let metadata = Path::root("metadata");
    let list = Field { value: spec.value.field("taints"), path: metadata.child("taints") };
    let mut seen = Vec::new();
    for taint in list.items() {
        taint.child("key").text_checked(names::qualified_name, errors);
        let value = taint.child("value");
        let wrong = names::label_value(value.text());
        if !wrong.is_empty() {
            errors.push(value.invalid(wrong.join(";")));
        }
        taint.child("effect").required_one_of(&TAINT_EFFECTS, errors);
        let key = (taint.value.text("key"), taint.value.text("effect"));
        if seen.contains(&key) {
            let fields = [("Key", "key"), ("Value", "value"), ("Effect", "effect"), ("TimeAdded", "timeAdded")];
            let mut shown = taint.value.clone();
            shown["value"] = taint.value.text("value").into();
            let mut error = FieldError::duplicate(&taint.path, go_struct(&shown, &fields, true));
            error.detail = "taints must be unique by key and effect pair".into();
            errors.push(error);
        }
        seen.push(key);
    }
}

/// New or changed Endpoints.
pub(crate) fn endpoints(object: &Value) -> Errors {
    let mut errors = Errors::new();
    for subset in Field::root(object, "subsets").items() {
        if subset.value.is_zero("addresses") && subset.value.is_zero("notReadyAddresses") {
            errors.push(subset.missing("must specify `addresses` or `notReadyAddresses`"));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for address in subset.child(list).items() {
                let at = address.child("ip");
                ip(&at, &mut errors);
                let host = address.child("hostname");
                if !host.is_zero() {
                    host.checked(names::dns1123_label, &mut errors);
                }
                address.child("nodeName").checked(names::dns1123_subdomain, &mut errors);
                endpoint_ip(&at, &mut errors);
            }
        }
        let ports = subset.child("ports");
        let several = ports.items().count() > 1;
        for port in ports.items() {
            let name = port.child("name");
            if !name.is_zero() {
                name.checked(names::dns1123_label, &mut errors);
            } else if several {
                errors.push(name.missing(""));
            }
            let number = port.child("port");
            let wrong = names::port_number(number.int()).into_iter();
            errors.extend(wrong.map(|e| FieldError::invalid(&number.path, number.int(), e)));
            port.child("protocol").required_one_of(&["SCTP", "TCP", "UDP"], &mut errors);
            port.child("appProtocol").checked(names::qualified_name, &mut errors);
        }
    }
    errors
}

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// A new ResourceQuota.
pub(crate) fn resource_quota(object: &Value) -> Errors {
    let (mut errors, spec) = (Errors::new(), Field::root(object, "spec"));
    quota_amounts(&spec.child("hard"), &mut errors);
    let scopes = spec.child("scopes");
    let list: Vec<&str> = spec.value.texts("scopes").collect();
    for scope in &list {
        if !SCOPES.contains(scope) {
            errors.push(scopes.invalid("unsupported scope"));
        }
        for _ in unfit_resources(spec.value, scope) {
            errors.push(scopes.invalid("unsupported scope applied to resource"));
        }
    }
    conflicting(&list, &scopes, &mut errors);
    let selector = spec.child("scopeSelector");
    if selector.is_set() {
        scope_selector(&spec, &selector, &mut errors);
    }
    errors
}

fn scope_selector(spec: &Field<'_>, selector: &Field<'_>, errors: &mut Errors) {
    let expressions = selector.child("matchExpressions");
    let mut list = Vec::new();
    for value in selector.value.items("matchExpressions") {
        let (scope, operator) = (value.text("scopeName"), value.text("operator"));
        let at = |field: &'static str| Field { value: value.field(field), ..expressions.child(field) };
        if !SCOPES.contains(&scope) {
            errors.push(at("scopeName").invalid("unsupported scope"));
        }
        for _ in unfit_resources(spec.value, scope) {
            errors.push(FieldError::invalid(
                &expressions.path,
                selector.value,
                "unsupported scope applied to resource",
            ));
        }
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass")
            && SCOPES.contains(&scope)
            && operator != "Exists"
        {
            errors.push(at("operator").invalid(
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                 ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                 ResourceQuotaScopeCrossNamespacePodAffinity",
            ));
        }
        let values = at("values");
        match operator {
            "In" | "NotIn" => values
                .required("must be at least one value when `operator` is 'In' or 'NotIn' for scope selector", errors),
            "Exists" | "DoesNotExist" => {
                if !values.is_zero() {
                    let text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                    errors.push(values.invalid(text));
                }
            }
            _ => errors.push(at("operator").invalid("not a valid selector operator")),
        }
        list.push(scope);
    }
    conflicting(&list, &spec.child("scopes"), errors);
}

fn conflicting(list: &[&str], at: &Field<'_>, errors: &mut Errors) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| list.contains(scope)) {
            errors.push(at.invalid("conflicting scopes"));
        }
    }
}

/// The resources of a quota that do not go with `scope`.
fn unfit_resources<'a>(spec: &'a Value, scope: &str) -> Vec<&'a str> {
    let pods_only = scope == "BestEffort";
    let compute = SCOPES.contains(&scope) && !matches!(scope, "BestEffort" | "VolumeAttributesClass");
    let claims = scope == "VolumeAttributesClass";
    let fits = |name: &str| {
        let of_compute =
            matches!(name, "cpu" | "memory" | "limits.cpu" | "limits.memory" | "requests.cpu" | "requests.memory");
        (pods_only && name == "pods")
            || (compute && (name == "pods" || of_compute))
            || (claims && matches!(name, "persistentvolumeclaims" | "requests.storage"))
    };
    let judged = pods_only || compute || claims;
    spec.entries("hard").map(|(name, _)| name).filter(|name| judged && is_quota_resource(name) && !fits(name)).collect()
}

fn is_quota_resource(name: &str) -> bool {
    const KNOWN: [&str; 20] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "persistentvolumeclaims",
        "configmaps",
        "services.nodeports",
        "services.loadbalancers",
        "storage",
    ];
    (KNOWN.contains(&name) && name != "storage") || is_huge_pages(name) || name.starts_with("requests.hugepages-")
}

fn quota_amounts(list: &Field<'_>, errors: &mut Errors) {
    for (name, value) in list.entries() {
        resource_name(name, &value, errors);
        if !name.contains('/') && !is_quota_resource(name) {
            errors.push(FieldError::invalid(&value.path, name, "must be a standard resource for quota"));
        }
        amount(name, &value, errors);
    }
}

/// A changed ResourceQuota.
pub(crate) fn resource_quota_update(new: &Value, old: &Value) -> Errors {
    let mut errors = resource_quota(new);
    let scopes = |object: &Value| {
        let mut list: Vec<String> = object.field("spec").texts("scopes").map(str::to_owned).collect();
        list.sort();
        list.dedup();
        list
    };
    if scopes(new) != scopes(old) {
        errors.push(Field::root(new, "spec").child("scopes").invalid("field is immutable"));
    }
    errors
}

/// A changed status of a ResourceQuota.
pub(crate) fn resource_quota_status(new: &Value, _old: &Value) -> Errors {
    let (mut errors, status) = (Errors::new(), Field::root(new, "status"));
    quota_amounts(&status.child("hard"), &mut errors);
    quota_amounts(&status.child("used"), &mut errors);
    errors
}

/// A new or changed LimitRange.
pub(crate) fn limit_range(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let spec = Field::root(object, "spec");
    let mut seen = Vec::new();
    for item in spec.child("limits").items() {
        let kind = item.child("type");
        let wrong = names::qualified_name(kind.text());
        if wrong.is_empty()
            && !kind.text().contains('/')
            && !matches!(kind.text(), "Pod" | "Container" | "PersistentVolumeClaim")
        {
            errors.push(kind.invalid("must be a standard limit type or fully qualified"));
        }
        errors.extend(wrong.into_iter().map(|e| FieldError::invalid(&kind.path, kind.text(), e)));
        if seen.contains(&item.value.text("type")) {
            errors.push(FieldError::duplicate(&kind.path, kind.text()));
        }
        seen.push(item.value.text("type"));
        let is_pod = kind.text() == "Pod";
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"].iter().map(|l| item.child(l)) {
            for (name, value) in list.entries() {
                match kind.text() {
                    "Pod" | "Container" => container_resource_name(name, &value, &mut errors),
                    _ => resource_name(name, &value, &mut errors),
                }
            }
        }
        for field in ["default", "defaultRequest"].iter().map(|f| item.child(f)) {
            if is_pod && !field.is_zero() {
                errors.push(field.forbidden("may not be specified when `type` is 'Pod'"));
            }
        }
        let storage = |list: &str| item.value.field(list).has("storage");
        if kind.text() == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
            let text = "either minimum or maximum storage value is required, but neither was provided";
            errors.push(item.child("limits").missing(text));
        }
        bounds(&item, is_pod, &mut errors);
    }
    errors
}

fn bounds(item: &Field<'_>, is_pod: bool, errors: &mut Errors) {
    let mut names: Vec<&str> = Vec::new();
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        names.extend(item.value.entries(list).map(|(name, _)| name));
    }
    names.sort_unstable();
    names.dedup();
    for name in names {
        let get = |list: &str| Some(item.value.field(list).field(name)).filter(|v| !v.is_null()).map(quantity);
        let own = |list: &str| get(list).filter(|_| !is_pod);
        let (min, max, default, request) = (get("min"), get("max"), own("default"), own("defaultRequest"));
        let mut above =
            |a: Option<Quantity>, b: Option<Quantity>, list: &str, shown: usize, a_name: &str, b_name: &str| {
                if let (Some(a), Some(b)) = (a, b)
                    && a > b
                {
                    let list = item.child(list);
                    let value = [a, b][shown].to_string();
                    let text = format!("{a_name} value {a} is greater than {b_name} value {b}");
                    errors.push(FieldError::invalid(&list.path.key(name), value, text));
                }
            };
        above(min, max, "min", 0, "min", "max");
        above(min, request, "defaultRequest", 1, "min", "default request");
        above(request, max, "defaultRequest", 0, "default request", "max");
        above(request, default, "defaultRequest", 0, "default request", "default limit");
        above(min, default, "default", 0, "min", "default");
        above(default, max, "default", 1, "default", "max");
        let list = item.child("maxLimitRequestRatio");
        if let Some(ratio) = get("maxLimitRequestRatio") {
            let path = list.path.key(name);
            if ratio.as_f64() < 1.0 {
                errors.push(FieldError::invalid(&path, ratio.to_string(), format!("ratio {ratio} is less than 1")));
            }
            if let (Some(min), Some(max)) = (min, max) {
                let limit = max.as_f64() / min.as_f64();
                if ratio.as_f64() > limit {
                    let text = format!("ratio {ratio} is greater than max/min = {limit:.6}");
                    errors.push(FieldError::invalid(&path, ratio.to_string(), text));
                }
            }
        }
        if let (Some(default), Some(request)) = (default, request)
            && default != request
            && !may_be_overcommitted(name)
        {
            let list = item.child("defaultRequest");
            let text = format!("default value {default} must equal to defaultRequest value {request} in {name}");
            errors.push(FieldError::invalid(&list.path.key(name), request.to_string(), text));
        }
    }
}

/// A new event of `v1`.
// upstream: legacyValidateEvent
pub(crate) fn event(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let involved = Field::root(object, "involvedObject");
    let at = involved.child("namespace");
    let (about, own) = (at.text(), object.field("metadata").text("namespace"));
    if object.is_zero("eventTime") {
        let agrees = if about.is_empty() { matches!(own, "" | "default") } else { own == about };
        if !agrees {
            errors.push(FieldError::invalid(&at.path, about, "does not match event.namespace"));
        }
        return errors;
    }
    if about.is_empty() && !matches!(own, "default" | "kube-system") {
        errors.push(FieldError::invalid(&at.path, about, "does not match event.namespace"));
    }
    let reporter = Field::root(object, "reportingComponent");
    reporter.required("", &mut errors);
    reporter.text_checked(names::qualified_name, &mut errors);
    for (field, limit) in [("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)] {
        let field_at = Field::root(object, field);
        if field != "message" {
            field_at.required("", &mut errors);
        }
        if field_at.text().len() > limit {
            let text = format!("can have at most {limit} characters");
            errors.push(FieldError::invalid(&field_at.path, BadValue::from(""), text));
        }
    }
    errors
}
