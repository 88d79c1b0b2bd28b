//! POST, PUT, PATCH and DELETE of objects.
use super::ApiServer;
use super::resource::Call;
use crate::body::Body;
use crate::codec::{
    FieldValidation, Made, TWICE, content_type, decode, decode_typed, retype, type_of, unreadable_type, yaml,
};
use crate::context::RequestContext;
use crate::list_options::ListOptions;
use crate::negotiate::{ACCEPTED, JSON, PROTOBUF, YAML, header};
use crate::patch::{APPLY, JSON_PATCH, MERGE_PATCH, Patch};
use crate::registry::{DeleteOptions, Deleted, Write, Written, ensure_namespace, is_storage_version, ownership};
use crate::respond::{self, Shown};
use crate::strategy;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use http::{Response, StatusCode};
use pintle_api::apply::{self, FieldManager};
use pintle_api::field::{FieldError, Path, go_quote};
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{GroupKind, Resource, split_api_version};
use pintle_api::status::ApiError;
use pintle_api::table::IncludeObject;
use serde_json::{Value, json};

/// How many objects of a collection are deleted at the same time, so that they share commits.
const DELETE_PARALLEL: usize = 512;

impl ApiServer {
    fn write_of<'a>(&'a self, call: &'a Call, dry_run: bool, options: &'a Value) -> Write<'a> {
        Write {
            cx: &call.cx,
            resource: &call.resource,
            subresource: &call.cx.info.subresource,
            namespace: &call.namespace,
            dry_run,
            admission: Some(&*self.parts().admission),
            options,
            manager: Some(field_manager(&call.cx, &call.parts.headers)),
        }
    }

    pub(super) async fn create(&self, call: &Call, body: &[u8]) -> Result<Response<Body>, ApiError> {
        let options = write_options(call, "CreateOptions")?;
        let object = read_typed(call, &call.resource, body)?;
        record_object(call, &object);
        let write = self.write_of(call, is_dry_run(&options), &options);
        let written = self.registry().create(&write, object).await?;
        answer(call, &written)
    }

    pub(super) async fn update(&self, call: &Call, body: &[u8]) -> Result<Response<Body>, ApiError> {
        let options = write_options(call, "UpdateOptions")?;
        let mut object = read_typed(call, &call.resource, body)?;
        record_object(call, &object);
        let name = &call.cx.info.name;
        // upstream: the namespace is looked at before the name
        ensure_namespace(&call.resource, &call.namespace, &mut object)?;
        match object.name() {
            "" => {
                let text =
                    format!("the name of the object ({name} based on URL) was undeterminable: name must be provided");
                return Err(ApiError::bad_request(text));
            }
            given if given != name => {
                let text = format!("the name of the object ({given}) does not match the name on the URL ({name})");
                return Err(ApiError::bad_request(text));
            }
            _ => {}
        }
        let write = self.write_of(call, is_dry_run(&options), &options);
        let mut replace = |old: Option<&Value>| {
            check_uid(call, &object, old)?;
            Ok(object.clone())
        };
        let written = self.registry().update(&write, name, false, &mut replace).await?;
        answer(call, &written)
    }

    pub(super) async fn patch(&self, call: &Call, body: &[u8]) -> Result<Response<Body>, ApiError> {
        let options = write_options(call, "PatchOptions")?;
        if let Some(audit) = &call.cx.audit {
            audit.request_patch(body);
        }
        let media_type = content_type(&call.parts.headers).to_owned();
        if media_type == APPLY {
            return self.apply(call, body, options).await;
        }
        let patch = Patch::parse(&call.resource, &media_type, body)?;
        let write = self.write_of(call, is_dry_run(&options), &options);
        let name = &call.cx.info.name;
        let not_found = || ApiError::not_found(call.resource.group_resource(), name);
        let validation = validation_of(call);
        let mut apply = |old: Option<&Value>| {
            let patched = patch.apply(&call.resource, old.ok_or_else(not_found)?)?;
            let patched = retype(&call.cx, &call.resource, validation, patch.made(), patched)?;
            if patched.name() != name {
                let given = patched.name();
                let text = format!("the name of the object ({given}) does not match the name on the URL ({name})");
                return Err(ApiError::bad_request(text));
            }
            Ok(patched)
        };
        let written = self.registry().update(&write, name, false, &mut apply).await?;
        answer(call, &written)
    }

    /// Server-side apply; it may create the object.
    async fn apply(&self, call: &Call, body: &[u8], mut options: Value) -> Result<Response<Body>, ApiError> {
        let resource = &call.resource;
        let structure = ownership::structure(resource);
        let structure = structure.ok_or_else(|| ApiError::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH]))?;
        let (config, repeated) = read_configuration(body)?;
        let (query, name) = (&call.cx.info.query, &call.cx.info.name);
        let force = query.flag("force");
        options["force"] = force.into();
        let write = Write { manager: None, ..self.write_of(call, is_dry_run(&options), &options) };
        let (api_version, versions) = (resource.api_version(), ownership::ServedVersions::of(self.registry()));
        check_configured_type(&config, resource)?;
        let by = FieldManager {
            name: query.text("fieldManager"),
            api_version: &api_version,
            subresource: write.subresource,
            structure,
            reset: write.reset_fields(),
            versions: &versions,
        };
        let validation = validation_of(call);
        judge_repeated(&call.cx, validation, repeated)?;
        let mut change = |old: Option<&Value>| {
            let merged = apply::apply(old, &config, &by, force)?;
            let mut merged = retype(&call.cx, resource, validation, Made::ByApply, merged)?;
            match merged.name() {
                "" => merged.set_meta_str("name", name.as_str()),
                given if given == name => {}
                given => {
                    let text = format!("the name of the object ({given}) does not match the name on the URL ({name})");
                    return Err(ApiError::bad_request(text));
                }
            }
            ensure_namespace(resource, &call.namespace, &mut merged)?;
            Ok(merged)
        };
        let missing = match self.registry().get_stored(resource, &call.namespace, name).await {
            Err(error) if error.is_not_found() && write.subresource.is_empty() => true,
            Err(error) => return Err(error),
            Ok(_) => false,
        };
        if missing {
            // A configuration that creates the object needs the right to create it, too.
            self.authorize_as(&call.cx, "create").await?;
        }
        let written = self.registry().update(&write, name, missing, &mut change).await?;
        answer(call, &written)
    }

    pub(super) async fn delete(&self, call: &Call, body: &[u8]) -> Result<Response<Body>, ApiError> {
        let options = delete_options(call, body)?;
        warn_of_orphans(call, &options);
        let write = self.write_of(call, is_dry_run(&options), &options);
        let name = &call.cx.info.name;
        let parsed = DeleteOptions::of(&options);
        let Deleted { object, gone } = self.registry().delete(&write, name, &parsed).await?;
        let status =
            if !gone && parsed.orphan_dependents == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK };
        if gone && !strategy::of(&call.resource).returns_deleted_object() {
            let details = pintle_api::status::deleted(call.resource.group_resource(), name, object.uid());
            return respond::value(status, &call.negotiation, &details);
        }
        respond::object(status, &call.negotiation, &call.resource, Shown::Value(&object), IncludeObject::default())
    }

    pub(super) async fn delete_collection(&self, call: &Call, body: &[u8]) -> Result<Response<Body>, ApiError> {
        let options = delete_options(call, body)?;
        let list = ListOptions::parse(&call.resource, &call.cx.info.query, false)?;
        let (items, meta) = self.page(call, &list).await?;
        warn_of_orphans(call, &options);
        let parsed = DeleteOptions::of(&options);
        let write = self.write_of(call, is_dry_run(&options), &options);
        let prefix = call.resource.storage_prefix().len();
        let mut left = items.iter();
        let mut deletions: FuturesUnordered<BoxFuture<'_, Result<(), ApiError>>> = FuturesUnordered::new();
        loop {
            while deletions.len() < DELETE_PARALLEL
                && let Some(item) = left.next()
            {
                let key = String::from_utf8_lossy(item.key.get(prefix..).unwrap_or_default()).into_owned();
                deletions.push(Box::pin(self.delete_item(write, key, &parsed)));
            }
            match deletions.next().await {
                Some(deleted) => deleted?,
                None => break,
            }
        }
        drop(deletions);
        let stored = items.into_iter().map(|kv| kv.value).collect();
        let stored = self.registry().converted(&call.resource, stored).await?;
        respond::list(self.registry(), &call.negotiation, &call.resource, stored, &meta, IncludeObject::default())
    }

    /// Deletes the object at `key` (from the resource's prefix on); one that is gone already is fine.
    async fn delete_item(&self, write: Write<'_>, key: String, options: &DeleteOptions) -> Result<(), ApiError> {
        let (namespace, name) = match key.split_once('/') {
            Some((namespace, name)) if write.resource.namespaced => (namespace, name),
            _ => ("", key.as_str()),
        };
        let write = Write { namespace, ..write };
        match self.registry().delete(&write, name, options).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whoever deletes a Job is told that its pods stay, unless they say what is to become of them.
// upstream: pkg/registry/batch/job/storage, REST.Delete
fn warn_of_orphans(call: &Call, options: &Value) {
    let silent = options["propagationPolicy"].is_null() && options["orphanDependents"].is_null();
    let is_job = (call.resource.group.as_str(), call.resource.kind.as_str()) == ("batch", "Job");
    if silent && is_job {
        call.cx.warn(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them \
             or set propagationPolicy=Orphan to suppress this warning",
        );
    }
}

/// Shows the audit record what was sent, with its defaults.
fn record_object(call: &Call, object: &Value) {
    if let Some(audit) = &call.cx.audit {
        let mut shown = object.clone();
        strategy::of(&call.resource).default(&mut shown);
        audit.request_object(&shown);
    }
}

fn read_typed(call: &Call, resource: &Resource, body: &[u8]) -> Result<Value, ApiError> {
    decode_typed(&call.cx, resource, validation_of(call), content_type(&call.parts.headers), body)
}

fn validation_of(call: &Call) -> FieldValidation {
    FieldValidation::parse(call.cx.info.query.text("fieldValidation"))
}

/// Reads the body of a server-side apply, and what is wrong with it only if one is strict: keys that are there twice.
pub(crate) fn read_configuration(body: &[u8]) -> Result<(Value, Option<String>), ApiError> {
    let wrong = |why: &dyn std::fmt::Display| ApiError::bad_request(format!("error decoding YAML: {why}"));
    let (config, repeated): (Value, _) = match serde_json::from_slice(body) {
        Ok(json) => (json, None),
        Err(_) => {
            let read = yaml(body).map_err(|error| wrong(&format_args!("error converting YAML to JSON: {error}")))?;
            (read.value, read.strict_errors.into_iter().next())
        }
    };
    let kind = match config {
        Value::Object(_) | Value::Null => return Ok((config, repeated)),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
    };
    let why = format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}");
    Err(wrong(&format_args!("error unmarshaling JSON: while decoding JSON: {why}")))
}

