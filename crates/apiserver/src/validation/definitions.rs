//! CustomResourceDefinitions. Start at [`create`], [`update`] and [`status`]; their schemas are judged in [`schema`].
//!
//! Upstream judges its internal form, in which what all versions have in common stands beside them: an error in the schema of
//! the only version is reported at `spec.validation`, not at `spec.versions[0].schema`.
// upstream: apiextensions-apiserver pkg/apis/apiextensions/validation/validation.go
mod schema;

use super::field::{Errors, Field};
use crate::definitions::approval;
use crate::value::{Read, same};
use base64::{Engine, prelude::BASE64_STANDARD};
use pintle_api::field::{FieldError, Path};
use pintle_api::names;
use pintle_api::structural::{Schema, unrecognized_format};
use serde_json::Value;

/// How many fields of a version can be selected by.
const MAX_SELECTABLE: usize = 8;
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

/// Judges a new definition.
pub(crate) fn create(definition: &Value) -> Errors {
    let mut errors = Errors::new();
    let given = Field::root(definition, "spec");
    let wanted = format!("{}.{}", given.value.field("names").text("plural"), given.value.text("group"));
    let name = definition.field("metadata").text("name");
    if !name.is_empty() && name != wanted {
        let at = Path::root("metadata");
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid(&at.child("name"), name, why));
    }
    spec(&given, &Options { any_review_version: false, ca_bundle: false, old: &Value::Null }, &mut errors);
    beyond_spec(definition, None, &mut errors);
    errors
}

/// Judges a change of a definition.
pub(crate) fn update(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::new();
    let (given, old_spec) = (Field::root(new, "spec"), old.field("spec"));
    let is_true = |c: &Value| c["type"] == "Established" && c["status"] == "True";
    let established = old.field("status").items("conditions").iter().any(is_true);
    let old_config = old_spec.field("conversion").field("webhook");
    let reviews = old_config.items("conversionReviewVersions");
    let old_bundle = old_config.field("clientConfig").text("caBundle");
    let options = Options {
        any_review_version: !reviews.is_empty() && !reviews.iter().any(|v| v == "v1" || v == "v1beta1"),
        ca_bundle: established && (old_bundle.is_empty() || is_ca_bundle(old_bundle)),
        old: old_spec,
    };
    spec(&given, &options, &mut errors);
    let names = given.child("names");
    if established {
        given.child("scope").immutable(old_spec.field("scope"), &mut errors);
        names.child("kind").immutable(old_spec.field("names").field("kind"), &mut errors);
    }
    given.child("group").immutable(old_spec.field("group"), &mut errors);
    names.child("plural").immutable(old_spec.field("names").field("plural"), &mut errors);
    beyond_spec(new, Some(old), &mut errors);
    errors
}

/// Judges a change of the status.
pub(crate) fn status(new: &Value) -> Errors {
    let mut errors = Errors::new();
    names_of(&Field::root(new, "status").child("acceptedNames"), &mut errors);
    errors
}

/// Warnings about formats that nobody judges by.
pub(crate) fn warnings(definition: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for version in definition.field("spec").items("versions") {
        let Ok(schema) = Schema::parse(version.field("schema").field("openAPIV3Schema")) else { continue };
        schema.any(&mut |schema| {
            let format = schema.limits.as_ref().map_or("", |limits| &limits.format);
            found.extend(
                unrecognized_format(&schema.type_, format).map(|format| format!("unrecognized format \"{format}\"")),
            );
            false
        });
    }
    found
}

/// Whether base64 text holds certificates.
pub(crate) fn is_ca_bundle(bundle: &str) -> bool {
    let Ok(pem) = BASE64_STANDARD.decode(bundle) else { return false };
    if pem.is_empty() {
        return true;
    }
    x509_parser::pem::Pem::iter_from_buffer(&pem)
        .flatten()
        .any(|pem| pem.label == "CERTIFICATE" && pem.parse_x509().is_ok())
}

/// What an old state of the definition lets pass.
struct Options<'a> {
    /// Whether no review version that is known is needed.
    any_review_version: bool,
    /// Whether the CA bundle must hold certificates.
    ca_bundle: bool,
    old: &'a Value,
}

