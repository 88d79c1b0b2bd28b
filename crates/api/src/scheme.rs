//! The table of resources that the API serves: group, version, kind, names, verbs, subresources. Start at [`Scheme`].
mod table;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
};

use crate::{
    custom::{Custom, version},
    features::FeatureGates,
    runtime_config::RuntimeConfig,
};
pub use table::TableError;

/// A verb of the API, in the order in which discovery lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// POST on a collection, or on a subresource.
    Create,
    /// DELETE of one object.
    Delete,
    /// DELETE of a collection.
    DeleteCollection,
    /// GET of one object.
    Get,
    /// GET of a collection.
    List,
    /// PATCH of one object.
    Patch,
    /// PUT of one object.
    Update,
    /// GET of a collection with `watch=true`.
    Watch,
}

impl Verb {
    /// All verbs in discovery's order.
    pub const ALL: [Verb; 8] = [
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    /// The name in discovery and in RBAC rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// A set of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verbs(u8);

impl Verbs {
    /// All that a resource with ordinary storage offers.
    pub const STANDARD: Verbs = Verbs(0xff);

    /// Whether `verb` is in the set.
    pub fn contains(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u8) != 0
    }

    /// The set with `verb`.
    #[must_use]
    pub fn with(self, verb: Verb) -> Verbs {
        Verbs(self.0 | 1 << verb as u8)
    }

    /// The verbs in discovery's order.
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |v| self.contains(*v))
    }
}

/// A group and a plural resource name; displayed as upstream's `schema.GroupResource`: `deployments.apps`, `pods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupResource<'a> {
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The plural name.
    pub resource: &'a str,
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// A group and a kind; displayed as upstream's `schema.GroupKind`: `Deployment.apps`, `Pod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupKind<'a> {
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The kind.
    pub kind: &'a str,
}

impl fmt::Display for GroupKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// A subresource of a [`Resource`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The last path segment: `status`, `scale`, `log`, …
    pub name: String,
    /// The group of [`Subresource::kind`].
    pub group: String,
    /// The version of [`Subresource::kind`].
    pub version: String,
    /// The kind that the subresource takes and returns.
    pub kind: String,
    /// What may be done with it.
    pub verbs: Verbs,
}

/// One resource in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind of one object.
    pub kind: String,
    /// The kind of a list of them.
    pub list_kind: String,
    /// The plural name, the path segment.
    pub plural: String,
    /// The singular name.
    pub singular: String,
    /// What `kubectl` accepts as abbreviations.
    pub short_names: Vec<String>,
    /// Groupings such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What may be done with the resource.
    pub verbs: Verbs,
    /// The subresources, sorted by name.
    pub subresources: Vec<Subresource>,
    /// The group under which objects are stored; differs from [`Resource::group`] where two groups show the same
    /// objects (`events`).
    pub storage_group: String,
    /// The version in which objects are stored.
    pub storage_version: String,
    /// Discovery's opaque hash of the storage version; empty for resources that are not stored.
    pub storage_version_hash: String,
    /// What is particular to a custom resource; none for Kubernetes' own.
    pub custom: Option<Arc<Custom>>,
}

impl Resource {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// For error messages.
    pub fn group_resource(&self) -> GroupResource<'_> {
        GroupResource { group: &self.group, resource: &self.plural }
    }

    /// For error messages: where two groups show the same objects, refusals name the kind of the group that stores them.
    pub fn group_kind(&self) -> GroupKind<'_> {
        GroupKind { group: &self.storage_group, kind: &self.kind }
    }

    /// The subresource named `name`.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether the objects are kept in the store, as opposed to virtual resources such as reviews and bindings.
    pub fn is_stored(&self) -> bool {
        self.verbs.contains(Verb::Watch)
    }

    /// Where the objects are stored: `/registry/pods/`, `/registry/apps/deployments/`. Namespaced objects follow as
    /// `<namespace>/<name>`, others as `<name>`.
    pub fn storage_prefix(&self) -> String {
        if self.storage_group.is_empty() {
            format!("/registry/{}/", self.plural)
        } else {
            format!("/registry/{}/{}/", self.storage_group, self.plural)
        }
    }
}