/// Keys that are there twice in a configuration are answered as `validation` says.
pub(crate) fn judge_repeated(
    cx: &RequestContext,
    validation: FieldValidation,
    repeated: Option<String>,
) -> Result<(), ApiError> {
    let Some(repeated) = repeated.map(|why| format!("error converting YAML to JSON: {TWICE}{why}")) else {
        return Ok(());
    };
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => cx.warn(repeated),
        FieldValidation::Strict => {
            return Err(ApiError::bad_request(format!("error strict decoding YAML: {repeated}")));
        }
    }
    Ok(())
}

/// A configuration names its type. upstream: versionCheckManager
pub(crate) fn check_configured_type(config: &Value, resource: &Resource) -> Result<(), ApiError> {
    if config.api_version() == resource.api_version() && config.kind() == resource.kind {
        return Ok(());
    }
    let (group, version) = split_api_version(config.api_version());
    // upstream: what is no version is as good as none
    let (group, version, kind) = if version.contains('/') { ("", "", "") } else { (group, version, config.kind()) };
    Err(ApiError::bad_request(format!("invalid object type: {group}/{version}, Kind={kind}")))
}

/// Who owns the fields that a request changes. upstream: apiserver pkg/endpoints/handlers, managerOrUserAgent
pub(crate) fn field_manager<'a>(cx: &'a RequestContext, headers: &'a http::HeaderMap) -> &'a str {
    match cx.info.query.text("fieldManager") {
        "" => match header(headers, "user-agent").split('/').next() {
            // Components in this process send none.
            None | Some("") => component(&cx.user.name),
            Some(client) => client,
        },
        given => given,
    }
}

