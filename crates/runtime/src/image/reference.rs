//! Image references, normalised as Docker does: `nginx` means `docker.io/library/nginx:latest`.
use std::fmt;

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name \"{0}\": invalid reference format")]
pub struct InvalidReference(pub String);

/// A normalised reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// The registry's host and port.
    pub registry: String,
    /// The repository's path in it.
    pub repository: String,
    /// The tag, if there is one.
    pub tag: Option<String>,
    /// The digest, if there is one: `sha256:…`.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a reference; without tag and digest it gets the tag `latest`.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let invalid = || InvalidReference(text.to_owned());
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(invalid());
        }
        let (name, tag) = match name.rfind(':').filter(|colon| !name[*colon..].contains('/')) {
            Some(colon) => (&name[..colon], Some(&name[colon + 1..])),
            None => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid());
        }
        // The first part is a host if it looks like one.
        let (registry, path) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" || host.to_lowercase() != host => {
                (host, rest.to_owned())
            }
            _ => ("docker.io", name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let repository = if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
        if !is_host(registry) || !repository.split('/').all(is_component) || repository.len() > 255 {
            return Err(invalid());
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest: digest.map(str::to_owned) })
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The reference by tag, as `crictl images` shows it.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// The reference by a digest.
    pub fn with_digest(&self, digest: &str) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether a text is a SHA-256 digest.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 128
        && word(bytes[0])
        && bytes.iter().all(|byte| word(*byte) || matches!(byte, b'.' | b'-'))
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let name = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).map_or_else(
        || !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')),
        |address| address.parse::<std::net::Ipv6Addr>().is_ok(),
    );
    name && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_component(text: &str) -> bool {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|byte| edge(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn short_names_are_on_docker_hub() {
        assert_eq!(normal("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(normal("bitnami/redis:7"), "docker.io/bitnami/redis:7");
        assert_eq!(normal("index.docker.io/library/a"), "docker.io/library/a:latest");
    }

    #[test]
    fn hosts_ports_tags_and_digests_are_told_apart() {
        assert_eq!(normal("localhost/a"), "localhost/a:latest");
        assert_eq!(normal("127.0.0.1:5000/a/b"), "127.0.0.1:5000/a/b:latest");
        assert_eq!(normal("registry.k8s.io/pause:3.10"), "registry.k8s.io/pause:3.10");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(normal(&format!("nginx@{digest}")), format!("docker.io/library/nginx@{digest}"));
        let both = Reference::parse(&format!("nginx:1@{digest}")).unwrap();
        assert_eq!((both.tag.as_deref(), both.digest.as_deref()), (Some("1"), Some(digest.as_str())));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "Nginx", "a b", "a:", "nginx@sha256:12", "a//b", "-a", "a:x/y:", "foo:bar:baz"] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            InvalidReference("INVALID".to_owned()).to_string(),
            "couldn't parse image name \"INVALID\": invalid reference format"
        );
    }
}