impl Options<'_> {
    /// Whether the version had this schema before.
    // upstream: findVersionsWithUnchangedSchemas
    fn has_schema(&self, version: &str, schema: &Value) -> bool {
        let old = self.old.items("versions").iter().find(|old| old.text("name") == version);
        old.is_some_and(|old| same(old.field("schema"), schema))
    }
}

fn beyond_spec(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let status = Field::root(new, "status");
    names_of(&status.child("acceptedNames"), errors);
    stored_versions(&status.child("storedVersions"), new.field("spec").items("versions"), errors);
    api_approval(new, old, errors);
    let preserve = |object: &Value| object.field("spec").flag("preserveUnknownFields");
    if preserve(new) && !old.is_some_and(preserve) {
        let why =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(Field::root(new, "spec").child("preserveUnknownFields").invalid(why));
    }
}

fn stored_versions(stored: &Field<'_>, versions: &[Value], errors: &mut Errors) {
    if stored.is_zero() {
        errors.push(stored.invalid("must have at least one stored version"));
        return;
    }
    let known = |name: &str| stored.items().any(|version| version.text() == name);
    for name in versions.iter().filter(|version| version.flag("storage")).map(|version| version.text("name")) {
        if !known(name) {
            errors.push(stored.invalid(format!("must have the storage version {name}")));
        }
    }
    for version in stored.items() {
        let name = version.text();
        if !versions.iter().any(|declared| declared.text("name") == name) {
            errors.push(version.invalid(format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a \
                 storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            )));
        }
    }
}

fn api_approval(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    if !approval::is_protected(new.field("spec").text("group")) {
        return;
    }
    let annotation =
        |object: &Value| object.field("metadata").field("annotations").text(approval::ANNOTATION).to_owned();
    let given = annotation(new);
    let (state, why) = approval::read(&given);
    if old.is_some_and(|old| approval::read(&annotation(old)).0 == state) {
        return;
    }
    let at = Path::root("metadata.annotations");
    let at = at.key(approval::ANNOTATION);
    match state {
        approval::State::Missing => errors.push(FieldError::required(&at, why)),
        approval::State::Invalid => errors.push(FieldError::invalid(&at, given, why)),
        approval::State::Approved | approval::State::Bypassed => {}
    }
}

fn joined(wrong: &[String]) -> String {
    wrong.join(",")
}