/// Upstream's name of the component that acts as `user`.
fn component(user: &str) -> &str {
    match user.strip_prefix("system:") {
        Some("kube-scheduler") => "kube-scheduler",
        Some("apiserver") => "kube-apiserver",
        Some(node) if node.starts_with("node:") => "kubelet",
        Some(account) if account.starts_with("serviceaccount:kube-system:") => "kube-controller-manager",
        Some(other) => other.rsplit(':').next().unwrap_or_default(),
        None => user,
    }
}

fn answer(call: &Call, written: &Written) -> Result<Response<Body>, ApiError> {
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let shown =
        if is_storage_version(&call.resource) { Shown::Stored(&written.bytes) } else { Shown::Value(&written.object) };
    respond::object(status, &call.negotiation, &call.resource, shown, IncludeObject::default())
}

/// The query's `CreateOptions`, `UpdateOptions` or `PatchOptions`.
fn write_options(call: &Call, kind: &'static str) -> Result<Value, ApiError> {
    let query = &call.cx.info.query;
    let dry_run: Vec<&str> = query.all("dryRun").filter(|value| !value.is_empty()).collect();
    let validation = query.text("fieldValidation");
    let mut errors = Vec::new();
    check_dry_run(&dry_run, &mut errors);
    if !matches!(validation, "" | "Ignore" | "Warn" | "Strict") {
        let path = Path::root("fieldValidation");
        errors.push(FieldError::not_supported(&path, validation, &["", "Ignore", "Strict", "Warn"]));
    }
    let manager = query.text("fieldManager");
    if kind == "PatchOptions" && manager.is_empty() && content_type(&call.parts.headers) == APPLY {
        let path = Path::root("fieldManager");
        errors.insert(0, FieldError::required(&path, "is required for apply patch"));
    }
    if manager.len() > 128 {
        errors.push(FieldError::too_long(&Path::root("fieldManager"), 128));
    }
    // upstream: ValidateFieldManager
    for (at, wrong) in manager.char_indices().filter(|(_, c)| c.is_control()) {
        let text = format!("invalid character {} (at position {at})", go_rune(wrong));
        errors.push(FieldError::invalid(&Path::root("fieldManager"), manager, text));
    }
    if kind == "PatchOptions" && content_type(&call.parts.headers) != APPLY && query.get("force").is_some() {
        let text = "may not be specified for non-apply patch";
        errors.push(FieldError::forbidden(&Path::root("force"), text));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(GroupKind { group: "meta.k8s.io", kind }, "", &errors));
    }
    let mut options = json!({ "kind": kind, "apiVersion": "meta.k8s.io/v1" });
    if !dry_run.is_empty() {
        options["dryRun"] = json!(dry_run);
    }
    for (name, value) in [("fieldManager", manager), ("fieldValidation", validation)] {
        if !value.is_empty() {
            options[name] = value.into();
        }
    }
    Ok(options)
}

