//! Which features and APIs are on, from the API server's settings. Start at [`enabled`].
use crate::cli::ApiServerOptions;
use anyhow::{Result, bail};
use pintle_api::features::FeatureGates;
use pintle_api::runtime_config::{self, RuntimeConfig};

/// What is on.
#[derive(Debug)]
pub struct Enabled {
    /// Features.
    pub gates: FeatureGates,
    /// APIs.
    pub apis: RuntimeConfig,
}

/// What `options` switch on and off.
pub fn enabled(options: &ApiServerOptions) -> Result<Enabled> {
    let gates = FeatureGates::parse(&options.feature_gates.join(","))?;
    let apis = RuntimeConfig::parse(&options.runtime_config.join(","))?;
    if options.enable_priority_and_fairness != Some(false)
        && let Some(key) = apis.without_flow_control()
    {
        bail!("--runtime-config={key}=false conflicts with --enable-priority-and-fairness=true");
    }
    for (feature, on) in gates.iter().filter(|(feature, on)| *on != feature.default) {
        if !runtime_config::is_gate(feature.name) && !feature.name.starts_with("All") {
            tracing::info!(feature = feature.name, on, "this feature gate changes nothing here");
        }
    }
    Ok(Enabled { gates, apis })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flow_control_needs_stays_on_unless_it_is_off() {
        let mut options = ApiServerOptions { runtime_config: vec!["api/ga=false".into()], ..<_>::default() };
        let error = enabled(&options).expect_err("a conflict").to_string();
        assert_eq!(error, "--runtime-config=api/ga=false conflicts with --enable-priority-and-fairness=true");
        options.enable_priority_and_fairness = Some(false);
        enabled(&options).expect("no conflict");
        options.feature_gates = vec!["AllBeta=true".into(), "Nope=true".into()];
        assert_eq!(enabled(&options).expect_err("unknown").to_string(), "unrecognized feature gate: Nope");
    }
}
