//! Which of Kubernetes' own kinds are on their way out, and what their users are told. Start at [`of`].
// upstream: zz_generated.prerelease-lifecycle.go and lifecycle.go of k8s.io/api, apiserver pkg/endpoints/deprecation
use pintle_api::scheme::Resource;

/// When a kind is, or will be, gone. Minor versions of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deprecation {
    since: u32,
    removed: Option<u32>,
    replacement: &'static str,
}

/// What is deprecated of `resource` in this version of Kubernetes.
pub(crate) fn of(resource: &Resource) -> Option<Deprecation> {
    if resource.custom.is_some() {
        return None;
    }
    let gone = |since, removed| Deprecation { since, removed: Some(removed), replacement: "" };
    Some(match (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) {
        ("", "v1", "componentstatuses") => Deprecation { since: 19, removed: None, replacement: "" },
        ("", "v1", "endpoints") => {
            Deprecation { since: 33, removed: None, replacement: "discovery.k8s.io/v1 EndpointSlice" }
        }
        ("storage.k8s.io", "v1beta1", _) => {
            Deprecation { replacement: "storage.k8s.io/v1 VolumeAttributesClass", ..gone(34, 37) }
        }
        ("certificates.k8s.io", "v1alpha1", _) | ("networking.k8s.io", "v1beta1", _) => gone(34, 37),
        ("admissionregistration.k8s.io", "v1alpha1", _)
        | ("coordination.k8s.io", "v1alpha2", _)
        | ("resource.k8s.io", "v1beta1", _) => gone(35, 38),
        // Newer than the rest of its version.
        ("resource.k8s.io", "v1beta2", "devicetaintrules") => return None,
        ("coordination.k8s.io", "v1beta1", _)
        | ("resource.k8s.io", "v1beta2", _)
        | ("resource.k8s.io", "v1alpha3", "devicetaintrules") => gone(36, 39),
        _ => return None,
    })
}

impl Deprecation {
    /// The warning for clients.
    pub(crate) fn warning(&self, resource: &Resource) -> String {
        let mut text = format!("{} {} is deprecated in v1.{}+", resource.api_version(), resource.kind, self.since);
        if let Some(removed) = self.removed {
            text.push_str(&format!(", unavailable in v1.{removed}+"));
        }
        if !self.replacement.is_empty() {
            text.push_str(&format!("; use {}", self.replacement));
        }
        text
    }

    /// The release without the kind; empty if none is known.
    pub(crate) fn removed_release(&self) -> String {
        self.removed.map(|minor| format!("1.{minor}")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_api::scheme::Scheme;

    fn told(group: &str, version: &str, plural: &str) -> Option<String> {
        let resource = Scheme::all().by_plural(group, version, plural).unwrap();
        of(resource).map(|deprecation| deprecation.warning(resource))
    }

    #[test]
    fn users_of_what_goes_away_are_told_when_and_what_follows() {
        assert_eq!(
            told("", "v1", "endpoints").as_deref(),
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        );
        assert_eq!(
            told("storage.k8s.io", "v1beta1", "volumeattributesclasses").as_deref(),
            Some(
                "storage.k8s.io/v1beta1 VolumeAttributesClass is deprecated in v1.34+, unavailable in v1.37+; use \
                 storage.k8s.io/v1 VolumeAttributesClass"
            )
        );
        assert_eq!(told("", "v1", "pods"), None);
        assert_eq!(told("resource.k8s.io", "v1beta2", "devicetaintrules"), None);
        assert_eq!(told("admissionregistration.k8s.io", "v1beta1", "mutatingadmissionpolicies"), None);
    }
}