/// A replacement that names a UID is meant for that object only.
fn check_uid(call: &Call, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let Some(old) = old.filter(|old| !new.uid().is_empty() && new.uid() != old.uid()) else { return Ok(()) };
    let key = upstream_key(&call.resource, &call.namespace, old.name());
    let text = format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: \
         UID in precondition: {}, UID in object meta: {}",
        new.uid(),
        old.uid()
    );
    Err(ApiError::conflict(call.resource.group_resource(), old.name(), text))
}

/// A character as Go's `%#U` prints it.
fn go_rune(c: char) -> String {
    let code = format!("U+{:04X}", u32::from(c));
    if c.is_control() { code } else { format!("{code} '{c}'") }
}

/// The key under which upstream keeps an object.
// upstream: pkg/kubeapiserver/default_storage_factory_builder.go, specialDefaultResourcePrefixes
fn upstream_key(resource: &Resource, namespace: &str, name: &str) -> String {
    let with_group = resource.custom.is_some()
        || ["apiextensions.k8s.io", "apiregistration.k8s.io"].contains(&resource.group.as_str());
    let prefix = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "replicationcontrollers") => "controllers".to_owned(),
        ("", "endpoints") => "services/endpoints".to_owned(),
        ("", "nodes") => "minions".to_owned(),
        ("", "services") => "services/specs".to_owned(),
        ("networking.k8s.io", "ingresses") => "ingress".to_owned(),
        (group, plural) if with_group => format!("{group}/{plural}"),
        (_, plural) => plural.to_owned(),
    };
    match namespace {
        "" => format!("/registry/{prefix}/{name}"),
        namespace => format!("/registry/{prefix}/{namespace}/{name}"),
    }
}

