//! The ReplicationController controller: [`crate::replicaset`] driven by the older kind.
use crate::replicaset::plan::{Spec, Status};
use crate::replicaset::{Replicated, nonzero};
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = "replication-controller";
    const COMPONENT: &'static str = "replication-controller";

    fn spec(&self) -> Option<Spec> {
        let spec = self.spec.clone()?;
        Some(Spec {
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
            template: spec.template.unwrap_or_default(),
        })
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: None,
            observed_generation: status.observed_generation,
            conditions: status.conditions.into_iter().flatten().map(Into::into).collect(),
        }
    }

    fn with_status(&self, status: Status) -> Self {
        let conditions: Vec<_> = status.conditions.into_iter().map(Into::into).collect();
        let mut updated = self.clone();
        updated.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: nonzero(status.fully_labeled),
            ready_replicas: nonzero(status.ready),
            available_replicas: nonzero(status.available),
            observed_generation: status.observed_generation,
            conditions: (!conditions.is_empty()).then_some(conditions),
        });
        updated
    }
}
