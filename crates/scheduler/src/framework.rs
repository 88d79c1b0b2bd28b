//! What plugins see and say: [`Plugin`] names them, [`Rejection`] is their no, [`Objects`] what they may look up.
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use std::borrow::Cow;
use std::sync::Arc;

/// The highest score of a node by one plugin (upstream: `MaxNodeScore`).
pub const MAX_SCORE: i64 = 100;

/// Upstream's in-tree plugins, by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are upstream's")]
pub enum Plugin {
    SchedulingGates,
    PrioritySort,
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DefaultPreemption,
    NodeResourcesBalancedAllocation,
    ImageLocality,
    DefaultBinder,
    /// Not a plugin: an extender that is called over HTTP.
    Extender,
}

/// Every plugin in upstream's default order, with its weight as a score.
pub const DEFAULT_PLUGINS: [(Plugin, i64); 18] = [
    (Plugin::SchedulingGates, 0),
    (Plugin::PrioritySort, 0),
    (Plugin::NodeUnschedulable, 0),
    (Plugin::NodeName, 0),
    (Plugin::TaintToleration, 3),
    (Plugin::NodeAffinity, 2),
    (Plugin::NodePorts, 0),
    (Plugin::NodeResourcesFit, 1),
    (Plugin::VolumeRestrictions, 0),
    (Plugin::NodeVolumeLimits, 0),
    (Plugin::VolumeBinding, 0),
    (Plugin::VolumeZone, 0),
    (Plugin::PodTopologySpread, 2),
    (Plugin::InterPodAffinity, 2),
    (Plugin::DefaultPreemption, 0),
    (Plugin::NodeResourcesBalancedAllocation, 1),
    (Plugin::ImageLocality, 1),
    (Plugin::DefaultBinder, 0),
];

impl Plugin {
    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Plugin::SchedulingGates => "SchedulingGates",
            Plugin::PrioritySort => "PrioritySort",
            Plugin::NodeUnschedulable => "NodeUnschedulable",
            Plugin::NodeName => "NodeName",
            Plugin::TaintToleration => "TaintToleration",
            Plugin::NodeAffinity => "NodeAffinity",
            Plugin::NodePorts => "NodePorts",
            Plugin::NodeResourcesFit => "NodeResourcesFit",
            Plugin::VolumeRestrictions => "VolumeRestrictions",
            Plugin::NodeVolumeLimits => "NodeVolumeLimits",
            Plugin::VolumeBinding => "VolumeBinding",
            Plugin::VolumeZone => "VolumeZone",
            Plugin::PodTopologySpread => "PodTopologySpread",
            Plugin::InterPodAffinity => "InterPodAffinity",
            Plugin::DefaultPreemption => "DefaultPreemption",
            Plugin::NodeResourcesBalancedAllocation => "NodeResourcesBalancedAllocation",
            Plugin::ImageLocality => "ImageLocality",
            Plugin::DefaultBinder => "DefaultBinder",
            Plugin::Extender => "Extender",
        }
    }

    /// The plugin of that name.
    pub fn named(name: &str) -> Option<Self> {
        DEFAULT_PLUGINS.iter().map(|(plugin, _)| *plugin).find(|plugin| plugin.name() == name)
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A set of plugins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginSet(u32);

impl PluginSet {
    /// Adds a plugin.
    pub fn insert(&mut self, plugin: Plugin) {
        self.0 |= plugin.bit();
    }

    /// Whether the plugin is in the set.
    pub fn contains(self, plugin: Plugin) -> bool {
        self.0 & plugin.bit() != 0
    }

    /// Whether no plugin is.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The plugins of the set.
    pub fn iter(self) -> impl Iterator<Item = Plugin> {
        let all = DEFAULT_PLUGINS.iter().map(|(plugin, _)| *plugin).chain([Plugin::Extender]);
        all.filter(move |plugin| self.contains(*plugin))
    }
}

impl FromIterator<Plugin> for PluginSet {
    fn from_iter<I: IntoIterator<Item = Plugin>>(plugins: I) -> Self {
        let mut set = PluginSet::default();
        plugins.into_iter().for_each(|plugin| set.insert(plugin));
        set
    }
}

/// Upstream's words for why a pod cannot be on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reasons {
    /// One.
    One(Cow<'static, str>),
    /// Several.
    Many(Vec<Cow<'static, str>>),
}

impl Reasons {
    /// The reasons.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let all = match self {
            Reasons::One(one) => std::slice::from_ref(one),
            Reasons::Many(many) => many.as_slice(),
        };
        all.iter().map(|reason| &**reason)
    }
}

