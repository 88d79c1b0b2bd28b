//! The order of versions, and the hash by which discovery tells the stored one.
use std::cmp::Ordering;

use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

/// `v1`, `v2beta3` as (stability, major, minor): higher is preferred.
fn parse(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let number = |digits: &str| if digits.starts_with('0') { None } else { digits.parse().ok() };
    let major = number(&rest[..end])?;
    let suffix = &rest[end..];
    if suffix.is_empty() {
        return Some((2, major, 0));
    }
    let (stability, minor) = match (suffix.strip_prefix("alpha"), suffix.strip_prefix("beta")) {
        (Some(minor), _) => (0, minor),
        (None, Some(minor)) => (1, minor),
        (None, None) => return None,
    };
    Some((stability, major, number(minor)?))
}

/// Which of two versions is preferred: the greater. Stable ones come before beta and alpha, other names last, in their order.
// upstream: apimachinery pkg/version, CompareKubeAwareVersionStrings
pub fn compare(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// How far a version has come: `ga`, `beta` or `alpha`; other names count as `ga`.
pub fn stage(version: &str) -> &'static str {
    match parse(version) {
        Some((0, ..)) => "alpha",
        Some((1, ..)) => "beta",
        _ => "ga",
    }
}

/// Discovery's hash of the version in which objects are stored.
// upstream: apiserver pkg/endpoints/discovery, StorageVersionHash
pub fn storage_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = Sha256::digest(format!("{group}/{version}/{kind}"));
    BASE64_STANDARD.encode(&digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_first() {
        let mut versions =
            ["foo10", "v1alpha1", "v11beta2", "v1", "v10", "v2", "foo1", "v3beta1", "v12alpha1", "v11alpha2"];
        versions.sort_by(|a, b| compare(b, a));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v11alpha2", "v1alpha1", "foo1", "foo10"]
        );
    }

    #[test]
    fn the_hash_is_upstreams() {
        assert_eq!(storage_hash("apps", "v1", "Deployment"), "8aSe+NMegvE=");
    }
}