fn spec(spec: &Field<'_>, options: &Options<'_>, errors: &mut Errors) {
    let group = spec.child("group");
    if group.is_zero() {
        errors.push(group.missing(""));
    } else {
        let wrong = names::dns1123_subdomain(group.text());
        if !wrong.is_empty() {
            errors.push(group.invalid(joined(&wrong)));
        } else if !group.text().contains('.') {
            errors.push(group.invalid("should be a domain with at least one dot"));
        }
    }
    let scope = spec.child("scope");
    match scope.text() {
        "" => errors.push(scope.missing("")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(FieldError::not_supported(&scope.path, other, &["Cluster", "Namespaced"])),
    }
    let versions = spec.child("versions");
    let all: Vec<Field<'_>> = versions.items().collect();
    for version in &all {
        if !version.child("schema").child("openAPIV3Schema").is_set() {
            errors.push(version.child("schema").child("openAPIV3Schema").missing(""));
        }
    }
    let shared = Shared::of(&all);
    let (mut names_seen, mut unique) = (Vec::new(), true);
    for version in &all {
        let name = version.child("name");
        unique &= !names_seen.contains(&name.text());
        names_seen.push(name.text());
        let wrong = names::dns1035_label(name.text());
        if !wrong.is_empty() {
            errors.push(name.invalid(joined(&wrong)));
        }
        version_of(version, &shared, options, errors);
    }
    if !unique {
        errors.push(versions.invalid("must contain unique version names"));
    }
    if all.iter().filter(|version| version.value.flag("storage")).count() != 1 {
        errors.push(versions.invalid("must have exactly one version marked as storage version"));
    }
    let wanted = spec.child("names");
    for name in ["plural", "singular", "kind", "listKind"] {
        wanted.child(name).required("", errors);
    }
    names_of(&wanted, errors);
    if let Some(first) = all.first() {
        shared_parts(spec, first, &shared, &all, options, errors);
    }
    conversion(&spec.child("conversion"), options, errors);
}

/// Which parts all versions have in common.
struct Shared {
    subresources: bool,
    schema: bool,
    columns: bool,
    selectable: bool,
}

impl Shared {
    fn of(versions: &[Field<'_>]) -> Shared {
        let identical = |part: &str| {
            let first = versions.first().map_or(&Value::Null, |version| version.value.field(part));
            versions.iter().all(|version| same(version.value.field(part), first))
        };
        Shared {
            subresources: identical("subresources"),
            schema: identical("schema"),
            columns: identical("additionalPrinterColumns"),
            selectable: identical("selectableFields"),
        }
    }
}

fn has_status(version: &Field<'_>) -> bool {
    version.value.field("subresources").has("status")
}

fn version_of(version: &Field<'_>, shared: &Shared, options: &Options<'_>, errors: &mut Errors) {
    deprecation(version, errors);
    let given = version.child("schema");
    if !shared.schema {
        let unchanged = options.has_schema(version.value.text("name"), given.value);
        schema::validate(&given, has_status(version), unchanged, errors);
    }
    if !shared.subresources {
        subresources(&version.child("subresources"), errors);
    }
    if !shared.columns {
        version.child("additionalPrinterColumns").items().for_each(|c| column(&c, errors));
    }
    if !shared.selectable {
        let old = options.old.items("versions").iter().find(|old| old.field("name") == version.value.field("name"));
        let old = old.map_or(&Value::Null, |old| old.field("selectableFields"));
        selectable(&version.child("selectableFields"), given.value.field("openAPIV3Schema"), old, errors);
    }
}

/// Judges the parts that all versions have in common, where upstream's internal form has them.
fn shared_parts(
    spec: &Field<'_>,
    first: &Field<'_>,
    shared: &Shared,
    all: &[Field<'_>],
    options: &Options<'_>,
    errors: &mut Errors,
) {
    let at = |name, value| Field { value, path: spec.path.child(name) };
    if shared.schema {
        let schema = first.value.field("schema");
        let unchanged = options.has_schema(first.value.text("name"), schema);
        schema::validate(&at("validation", schema), all.iter().any(has_status), unchanged, errors);
    }
    if shared.subresources {
        subresources(&at("subresources", first.value.field("subresources")), errors);
    }
    if shared.columns {
        let columns = at("additionalPrinterColumns", first.value.field("additionalPrinterColumns"));
        columns.items().for_each(|c| column(&c, errors));
    }
    if shared.selectable {
        let old = options.old.items("versions").first().map_or(&Value::Null, |old| old.field("selectableFields"));
        let fields = at("selectableFields", first.value.field("selectableFields"));
        selectable(&fields, first.value.field("schema").field("openAPIV3Schema"), old, errors);
    }
}

fn deprecation(version: &Field<'_>, errors: &mut Errors) {
    let warning = version.child("deprecationWarning");
    let Some(text) = warning.value.as_str() else { return };
    if !version.value.flag("deprecated") {
        errors.push(warning.invalid("can only be set for deprecated versions"));
        return;
    }
    if text.len() > 256 {
        errors.push(warning.invalid("must be <= 256 characters long"));
    }
    if text.is_empty() {
        errors.push(warning.invalid("must not be an empty string"));
    }
    if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        let why = format!("must only contain printable UTF-8 characters; non-printable character found at index {at}");
        errors.push(warning.invalid(why));
    }
}

fn names_of(names: &Field<'_>, errors: &mut Errors) {
    let label = |field: &Field<'_>, errors: &mut Errors| {
        let wrong = names::dns1035_label(field.text());
        if !wrong.is_empty() {
            errors.push(field.invalid(joined(&wrong)));
        }
    };
    for name in ["plural", "singular"] {
        let field = names.child(name);
        if !field.is_zero() {
            label(&field, errors);
        }
    }
    for name in ["kind", "listKind"] {
        let field = names.child(name);
        let wrong = names::dns1035_label(&field.text().to_lowercase());
        if !field.is_zero() && !wrong.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", joined(&wrong));
            errors.push(field.invalid(why));
        }
    }
    names.child("shortNames").items().for_each(|name| label(&name, errors));
    let (kind, list_kind) = (names.child("kind"), names.child("listKind"));
    if !kind.is_zero() && kind.text() == list_kind.text() {
        errors.push(list_kind.invalid("kind and listKind may not be the same"));
    }
    names.child("categories").items().for_each(|name| label(&name, errors));
}

