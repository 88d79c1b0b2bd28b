//! The condition `Dangling` of FlowSchemas, told as upstream's server tells it. Start at [`run`].
// upstream: apiserver pkg/util/flowcontrol, presyncFlowSchemaStatus
use super::{FlowControl, GROUP};
use crate::ApiServer;
use crate::body::request_body;
use crate::patch::APPLY;
use crate::value::Read;
use http::Request;
use http::header::CONTENT_TYPE;
use parking_lot::Mutex;
use pintle_api::field::go_quote;
use pintle_api::user::UserInfo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tower::Service;

const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";

/// Whether the level that a schema names exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// It does not.
    pub dangling: bool,
    /// The level's name.
    pub level: String,
}

impl Condition {
    fn reason(&self) -> &'static str {
        if self.dangling { "NotFound" } else { "Found" }
    }

    fn status(&self) -> &'static str {
        if self.dangling { "True" } else { "False" }
    }

    fn message(&self) -> String {
        let end = if self.dangling { "but there is no such object" } else { "and it exists" };
        let level = go_quote(&self.level);
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level} {end}")
    }

    /// The condition that an object has, if it is one that this server would write.
    pub(super) fn of(object: &Value) -> Option<Self> {
        let level = object.field("spec").field("priorityLevelConfiguration").text("name").to_owned();
        let held = object.field("status").items("conditions").iter().find(|held| held.text("type") == "Dangling")?;
        let condition = Condition { dangling: held.text("status") == "True", level };
        let same = held.text("reason") == condition.reason() && held.text("message") == condition.message();
        same.then_some(condition)
    }

    fn to_value(&self) -> Value {
        json!({
            "type": "Dangling", "status": self.status(), "reason": self.reason(), "message": self.message(),
            "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        })
    }
}

/// Conditions that are still to be written.
#[derive(Debug, Default)]
pub struct Pending {
    conditions: Mutex<BTreeMap<String, Condition>>,
    changed: Notify,
}

impl Pending {
    pub(super) fn set(&self, conditions: Vec<(String, Condition)>) {
        let some = !conditions.is_empty();
        *self.conditions.lock() = conditions.into_iter().collect();
        if some {
            self.changed.notify_one();
        }
    }

    pub(super) fn take(&self) -> BTreeMap<String, Condition> {
        std::mem::take(&mut *self.conditions.lock())
    }
}

/// Writes conditions through `server` until `stop`.
pub(crate) async fn run(server: ApiServer, control: FlowControl, stop: CancellationToken) {
    let mut service = server.service(UserInfo::new("system:apiserver", &["system:masters"]));
    while tokio::select! { () = control.pending().changed.notified() => true, () = stop.cancelled() => false } {
        for (name, condition) in control.pending().take() {
            let object = json!({
                "apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema", "metadata": {"name": name},
                "status": {"conditions": [condition.to_value()]},
            });
            let uri = format!("/apis/{GROUP}/v1/flowschemas/{name}/status?fieldManager={MANAGER}&force=true");
            let request = Request::patch(uri).header(CONTENT_TYPE, APPLY).body(request_body(object.to_string()));
            let Ok(request) = request else { continue };
            let Ok(response) = service.call(request).await;
            // One that is gone, or changed meanwhile, comes again with its change.
            if !response.status().is_success() {
                tracing::debug!(name, status = %response.status(), "the condition of a FlowSchema was not written");
            }
        }
    }
}
