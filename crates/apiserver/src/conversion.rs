//! Conversion of custom resources between versions by a webhook. Start at [`Converters::convert`].
// upstream: apiextensions-apiserver pkg/apiserver/conversion/webhook_converter.go
use crate::admission::webhooks::client::Client;
use crate::registry::Registry;
use crate::value::Read;
use bytes::Bytes;
use parking_lot::Mutex;
use pintle_api::custom::Custom;
use pintle_api::field::go_quote;
use pintle_api::meta::ObjectExt;
use pintle_api::scheme::{Resource, split_api_version};
use pintle_api::status::{ApiError, Reason};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a webhook may take. upstream: the webhook client's timeout.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The clients of the webhooks that were called, by definition, with the form of the definition that they are for.
#[derive(Debug, Default)]
pub(crate) struct Converters(Mutex<HashMap<String, (String, Arc<Client>)>>);

/// The webhook's configuration, if `resource` is converted by one.
pub(crate) fn webhook(resource: &Resource) -> Option<(&Custom, &Value)> {
    let custom = resource.custom.as_deref()?;
    Some((custom, custom.webhook.as_ref()?))
}

impl Converters {
    /// `objects` in the version `wanted`; those that are in it already stay as they are.
    pub(crate) async fn convert(
        &self,
        registry: &Registry,
        resource: &Resource,
        wanted: &str,
        mut objects: Vec<Value>,
    ) -> Result<Vec<Value>, ApiError> {
        let Some((custom, webhook)) = webhook(resource) else { return Ok(objects) };
        let places: Vec<usize> = (0..objects.len()).filter(|i| objects[*i].api_version() != wanted).collect();
        let Some(first) = places.first() else { return Ok(objects) };
        let (group, version) = split_api_version(objects[*first].api_version());
        let about = format!("conversion webhook for {group}/{version}, Kind={}", resource.kind);
        let fail = |why: String| ApiError::new(500, Reason::Unknown, format!("{about} {why}"));
        let client = self.client(custom, webhook).map_err(|why| fail(format!("failed: {why}")))?;
        let review = webhook.texts("conversionReviewVersions").find(|version| matches!(*version, "v1" | "v1beta1"));
        let review = review.ok_or_else(|| fail("failed: no supported conversion review versions".to_owned()))?;
        let uid = uuid::Uuid::new_v4().hyphenated().to_string();
        let sent: Vec<&Value> = places.iter().map(|i| &objects[*i]).collect();
        let body = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{review}"),
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": sent},
        });
        let body = Bytes::from(body.to_string());
        let answer = client.post(&body, TIMEOUT, registry).await.map_err(|why| fail(format!("failed: {why}")))?;
        let converted = read(&answer, &uid, review).map_err(|why| fail(format!("failed: {why}")))?;
        if converted.len() != places.len() {
            let (got, expected) = (converted.len(), places.len());
            return Err(fail(format!("returned {got} objects, expected {expected}")));
        }
        for (at, (place, converted)) in places.into_iter().zip(converted).enumerate() {
            let converted = checked(&objects[place], converted, wanted)
                .map_err(|why| fail(format!("returned invalid converted object at index {at}: {why}")))?;
            objects[place] = converted;
            custom.settle(&mut objects[place]).map_err(ApiError::internal)?;
        }
        Ok(objects)
    }

    fn client(&self, custom: &Custom, webhook: &Value) -> Result<Arc<Client>, String> {
        let mut clients = self.0.lock();
        if let Some((fingerprint, client)) = clients.get(&custom.definition)
            && *fingerprint == custom.fingerprint
        {
            return Ok(client.clone());
        }
        let client = Arc::new(Client::of(webhook.field("clientConfig"))?);
        clients.insert(custom.definition.clone(), (custom.fingerprint.clone(), client.clone()));
        Ok(client)
    }
}

/// The converted objects of a webhook's answer.
fn read(answer: &[u8], uid: &str, review: &str) -> Result<Vec<Value>, String> {
    let mut answer: Value = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let expected = format!("apiextensions.k8s.io/{review}");
    if review == "v1" && (answer.kind() != "ConversionReview" || answer.api_version() != expected) {
        let got = format!("{}, Kind={}", answer.api_version(), answer.kind());
        return Err(format!("expected webhook response of {expected}, Kind=ConversionReview, got {got}"));
    }
    let response = answer.get_mut("response").filter(|response| response.is_object());
    let response = response.ok_or_else(|| "no response provided".to_owned())?;
    if review == "v1" && response.text("uid") != uid {
        return Err(format!("expected response.uid={}, got {}", go_quote(uid), go_quote(response.text("uid"))));
    }
    let result = response.field("result");
    if result.text("status") != "Success" {
        return Err(match result.text("message") {
            "" => format!("response.result.status was '{}', not 'Success'", result.text("status")),
            message => message.to_owned(),
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// A converted object with the metadata of the original, of which only labels and annotations may have changed.
fn checked(original: &Value, mut converted: Value, wanted: &str) -> Result<Value, String> {
    let (given, kind) = (converted.api_version(), converted.kind());
    if given != wanted {
        return Err(format!("invalid groupVersion (expected {wanted}, received {given})"));
    }
    if kind != original.kind() {
        return Err(format!("invalid kind (expected {}, received {kind})", original.kind()));
    }
    for (what, before, now) in [
        ("name", original.name(), converted.name()),
        ("namespace", original.namespace(), converted.namespace()),
        ("UID", original.uid(), converted.uid()),
    ] {
        if before != now {
            return Err(format!("must have the same {what}: {before} != {now}"));
        }
    }
    let Some(given) = converted.metadata().cloned() else {
        return Err("missing metadata in converted object".to_owned());
    };
    let mut metadata: Map<String, Value> = original.metadata().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match given.get(field) {
            None | Some(Value::Null) => drop(metadata.remove(field)),
            Some(value @ Value::Object(_)) => drop(metadata.insert(field.to_owned(), value.clone())),
            Some(_) => return Err(format!("invalid metadata.{field} in converted object")),
        }
    }
    converted["metadata"] = metadata.into();
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str) -> Value {
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Widget",
               "metadata": {"name": "w", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}}})
    }

    #[test]
    fn a_conversion_changes_labels_and_annotations_of_the_metadata_only() {
        let mut converted = object("v2");
        converted["metadata"] = json!({"name": "w", "uid": "u", "labels": {"c": "d"}, "finalizers": ["x"]});
        let checked = checked(&object("v1"), converted, "example.com/v2").unwrap();
        assert_eq!(checked["metadata"], json!({"name": "w", "uid": "u", "resourceVersion": "7", "labels": {"c": "d"}}));
    }

    #[test]
    fn a_wrong_answer_is_refused() {
        let mut renamed = object("v2");
        renamed["metadata"]["name"] = json!("other");
        let error = checked(&object("v1"), renamed, "example.com/v2").unwrap_err();
        assert_eq!(error, "must have the same name: w != other");
        let failed = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "response": {"uid": "1", "result": {"status": "Failed", "message": "no way"}}});
        assert_eq!(read(failed.to_string().as_bytes(), "1", "v1").unwrap_err(), "no way");
        assert!(read(failed.to_string().as_bytes(), "2", "v1").unwrap_err().starts_with("expected response.uid="));
    }
}
