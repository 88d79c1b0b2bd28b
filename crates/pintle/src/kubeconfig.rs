//! The user's `~/.kube/config`: a cluster's context is added and removed only on request, everything else is kept.
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The name of a cluster's context, cluster and user in a merged kubeconfig.
pub fn context_name(node_name: &str, id: &str) -> String {
    format!("pintle-{node_name}-{id}")
}

/// Where kubectl looks: the first file of `$KUBECONFIG`, else `~/.kube/config` (of the user behind `sudo`).
pub fn user_file() -> Result<PathBuf> {
    if let Some(first) = std::env::var_os("KUBECONFIG").and_then(|list| std::env::split_paths(&list).next())
        && !first.as_os_str().is_empty()
    {
        return Ok(first);
    }
    let home = match std::env::var("SUDO_USER").ok().and_then(|name| nix::unistd::User::from_name(&name).ok().flatten())
    {
        Some(user) => user.dir,
        None => std::env::var_os("HOME").map(PathBuf::from).context("HOME is not set; name a file with KUBECONFIG")?,
    };
    Ok(home.join(".kube/config"))
}

/// `existing` (YAML, may be empty) with the cluster of `ours` added under `name` and made the current context.
pub fn merge(existing: &str, ours: &str, name: &str) -> Result<String> {
    let mut config = parse(existing)?;
    let ours = parse(ours)?;
    remove_entries(&mut config, name);
    for (list, field) in [("clusters", "cluster"), ("users", "user")] {
        let body = ours.get(list).and_then(|entries| entries.get(0)).and_then(|entry| entry.get(field)).cloned();
        let entry = json!({ "name": name, field: body.context("the cluster's kubeconfig is damaged")? });
        entries(&mut config, list).push(entry);
    }
    entries(&mut config, "contexts").push(json!({ "name": name, "context": { "cluster": name, "user": name } }));
    config.insert("current-context".into(), name.into());
    render(config)
}

/// `existing` without the entries called `name`; `None` if there are none.
pub fn remove(existing: &str, name: &str) -> Result<Option<String>> {
    let mut config = parse(existing)?;
    if !remove_entries(&mut config, name) {
        return Ok(None);
    }
    if config.get("current-context").and_then(Value::as_str) == Some(name) {
        config.insert("current-context".into(), "".into());
    }
    render(config).map(Some)
}

fn remove_entries(config: &mut Map<String, Value>, name: &str) -> bool {
    let mut found = false;
    for list in ["clusters", "users", "contexts"] {
        entries(config, list).retain(|entry| {
            let ours = entry.get("name").and_then(Value::as_str) == Some(name);
            found |= ours;
            !ours
        });
    }
    found
}

fn entries<'a>(config: &'a mut Map<String, Value>, list: &str) -> &'a mut Vec<Value> {
    let slot = config.entry(list).or_insert_with(|| json!([]));
    if !slot.is_array() {
        *slot = json!([]);
    }
    match slot {
        Value::Array(entries) => entries,
        _ => unreachable!("made an array above"),
    }
}

fn parse(text: &str) -> Result<Map<String, Value>> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("the kubeconfig is not valid YAML: {error}"))
}

fn render(mut config: Map<String, Value>) -> Result<String> {
    config.insert("apiVersion".into(), "v1".into());
    config.insert("kind".into(), "Config".into());
    serde_saphyr::to_string(&config).context("a kubeconfig is plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str =
        "clusters: [{name: x, cluster: {server: 'https://127.0.0.1:6443'}}]\nusers: [{name: x, user: {token: t}}]\n";

    #[test]
    fn merging_twice_and_removing_gives_the_file_back() {
        let before = "apiVersion: v1\nkind: Config\ncurrent-context: mine\nclusters: [{name: mine, cluster: {server: s}}]\n\
                      users: []\ncontexts: []\npreferences: {colors: true}\n";
        let once = merge(before, OURS, "pintle-a-1").expect("merged");
        let twice = merge(&once, OURS, "pintle-a-1").expect("merged");
        assert_eq!(once, twice);
        let merged = parse(&twice).expect("valid");
        assert_eq!(merged["current-context"], "pintle-a-1");
        assert_eq!(merged["clusters"].as_array().map(Vec::len), Some(2));
        assert_eq!(merged["preferences"]["colors"], true);
        let after = parse(&remove(&twice, "pintle-a-1").expect("valid").expect("found")).expect("valid");
        assert_eq!(after["clusters"], parse(before).expect("valid")["clusters"]);
        assert_eq!(remove(before, "pintle-a-1").expect("valid"), None);
    }
}