fn simple_path(text: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let simple = text.starts_with('.');
    if !simple {
        errors.push(FieldError::invalid(path, text, "must be a simple json path starting with ."));
    }
    simple
}

fn subresources(subresources: &Field<'_>, errors: &mut Errors) {
    let scale = subresources.child("scale");
    if !scale.is_set() {
        return;
    }
    for (name, below) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
        let field = scale.child(name);
        if field.is_zero() {
            errors.push(field.missing(""));
        } else if simple_path(field.text(), &field.path, errors) && !field.text().starts_with(&format!("{below}.")) {
            errors.push(field.invalid(format!("should be a json path under {below}")));
        }
    }
    let field = scale.child("labelSelectorPath");
    let below = |text: &str| text.starts_with(".spec.") || text.starts_with(".status.");
    if !field.is_zero() && simple_path(field.text(), &field.path, errors) && !below(field.text()) {
        errors.push(field.invalid("should be a json path under either .spec or .status"));
    }
}

fn column(column: &Field<'_>, errors: &mut Errors) {
    column.child("name").required("", errors);
    let (type_, known) = (column.child("type"), format!("must be one of {}", COLUMN_TYPES.join(",")));
    if type_.is_zero() {
        errors.push(type_.missing(known));
    } else if !COLUMN_TYPES.contains(&type_.text()) {
        errors.push(type_.invalid(known));
    }
    let format = column.child("format");
    if !format.is_zero() && !COLUMN_FORMATS.contains(&format.text()) {
        errors.push(format.invalid(format!("must be one of {}", COLUMN_FORMATS.join(","))));
    }
    let (text, at) = (column.value.text("jsonPath"), column.path.child("JSONPath"));
    if text.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        simple_path(text, &at, errors);
    }
}

fn selectable(fields: &Field<'_>, schema: &Value, old: &Value, errors: &mut Errors) {
    if fields.is_zero() {
        return;
    }
    let Ok(schema) = Schema::parse(schema) else { return };
    let mut seen: Vec<String> = Vec::new();
    for field in fields.items() {
        let path = field.child("jsonPath");
        let text = path.text();
        if text.is_empty() {
            errors.push(path.missing(""));
            continue;
        }
        let found = match schema::at_path(&schema, text) {
            Ok(found) => found,
            Err(why) => {
                errors.push(path.invalid(format!("is an invalid path: {why}")));
                continue;
            }
        };
        if text.starts_with(".metadata") {
            errors.push(path.invalid("must not point to fields in metadata"));
        }
        if !matches!(found.type_.as_str(), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are \
                       allowed.";
            errors.push(path.invalid(why));
        }
        if seen.iter().any(|earlier| earlier == text) {
            errors.push(FieldError::duplicate(&path.path, text));
        } else {
            seen.push(text.to_owned());
        }
    }
    let unchanged = old.as_array().is_some_and(|old| old.len() > MAX_SELECTABLE) && same(fields.value, old);
    if seen.len() > MAX_SELECTABLE && !unchanged {
        errors.push(FieldError::too_many(&fields.path, seen.len(), MAX_SELECTABLE));
    }
}

