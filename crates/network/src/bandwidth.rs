//! The bandwidth annotations of pods, as token buckets on both ends of their links.
//!
//! The bucket for what a pod sends is inside its namespace: a pod with `CAP_NET_ADMIN` could remove it.
use pintle_api::quantity::Quantity;
use std::collections::BTreeMap;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// upstream: pkg/util/bandwidth, `minRsrc` and `maxRsrc`
const RANGE: std::ops::RangeInclusive<i64> = 1_000..=1_000_000_000_000_000;

/// A pod's limits in bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// What the pod gets.
    pub ingress: Option<u64>,
    /// What it sends.
    pub egress: Option<u64>,
}

/// An annotation that cannot be honoured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("annotation {annotation}: {value:?} is not a bandwidth between 1k and 1P bits per second")]
pub struct Error {
    annotation: &'static str,
    value: String,
}

/// The limits that `annotations` ask for.
pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Limits, Error> {
    let limit = |annotation: &'static str| {
        let Some(value) = annotations.get(annotation) else { return Ok(None) };
        let bits = Quantity::parse(value).ok().map(Quantity::value).filter(|bits| RANGE.contains(bits));
        match bits.and_then(|bits| u64::try_from(bits).ok()) {
            Some(bits) => Ok(Some(bits)),
            None => Err(Error { annotation, value: value.clone() }),
        }
    };
    Ok(Limits { ingress: limit(INGRESS)?, egress: limit(EGRESS)? })
}

/// The kernel's parameters of a token bucket filter (`tc_tbf_qopt`) and its further attributes.
pub struct TokenBucket {
    /// Bytes per second.
    pub rate: u64,
    /// Bytes that may go at once: more than the largest segment that is handed to the link.
    pub burst: u32,
    /// Bytes that may wait.
    pub limit: u32,
}

impl TokenBucket {
    /// A bucket of `bits` per second, in which nothing waits longer than 25 ms.
    pub fn new(bits: u64) -> Self {
        let rate = bits.div_ceil(8);
        let burst = u32::try_from(rate / 100).unwrap_or(u32::MAX / 4).clamp(128 * 1024, u32::MAX / 4);
        let waiting = u32::try_from(rate / 40).unwrap_or(u32::MAX / 4).min(u32::MAX / 4);
        TokenBucket { rate, burst, limit: waiting + burst }
    }

    /// `tc_tbf_qopt`: two rates, limit, buffer, mtu.
    pub fn parameters(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(36);
        // cell_log, linklayer (Ethernet: no rate table), overhead, cell_align, mpu, rate in 32 bits.
        bytes.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend(u32::try_from(self.rate).unwrap_or(u32::MAX).to_ne_bytes());
        bytes.extend([0; 12]);
        bytes.extend(self.limit.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_quantities_in_upstreams_range() {
        let with = |value: &str| parse(&[(INGRESS.to_owned(), value.to_owned())].into());
        assert_eq!(with("10M").unwrap(), Limits { ingress: Some(10_000_000), egress: None });
        assert_eq!(parse(&BTreeMap::new()).unwrap(), Limits::default());
        for bad in ["999", "2P", "fast", "-1M", ""] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bucket_holds_a_whole_segment_at_any_rate() {
        for bits in [1_000, 1_000_000, 10_000_000_000, 1_000_000_000_000_000] {
            let bucket = TokenBucket::new(bits);
            assert!(bucket.burst >= 65_536 && bucket.limit > bucket.burst, "{bits}");
            assert_eq!(bucket.parameters().len(), 36);
        }
    }
}