fn check_dry_run(values: &[&str], errors: &mut Vec<FieldError>) {
    if values.iter().any(|value| *value != "All") {
        errors.push(FieldError::not_supported(&Path::root("dryRun"), &json!(values), &["All"]));
    }
}

fn is_dry_run(options: &Value) -> bool {
    options.get("dryRun").and_then(Value::as_array).is_some_and(|values| !values.is_empty())
}

/// Reads `DeleteOptions`, which may leave out what they are.
fn read_delete_options(media_type: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    let sent = match media_type {
        JSON => pintle_api::decode::parse(bytes)
            .map_err(|why| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {why}")))?,
        YAML => yaml(bytes).map_err(ApiError::bad_request)?.value,
        PROTOBUF => decode(PROTOBUF, bytes)?,
        _ => return Err(ApiError::unsupported_media_type(&ACCEPTED)),
    };
    if sent.is_null() {
        return Ok(json!({}));
    }
    if let Some(why) = unreadable_type(&sent) {
        return Err(ApiError::bad_request(why));
    }
    if !matches!(sent.kind(), "" | "DeleteOptions") {
        let version = if sent.api_version().is_empty() { "meta.k8s.io/v1" } else { sent.api_version() };
        let (kind, version) = (go_quote(sent.kind()), go_quote(version));
        let text =
            format!("no kind {kind} is registered for version {version} in scheme \"pkg/runtime/scheme.go:111\"");
        return Err(ApiError::bad_request(text));
    }
    let Some(ty) = type_of("meta.k8s.io/v1", "DeleteOptions") else { return Ok(sent) };
    Ok(pintle_api::decode::decode_value(sent, ty).map_err(|error| ApiError::bad_request(error.0))?.value)
}

/// The `DeleteOptions` of the body, or of the query if there is no body.
fn delete_options(call: &Call, bytes: &[u8]) -> Result<Value, ApiError> {
    let mut options =
        if bytes.is_empty() { json!({}) } else { read_delete_options(content_type(&call.parts.headers), bytes)? };
    let query = &call.cx.info.query;
    if bytes.is_empty() {
        if let Some(seconds) = query.get("gracePeriodSeconds") {
            let wrong = |_| {
                let quoted = go_quote(seconds);
                ApiError::bad_request(format!("strconv.ParseInt: parsing {quoted}: invalid syntax"))
            };
            options["gracePeriodSeconds"] = json!(seconds.parse::<i64>().map_err(wrong)?);
        }
        if let Some(policy) = query.get("propagationPolicy") {
            options["propagationPolicy"] = policy.into();
        }
        if query.get("orphanDependents").is_some() {
            options["orphanDependents"] = query.flag("orphanDependents").into();
        }
        let dry_run: Vec<&str> = query.all("dryRun").filter(|value| !value.is_empty()).collect();
        if !dry_run.is_empty() {
            options["dryRun"] = json!(dry_run);
        }
    }
    let mut errors = Vec::new();
    let policy = options["propagationPolicy"].as_str();
    if policy.is_some() && options["orphanDependents"].is_boolean() {
        let path = Path::root("propagationPolicy");
        let text = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid(&path, &options["propagationPolicy"], text));
    }
    if let Some(policy) = policy
        && !matches!(policy, "Foreground" | "Background" | "Orphan")
    {
        let known = ["Foreground", "Background", "Orphan", "nil"];
        errors.push(FieldError::not_supported(&Path::root("propagationPolicy"), policy, &known));
    }
    let values: Vec<&str> = options["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    check_dry_run(&values, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::invalid(GroupKind { group: "meta.k8s.io", kind: "DeleteOptions" }, "", &errors));
    }
    if let Some(audit) = call.cx.audit.as_ref().filter(|_| !bytes.is_empty()) {
        audit.request_object(&options);
    }
    Ok(options)
}
