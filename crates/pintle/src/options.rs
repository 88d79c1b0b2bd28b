//! Settings: the config file under the flags.
use crate::cli::{ApiServerOptions, Options};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Map, Value};
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
    let api_server = merge_api_server(&flags.api_server, &file.api_server)?;
    Ok(Options { api_server, ..merge(flags, file) })
}

fn read(path: &Path) -> Result<Options> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the config file {}", path.display()))?;
    if text.trim().is_empty() {
        return Ok(Options::default());
    }
    parse(&text).with_context(|| format!("the config file {}", path.display()))
}

/// The settings in `text`. Those of the API server have a structure of their own.
pub fn parse(text: &str) -> Result<Options> {
    let known: Vec<String> = ApiServerOptions::augment_args(clap::Command::new(""))
        .get_arguments()
        .filter_map(|argument| argument.get_long().map(str::to_owned))
        .collect();
    let all: Map<String, Value> = serde_saphyr::from_str(text)?;
    let (api_server, others): (Map<_, _>, Map<_, _>) = all.into_iter().partition(|(key, _)| known.contains(key));
    let options: Options = serde_json::from_value(others.into())?;
    Ok(Options { api_server: serde_json::from_value(api_server.into())?, ..options })
}

/// `flags` over `file`.
fn merge_api_server(flags: &ApiServerOptions, file: &ApiServerOptions) -> Result<ApiServerOptions> {
    let (Value::Object(mut merged), Value::Object(flags)) = (serde_json::to_value(file)?, serde_json::to_value(flags)?)
    else {
        return Ok(file.clone());
    };
    merged.extend(flags);
    Ok(serde_json::from_value(merged.into())?)
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
        load_balancer: flags.load_balancer.or(file.load_balancer),
        ingress: flags.ingress.or(file.ingress),
        ingress_http_port: flags.ingress_http_port.or(file.ingress_http_port),
        ingress_https_port: flags.ingress_https_port.or(file.ingress_https_port),
        cluster_domain: flags.cluster_domain.or(file.cluster_domain),
        max_pods: flags.max_pods.or(file.max_pods),
        scheduler_config: flags.scheduler_config.or(file.scheduler_config),
        log_level: flags.log_level.or(file.log_level),
        log_format: flags.log_format.or(file.log_format),
        api_server: flags.api_server,
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
    fn settings_of_the_api_server_stand_among_the_others() {
        let file =
            parse("max-pods: 5\naudit-log-path: /a\naudit-log-maxage: 7\naudit-log-compress: true\n").expect("valid");
        assert_eq!((file.max_pods, file.api_server.audit_log_maxage), (Some(5), Some(7)));
        let flags = ApiServerOptions { audit_log_path: Some("/b".into()), ..ApiServerOptions::default() };
        let merged = merge_api_server(&flags, &file.api_server).expect("valid");
        assert_eq!(merged.audit_log_path.as_deref(), Some(Path::new("/b")));
        assert_eq!((merged.audit_log_maxage, merged.audit_log_compress), (Some(7), Some(true)));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let dir = std::env::temp_dir().join(format!("pintle-options-{}", std::process::id()));
        std::fs::write(&dir, "https_port: 1\n").expect("writable");
        let error = format!("{:#}", read(&dir).expect_err("unknown key"));
        std::fs::remove_file(&dir).expect("removable");
        assert!(error.contains("https_port"), "{error}");
    }
}
