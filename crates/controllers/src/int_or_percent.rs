//! Numbers that may be given as a percentage: maxSurge, maxUnavailable, minAvailable.
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `value` of `total`; percentages round up or down, anything unreadable counts as 0.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).unwrap_or(0);
            let product = percent * i64::from(total);
            let whole = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let quarter = IntOrString::String("25%".to_owned());
        assert_eq!(scaled(Some(&quarter), 2, true), 1);
        assert_eq!(scaled(Some(&quarter), 2, false), 0);
        assert_eq!(scaled(Some(&IntOrString::Int(3)), 2, false), 3);
    }
}