/// How versions are converted; upstream's internal form has no `webhook` between.
fn conversion(conversion: &Field<'_>, options: &Options<'_>, errors: &mut Errors) {
    if !conversion.is_set() {
        return;
    }
    let strategy = conversion.child("strategy");
    match strategy.text() {
        "" => errors.push(strategy.missing("")),
        "None" | "Webhook" => {}
        other => errors.push(FieldError::not_supported(&strategy.path, other, &["None", "Webhook"])),
    }
    let webhook = conversion.value.field("webhook");
    let config = Field { value: webhook.field("clientConfig"), path: conversion.path.child("webhookClientConfig") };
    let reviews = Field {
        value: webhook.field("conversionReviewVersions"),
        path: conversion.path.child("conversionReviewVersions"),
    };
    if strategy.text() != "Webhook" {
        for field in [&config, &reviews] {
            if !field.is_zero() {
                errors.push(field.forbidden("should not be set when strategy is not set to Webhook"));
            }
        }
        return;
    }
    if config.is_set() {
        super::webhooks::client_config(&config, errors);
        let bundle = config.child("caBundle");
        if options.ca_bundle && !bundle.is_zero() && !is_ca_bundle(bundle.text()) {
            errors.push(bundle.invalid("unable to load root certificates: unable to parse bytes as PEM block"));
        }
    } else {
        errors.push(config.missing("required when strategy is set to Webhook"));
    }
    review_versions(&reviews, options, errors);
}

fn review_versions(list: &Field<'_>, options: &Options<'_>, errors: &mut Errors) {
    if list.is_zero() {
        errors.push(list.missing(""));
        return;
    }
    let mut seen: Vec<String> = Vec::new();
    let mut known = options.any_review_version;
    for version in list.items() {
        if seen.iter().any(|earlier| earlier == version.text()) {
            errors.push(version.invalid("duplicate version"));
            continue;
        }
        seen.push(version.text().to_owned());
        known |= matches!(version.text(), "v1" | "v1beta1");
        errors.extend(names::dns1035_label(version.text()).into_iter().map(|why| version.invalid(why)));
    }
    if !known {
        errors.push(list.invalid("must include at least one of v1, v1beta1"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition() -> Value {
        json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]},
            "status": {"storedVersions": ["v1"]}})
    }

    fn texts(definition: &Value) -> Vec<String> {
        create(definition).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_definition_passes() {
        assert_eq!(texts(&definition()), Vec::<String>::new());
    }

    #[test]
    fn names_versions_and_scope_are_judged() {
        let mut bad = definition();
        bad["metadata"]["name"] = json!("widget.example.com");
        bad["spec"]["scope"] = json!("Everywhere");
        bad["spec"]["names"]["listKind"] = json!("Widget");
        bad["spec"]["versions"][0]["storage"] = json!(false);
        let texts = texts(&bad);
        assert_eq!(texts.len(), 4, "{texts:?}");
        assert_eq!(
            texts[0],
            "metadata.name: Invalid value: \"widget.example.com\": must be spec.names.plural+\".\"+spec.group"
        );
        assert_eq!(
            texts[1],
            "spec.scope: Unsupported value: \"Everywhere\": supported values: \"Cluster\", \"Namespaced\""
        );
        assert!(texts[2].ends_with("must have exactly one version marked as storage version"));
        assert_eq!(texts[3], "spec.names.listKind: Invalid value: \"Widget\": kind and listKind may not be the same");
    }

    #[test]
    fn what_all_versions_share_is_reported_beside_them() {
        let mut bad = definition();
        bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"properties": {"a": {}}});
        bad["spec"]["versions"][0]["additionalPrinterColumns"] =
            json!([{"name": "A", "type": "string", "jsonPath": "a"}]);
        assert_eq!(
            texts(&bad),
            [
                "spec.validation.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields",
                "spec.validation.openAPIV3Schema.type: Required value: must not be empty at the root",
                "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"a\": must be a simple json path starting with .",
            ]
        );
    }

    #[test]
    fn selectable_fields_are_scalars_of_the_schema() {
        let mut bad = definition();
        bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"color": {"type": "string"}}}}});
        bad["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
        assert_eq!(texts(&bad), Vec::<String>::new());
        bad["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec"}, {"jsonPath": ".spec.size"}]);
        assert_eq!(texts(&bad).len(), 2);
    }

    #[test]
    fn established_names_are_immutable() {
        let mut old = definition();
        old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        let mut new = old.clone();
        new["spec"]["names"]["kind"] = json!("Gadget");
        let texts: Vec<String> = update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["spec.names.kind: Invalid value: \"Gadget\": field is immutable"]);
    }
}
