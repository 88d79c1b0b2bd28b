//! Settings: the config file under the flags.
use crate::cli::Options;
use anyhow::{Context, Result};
use std::path::Path;

/// Where settings are looked for when no file is named.
const DEFAULT_FILE: &str = "/etc/pintle/config.yaml";

/// The settings of the config file, overridden by what was given as flags.
pub fn resolve(flags: Options) -> Result<Options> {
    let file = match &flags.config {
        Some(path) => read(path)?,
        None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
        None => Options::default(),
    };
    Ok(merge(flags, file))
}

fn read(path: &Path) -> Result<Options> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the config file {}", path.display()))?;
    if text.trim().is_empty() {
        return Ok(Options::default());
    }
    serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("the config file {}: {error}", path.display()))
}

fn merge(flags: Options, file: Options) -> Options {
    fn list(flag: Vec<String>, file: Vec<String>) -> Vec<String> {
        if flag.is_empty() { file } else { flag }
    }
    Options {
        config: flags.config,
        kubeconfig: flags.kubeconfig.or(file.kubeconfig),
        merge_kubeconfig: flags.merge_kubeconfig || file.merge_kubeconfig,
        node_name: flags.node_name.or(file.node_name),
        node_ip: flags.node_ip.or(file.node_ip),
        node_labels: list(flags.node_labels, file.node_labels),
        registry_mirrors: list(flags.registry_mirrors, file.registry_mirrors),
        https_port: flags.https_port.or(file.https_port),
        bind_address: flags.bind_address.or(file.bind_address),
        kubelet_port: flags.kubelet_port.or(file.kubelet_port),
        tls_san: list(flags.tls_san, file.tls_san),
        cluster_cidr: flags.cluster_cidr.or(file.cluster_cidr),
        service_cidr: flags.service_cidr.or(file.service_cidr),
        nodes: flags.nodes.or(file.nodes),
        network_mode: flags.network_mode.or(file.network_mode),
        cluster_domain: flags.cluster_domain.or(file.cluster_domain),
        max_pods: flags.max_pods.or(file.max_pods),
        scheduler_config: flags.scheduler_config.or(file.scheduler_config),
        log_level: flags.log_level.or(file.log_level),
        log_format: flags.log_format.or(file.log_format),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = serde_saphyr::from_str("node-name: file\nhttps-port: 7000\ntls-san: [a, b]\n").expect("valid");
        let flags = Options { node_name: Some("flag".into()), ..Options::default() };
        let merged = merge(flags, file);
        assert_eq!(merged.node_name.as_deref(), Some("flag"));
        assert_eq!(merged.https_port, Some(7000));
        assert_eq!(merged.tls_san, ["a", "b"]);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let dir = std::env::temp_dir().join(format!("pintle-options-{}", std::process::id()));
        std::fs::write(&dir, "https_port: 1\n").expect("writable");
        let error = read(&dir).expect_err("unknown key").to_string();
        std::fs::remove_file(&dir).expect("removable");
        assert!(error.contains("https_port"), "{error}");
    }
}