/// Why a pod cannot be on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The plugin that says so.
    pub plugin: Plugin,
    /// Upstream's words.
    pub reasons: Reasons,
    /// Whether removing pods from the node could help (upstream: `Unschedulable`, else `UnschedulableAndUnresolvable`).
    pub resolvable: bool,
}

impl Rejection {
    /// Removing pods could help.
    pub fn resolvable(plugin: Plugin, reason: impl Into<Cow<'static, str>>) -> Self {
        Rejection { plugin, reasons: Reasons::One(reason.into()), resolvable: true }
    }

    /// Nothing but a change of the node or the pod can help.
    pub fn final_(plugin: Plugin, reason: impl Into<Cow<'static, str>>) -> Self {
        Rejection { plugin, reasons: Reasons::One(reason.into()), resolvable: false }
    }
}

/// Scales scores so that the highest becomes [`MAX_SCORE`]; reversed, the highest becomes zero (upstream:
/// `DefaultNormalizeScore`).
pub fn normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max == 0 { 0 } else { MAX_SCORE * *score / max };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

/// Objects that plugins look up beside nodes and pods. Without an implementation nothing of the kind exists.
#[allow(unused_variables, reason = "the defaults know nothing")]
pub trait Objects: Send + Sync {
    /// A claim.
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        None
    }
    /// A volume.
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        None
    }
    /// The volumes of a class.
    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        Vec::new()
    }
    /// A storage class.
    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        None
    }
    /// What a node says of its CSI drivers.
    fn csi_node(&self, name: &str) -> Option<Arc<CSINode>> {
        None
    }
    /// A CSI driver.
    fn csi_driver(&self, name: &str) -> Option<Arc<CSIDriver>> {
        None
    }
    /// What CSI drivers say of their room.
    fn capacities(&self) -> Vec<Arc<CSIStorageCapacity>> {
        Vec::new()
    }
    /// The volumes being or to be attached to a node.
    fn attachments(&self, node: &str) -> Vec<Arc<VolumeAttachment>> {
        Vec::new()
    }
    /// The services of a namespace.
    fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        Vec::new()
    }
    /// A ReplicaSet.
    fn replica_set(&self, namespace: &str, name: &str) -> Option<Arc<ReplicaSet>> {
        None
    }
    /// A ReplicationController.
    fn replication_controller(&self, namespace: &str, name: &str) -> Option<Arc<ReplicationController>> {
        None
    }
    /// A StatefulSet.
    fn stateful_set(&self, namespace: &str, name: &str) -> Option<Arc<StatefulSet>> {
        None
    }
    /// The disruption budgets of a namespace.
    fn budgets(&self, namespace: &str) -> Vec<Arc<PodDisruptionBudget>> {
        Vec::new()
    }
    /// The claim for which a decision has taken the volume, as `namespace/name`, while the API does not say so yet.
    fn assumed_for(&self, volume: &str) -> Option<String> {
        None
    }
    /// The node that a decision has chosen for the claim, while the API does not say so yet.
    fn assumed_node(&self, namespace: &str, claim: &str) -> Option<String> {
        None
    }
}

/// A world without such objects.
#[derive(Debug, Default)]
pub struct NoObjects;

impl Objects for NoObjects {}