/// `group/version`, or `version` alone in the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Splits an `apiVersion` into group and version.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// A group version that the server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupVersion {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
}

/// An immutable table of resources. Servers that add resources at run time (CRDs) build a new one with
/// [`Scheme::extended`] and swap it in.
#[derive(Clone, Debug, Default)]
pub struct Scheme {
    resources: Vec<Arc<Resource>>,
    /// Groups in discovery's order, each with its versions, the preferred one first.
    group_versions: Vec<GroupVersion>,
    /// group → version → plural → index; nested so that lookups need no allocation.
    by_plural: HashMap<String, HashMap<String, HashMap<String, usize>>>,
    by_kind: HashMap<String, HashMap<String, HashMap<String, usize>>>,
}

impl Scheme {
    /// The resources of Kubernetes itself that are served by default.
    pub fn builtin() -> Arc<Scheme> {
        static BUILTIN: LazyLock<Arc<Scheme>> =
            LazyLock::new(|| Arc::new(Scheme::all().filtered(&RuntimeConfig::default(), &FeatureGates::default())));
        BUILTIN.clone()
    }

    /// The resources of Kubernetes itself that can be served, alpha and beta ones included.
    pub fn all() -> &'static Scheme {
        static ALL: LazyLock<Scheme> = LazyLock::new(|| {
            let resources =
                table::parse(include_str!("../schema/v1_36_resources.tsv")).expect("a test parses the embedded table");
            Scheme::new(resources)
        });
        &ALL
    }

    /// The resources of Kubernetes itself that are served with these settings.
    pub fn served(config: &RuntimeConfig, gates: &FeatureGates) -> Arc<Scheme> {
        if *config == RuntimeConfig::default() {
            return Scheme::builtin();
        }
        Arc::new(Scheme::all().filtered(config, gates))
    }

    fn filtered(&self, config: &RuntimeConfig, gates: &FeatureGates) -> Scheme {
        let mut scheme = Scheme::default();
        self.resources.iter().filter(|r| config.serves(r, gates)).for_each(|r| scheme.add(r.clone()));
        scheme
    }

    /// A table of `resources`; groups and versions come in the order in which they appear first.
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Scheme {
        let mut scheme = Scheme::default();
        for r in resources {
            scheme.add(Arc::new(r));
        }
        scheme
    }

    /// This table with more resources; one that is already there (same group, version and plural) is replaced.
    #[must_use]
    pub fn extended(&self, resources: impl IntoIterator<Item = Resource>) -> Scheme {
        let mut scheme = self.clone();
        for r in resources {
            scheme.add(Arc::new(r));
        }
        scheme
    }

    /// This table with custom resources: their groups follow, by name, each with its preferred version first.
    #[must_use]
    pub fn with_custom(&self, resources: impl IntoIterator<Item = Arc<Resource>>) -> Scheme {
        let mut resources: Vec<Arc<Resource>> = resources.into_iter().collect();
        resources.sort_by(|a, b| {
            let versions = version::compare(&b.version, &a.version);
            a.group.cmp(&b.group).then(versions).then_with(|| a.plural.cmp(&b.plural))
        });
        let mut scheme = self.clone();
        resources.into_iter().for_each(|r| scheme.add(r));
        scheme
    }

    fn add(&mut self, r: Arc<Resource>) {
        if !self.group_versions.iter().any(|gv| gv.group == r.group && gv.version == r.version) {
            let last = self.group_versions.iter().rposition(|gv| gv.group == r.group);
            let at = last.map_or(self.group_versions.len(), |i| i + 1);
            self.group_versions.insert(at, GroupVersion { group: r.group.clone(), version: r.version.clone() });
        }
        let next = self.resources.len();
        let plurals = self.by_plural.entry(r.group.clone()).or_default().entry(r.version.clone()).or_default();
        let at = *plurals.entry(r.plural.clone()).or_insert(next);
        let kinds = self.by_kind.entry(r.group.clone()).or_default().entry(r.version.clone()).or_default();
        kinds.insert(r.kind.clone(), at);
        if at == next {
            self.resources.push(r);
        } else {
            self.resources[at] = r;
        }
    }

    /// All resources.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// The served group versions: groups in discovery's order, the preferred version of each first.
    pub fn group_versions(&self) -> &[GroupVersion] {
        &self.group_versions
    }

    /// The resources of one group version.
    pub fn resources_of<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.resources.iter().filter(move |r| r.group == group && r.version == version)
    }

    /// The resource at `/apis/<group>/<version>/…/<plural>`.
    pub fn by_plural(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.get(*self.by_plural.get(group)?.get(version)?.get(plural)?)
    }

    /// The resource whose objects are of this kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.get(*self.by_kind.get(group)?.get(version)?.get(kind)?)
    }

    /// The resource in its group's preferred version.
    pub fn preferred(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        let versions = self.group_versions.iter().filter(|gv| gv.group == group);
        versions.into_iter().find_map(|gv| self.by_plural(group, &gv.version, plural))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_table_has_every_stable_kind_of_upstream() {
        let scheme = Scheme::builtin();
        assert_eq!(scheme.resources().count(), 68);
        let deploy = scheme.by_plural("apps", "v1", "deployments").unwrap();
        assert_eq!((deploy.kind.as_str(), deploy.list_kind.as_str()), ("Deployment", "DeploymentList"));
        assert_eq!(deploy.short_names, ["deploy"]);
        assert_eq!(deploy.verbs, Verbs::STANDARD);
        assert_eq!(deploy.api_version(), "apps/v1");
        assert_eq!(deploy.group_resource().to_string(), "deployments.apps");
        let scale = deploy.subresource("scale").unwrap();
        assert_eq!((scale.group.as_str(), scale.version.as_str(), scale.kind.as_str()), ("autoscaling", "v1", "Scale"));
        assert!(Arc::ptr_eq(deploy, scheme.by_kind("apps", "v1", "Deployment").unwrap()));
        assert!(!scheme.by_kind("", "v1", "Binding").unwrap().is_stored());
        assert!(!scheme.by_kind("", "v1", "Namespace").unwrap().verbs.contains(Verb::DeleteCollection));
    }

    #[test]
    fn groups_and_versions_come_in_upstreams_order() {
        let scheme = Scheme::builtin();
        let names: Vec<String> = scheme.group_versions().iter().map(|gv| api_version(&gv.group, &gv.version)).collect();
        assert_eq!(names[..4], ["v1", "apiregistration.k8s.io/v1", "apps/v1", "events.k8s.io/v1"]);
        assert_eq!(scheme.preferred("autoscaling", "horizontalpodautoscalers").unwrap().version, "v2");
    }

    #[test]
    fn both_event_groups_share_one_place_in_the_store() {
        let scheme = Scheme::builtin();
        let core = scheme.by_plural("", "v1", "events").unwrap();
        let new = scheme.by_plural("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(core.storage_prefix(), "/registry/events/");
        assert_eq!(core.storage_prefix(), new.storage_prefix());
        let deploy = scheme.by_plural("apps", "v1", "deployments").unwrap();
        assert_eq!(deploy.storage_prefix(), "/registry/apps/deployments/");
    }

    #[test]
    fn a_custom_resource_can_be_added_and_replaced() {
        let custom = |plural: &str| Resource {
            group: "example.com".into(),
            version: "v1".into(),
            kind: "Widget".into(),
            plural: plural.into(),
            ..(**Scheme::builtin().by_kind("apps", "v1", "Deployment").unwrap()).clone()
        };
        let scheme = Scheme::builtin().extended([custom("widgets"), custom("widgets")]);
        assert_eq!(scheme.resources().count(), 69);
        assert!(scheme.by_kind("example.com", "v1", "Widget").is_some());
        assert_eq!(scheme.group_versions().last().unwrap().group, "example.com");
    }
}
