//! What configMap, secret, downwardAPI and projected volumes contain.
use super::atomic::{File, Payload};
use super::tokens::Tokens;
use crate::downward::{self, NodeFacts};
use crate::objects::{Error, Objects};
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, Volume, VolumeProjection,
};
use std::collections::BTreeMap;
use tokio::time::Instant;

const DEFAULT_MODE: i32 = 0o644;

/// Where content comes from.
pub struct Sources<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// ConfigMaps and Secrets.
    pub objects: &'a Objects,
    /// Service-account tokens.
    pub tokens: &'a Tokens,
    /// The node's facts.
    pub node: &'a NodeFacts,
}

type Data = BTreeMap<String, Vec<u8>>;

/// The content of `volume` and when it must be renewed.
pub async fn build(volume: &Volume, from: &Sources<'_>) -> Result<(Payload, Option<Instant>), String> {
    let mut payload = Payload::new();
    let mut renew = None;
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional == Some(true);
        config_map(from, &source.name, source.items.as_deref(), optional, mode, &mut payload).await?;
    } else if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let optional = source.optional == Some(true);
        secret(from, name, source.items.as_deref(), optional, mode, &mut payload).await?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        downward_api(from, source.items.as_deref().unwrap_or_default(), mode, &mut payload)?;
    } else if let Some(source) = &volume.projected {
        renew = projected(from, source, &mut payload).await?;
    }
    Ok((payload, renew))
}

async fn projected(
    from: &Sources<'_>,
    source: &ProjectedVolumeSource,
    payload: &mut Payload,
) -> Result<Option<Instant>, String> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let mut renew = None;
    for one in source.sources.iter().flatten() {
        let VolumeProjection { config_map: map, secret: sec, downward_api: down, service_account_token: token, .. } =
            one;
        if let Some(map) = map {
            config_map(from, &map.name, map.items.as_deref(), map.optional == Some(true), mode, payload).await?;
        } else if let Some(sec) = sec {
            secret(from, &sec.name, sec.items.as_deref(), sec.optional == Some(true), mode, payload).await?;
        } else if let Some(down) = down {
            downward_api(from, down.items.as_deref().unwrap_or_default(), mode, payload)?;
        } else if let Some(token) = token {
            let audience = token.audience.as_deref().unwrap_or_default();
            let seconds = token.expiration_seconds.unwrap_or(3600);
            let (text, at) = from.tokens.get(from.pod, audience, seconds).await?;
            renew = renew.iter().copied().chain([at]).min();
            let (mode, owner) = token_mode(from.pod, mode);
            payload.insert(token.path.clone(), File { data: text.into_bytes(), mode, owner });
        } else {
            return Err("unsupported projected volume source".to_owned());
        }
    }
    Ok(renew)
}

/// A token belongs to the user that all containers run as, when there is exactly one and no `fsGroup`.
// upstream: pkg/volume/projected, collectData
fn token_mode(pod: &Pod, default: i32) -> (u32, Option<u32>) {
    let context = pod.pod_spec().and_then(|spec| spec.security_context.as_ref());
    if context.is_some_and(|context| context.fs_group.is_some()) {
        return (0o600, None);
    }
    let all = pod.containers().iter().chain(pod.init_containers());
    let mut users = all.map(|container| crate::security::effective(pod, container).run_as_user);
    let first = users.next().flatten();
    match first.filter(|_| users.all(|user| user == first)).and_then(|user| u32::try_from(user).ok()) {
        Some(user) => (0o600, Some(user)),
        None => (mode_bits(default), None),
    }
}

fn mode_bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o7777
}

async fn config_map(
    from: &Sources<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    payload: &mut Payload,
) -> Result<(), String> {
    let data = match from.objects.config_map(from.pod.uid(), from.pod.namespace(), name).await {
        Ok(map) => config_map_data(&map),
        Err(Error::NotFound { .. }) if optional => Data::new(),
        Err(error) => return Err(error.to_string()),
    };
    select(&data, items, optional, mode, payload)
}

async fn secret(
    from: &Sources<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    payload: &mut Payload,
) -> Result<(), String> {
    let data = match from.objects.secret(from.pod.uid(), from.pod.namespace(), name).await {
        Ok(secret) => secret_data(&secret),
        Err(Error::NotFound { .. }) if optional => Data::new(),
        Err(error) => return Err(error.to_string()),
    };
    select(&data, items, optional, mode, payload)
}

fn config_map_data(map: &ConfigMap) -> Data {
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

fn secret_data(secret: &Secret) -> Data {
    secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

fn select(
    data: &Data,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    payload: &mut Payload,
) -> Result<(), String> {
    let items = items.unwrap_or_default();
    if items.is_empty() {
        let all = data
            .iter()
            .map(|(key, data)| (key.clone(), File { data: data.clone(), mode: mode_bits(mode), owner: None }));
        payload.extend(all);
        return Ok(());
    }
    for item in items {
        match data.get(&item.key) {
            Some(data) => {
                let mode = mode_bits(item.mode.unwrap_or(mode));
                payload.insert(item.path.clone(), File { data: data.clone(), mode, owner: None });
            }
            None if optional => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(())
}

fn downward_api(
    from: &Sources<'_>,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    payload: &mut Payload,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            downward::field(from.pod, &field.field_path, &[], from.node)
        } else if let Some(resource) = &item.resource_field_ref {
            let none = k8s_openapi::api::core::v1::Container::default();
            downward::resource(from.pod, &none, resource, from.node)
        } else {
            continue;
        };
        let data = text.map_err(|error| error.to_string())?.into_bytes();
        let mode = mode_bits(item.mode.unwrap_or(mode));
        payload.insert(item.path.clone(), File { data, mode, owner: None });
    }
    Ok(())
}
