//! What the annotations of an Ingress ask for.
use k8s_openapi::api::networking::v1::Ingress;
use std::time::Duration;

/// The prefix of the annotations.
const PREFIX: &str = "ingress.pintle.dev/";
/// How long a backend may take to begin its answer, as most proxies allow.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// How a route is served. What an annotation says wrongly is as if it were not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// `response-timeout`, in seconds: until the backend's answer begins.
    pub response_timeout: Duration,
    /// `max-body-size`, in bytes or with the suffix `k`, `m` or `g` (powers of 1024); none: bodies of any size.
    pub max_body_size: Option<u64>,
    /// `force-https`: plain requests are sent to HTTPS.
    pub force_https: bool,
    /// `tls-passthrough`: TLS of the rules' hosts ends in the backend; paths do not count.
    pub tls_passthrough: bool,
}

impl Options {
    /// Those of an Ingress.
    pub fn of(ingress: &Ingress) -> Self {
        let annotation = |name: &str| {
            let annotations = ingress.metadata.annotations.as_ref()?;
            annotations.get(&format!("{PREFIX}{name}")).map(String::as_str)
        };
        let timeout = annotation("response-timeout").and_then(|text| text.parse().ok()).filter(|s| *s > 0);
        Options {
            response_timeout: timeout.map_or(RESPONSE_TIMEOUT, Duration::from_secs),
            max_body_size: annotation("max-body-size").and_then(size),
            force_https: annotation("force-https") == Some("true"),
            tls_passthrough: annotation("tls-passthrough") == Some("true"),
        }
    }
}

fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['k', 'm', 'g']);
    let unit = match &text[digits.len()..] {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(pairs: &[(&str, &str)]) -> Options {
        let mut ingress = Ingress::default();
        let pairs = pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
        ingress.metadata.annotations = Some(pairs.collect());
        Options::of(&ingress)
    }

    #[test]
    fn annotations_are_read_and_wrong_ones_passed_over() {
        let options = annotated(&[("response-timeout", "5"), ("max-body-size", "2m"), ("force-https", "true")]);
        assert_eq!(options.response_timeout, Duration::from_secs(5));
        assert_eq!(options.max_body_size, Some(2 << 20));
        assert!(options.force_https && !options.tls_passthrough);
        let wrong = annotated(&[("response-timeout", "soon"), ("max-body-size", "2mk"), ("force-https", "yes")]);
        assert_eq!(wrong, annotated(&[]));
    }

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(
            (size("10"), size("1k"), size("1g"), size("k"), size("-1")),
            (Some(10), Some(1024), Some(1 << 30), None, None)
        );
    }
}
