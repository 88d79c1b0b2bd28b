//! Pulling images from registries.
//!
//! Every document and layer is checked against its digest. Layers that are here already are not fetched; the others come
//! in parallel, and a broken transfer goes on where it stopped.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, TryStreamExt};
use oci_client::client::{BlobResponse, Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::archive::{Descriptor, Document, choose};
use super::digest;
use super::reference::{InvalidReference, Reference};
use super::store::{self, ImageStore, Record, Staged};
use crate::cri::AuthConfig;

/// Layers that are fetched at a time.
const PARALLEL: usize = 3;
/// How often a layer's transfer is taken up again.
const ATTEMPTS: u32 = 5;
/// The longest document: manifest, index or configuration.
const MAX_DOCUMENT: u64 = 8 << 20;
/// A registry that says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Why an image could not be pulled. The texts are what users of containerd know.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] InvalidReference),
    /// The registry does not have it.
    #[error("failed to resolve reference \"{0}\": {0}: not found")]
    NotFound(String),
    /// The registry does not let us.
    #[error(
        "failed to resolve reference \"{0}\": pull access denied, repository does not exist or may require authorization: \
         {1}"
    )]
    Denied(String, String),
    /// The registry cannot be reached or is broken.
    #[error("failed to resolve reference \"{0}\": failed to do request: {1}")]
    Request(String, String),
    /// The image has no variant for this machine.
    #[error("no match for platform in manifest: not found")]
    NoPlatform,
    /// A document is not what its digest says, or too long.
    #[error("failed to read the image's documents: {0}")]
    Document(String),
    /// The store could not take it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The disk.
    #[error("failed to extract layer: {0}")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// Whether trying again with the same name is of no use now.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::NoPlatform)
    }
}

/// What the registry is shown.
fn credentials(auth: Option<&AuthConfig>, registry: &str) -> RegistryAuth {
    let Some(auth) = auth else { return RegistryAuth::Anonymous };
    // Credentials for another server are not for this one.
    let server = auth.server_address.trim_start_matches("https://").trim_start_matches("http://");
    let host = server.split('/').next().unwrap_or_default();
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    if !host.is_empty() && host != registry {
        return RegistryAuth::Anonymous;
    }
    if !auth.registry_token.is_empty() {
        return RegistryAuth::Bearer(auth.registry_token.clone());
    }
    if !auth.username.is_empty() {
        return RegistryAuth::Basic(auth.username.clone(), auth.password.clone());
    }
    let decoded = STANDARD.decode(auth.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()),
        None => RegistryAuth::Anonymous,
    }
}

/// Whether a registry is spoken to without TLS.
fn is_plain(registry: &str, insecure: &[String]) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        || insecure.iter().any(|known| known == registry)
}

/// The chain of an error's causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Those that are spoken to without TLS, `host:port`. Those on a loopback address always are.
    pub insecure: Vec<String>,
    /// Where the images of a registry are looked for first: its host name to the mirror's, `http://` in front of one without
    /// TLS.
    pub mirrors: BTreeMap<String, String>,
}

struct Pull<'a> {
    store: &'a Arc<ImageStore>,
    client: Client,
    auth: RegistryAuth,
    reference: Reference,
    mirror: Option<String>,
}

/// Pulls an image, from its registry's mirror if there is one that has it.
pub async fn pull(
    store: &Arc<ImageStore>,
    name: &str,
    auth: Option<&AuthConfig>,
    registries: &Registries,
) -> Result<Arc<Record>, Error> {
    let reference = Reference::parse(name)?;
    if let Some(mirror) = registries.mirrors.get(&reference.registry) {
        match pull_from(store, &reference, None, registries, Some(mirror)).await {
            Ok(record) => return Ok(record),
            Err(error) => tracing::warn!(image = name, mirror, %error, "not from the mirror, will ask the registry"),
        }
    }
    pull_from(store, &reference, auth, registries, None).await
}

async fn pull_from(
    store: &Arc<ImageStore>,
    reference: &Reference,
    auth: Option<&AuthConfig>,
    registries: &Registries,
    mirror: Option<&str>,
) -> Result<Arc<Record>, Error> {
    let host = mirror.map(|mirror| mirror.trim_start_matches("http://").trim_start_matches("https://"));
    let plain = mirror.is_some_and(|mirror| mirror.starts_with("http://"))
        || is_plain(host.unwrap_or(&reference.registry), &registries.insecure);
    let protocol = if plain { ClientProtocol::Http } else { ClientProtocol::Https };
    let config = ClientConfig {
        protocol,
        connect_timeout: Some(Duration::from_secs(30)),
        read_timeout: Some(SILENCE),
        user_agent: concat!("pintle/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    // One client for each pull: it keeps the credentials, which are this pod's alone.
    let client = Client::try_from(config).map_err(|error| Error::Request(reference.to_string(), chain(&error)))?;
    let auth = credentials(auth, &reference.registry);
    let mirror = host.map(|host| host.trim_end_matches('/').to_owned());
    Pull { store, client, auth, reference: reference.clone(), mirror }.run().await
}

impl Pull<'_> {
    fn image(&self, digest: Option<&str>) -> oci_client::Reference {
        let (registry, repository) = (self.reference.registry.clone(), self.reference.repository.clone());
        let mut image = match digest.or(self.reference.digest.as_deref()) {
            Some(digest) => oci_client::Reference::with_digest(registry, repository, digest.to_owned()),
            None => {
                let tag = self.reference.tag.clone().unwrap_or_else(|| "latest".to_owned());
                oci_client::Reference::with_tag(registry, repository, tag)
            }
        };
        if let Some(mirror) = &self.mirror {
            image.set_mirror_registry(mirror.clone());
        }
        image
    }

    fn failed(&self, error: OciDistributionError) -> Error {
        let name = self.reference.to_string();
        let denied = |text: String| Error::Denied(self.reference.to_string(), text);
        match error {
            OciDistributionError::ImageManifestNotFoundError(_) => Error::NotFound(name),
            OciDistributionError::ServerError { code: 404, .. } => Error::NotFound(name),
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                denied("authorization failed".to_owned())
            }
            OciDistributionError::ServerError { code: 401 | 403, message, .. } => denied(message),
            OciDistributionError::RegistryError { envelope, .. } => {
                let has = |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
                if has(&[OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound]) {
                    Error::NotFound(name)
                } else if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                    denied(envelope.to_string())
                } else {
                    Error::Request(name, envelope.to_string())
                }
            }
            other => Error::Request(name, chain(&other)),
        }
    }

    async fn run(self) -> Result<Arc<Record>, Error> {
        let (top, manifest) = self.manifest().await?;
        let config = manifest.config.ok_or_else(|| Error::Document("the manifest has no configuration".to_owned()))?;
        let config = self.document(&config).await?;
        let diff_ids = store::parse_config(&config)?.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(store::Error::LayerCount(diff_ids.len(), manifest.layers.len()).into());
        }
        let layers = manifest.layers.into_iter().zip(diff_ids.iter().cloned());
        let missing: Vec<(Descriptor, String)> =
            layers.filter(|(_, diff_id)| !self.store.reserve_layer(diff_id)).collect();
        let fetched = futures::stream::iter(missing)
            .map(|(layer, diff_id)| self.layer(layer, diff_id))
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<Staged>>()
            .await;
        let staged = match fetched {
            Ok(staged) => staged,
            Err(error) => {
                // What other layers have staged is removed when the store is opened next.
                self.store.abandon(&diff_ids, Vec::new());
                return Err(error);
            }
        };
        let (store, reference) = (self.store.clone(), self.reference.clone());
        let commit = tokio::task::spawn_blocking(move || store.commit(&config, &[reference], Some(&top), staged));
        Ok(commit.await.map_err(std::io::Error::other)??)
    }

    /// The manifest for this machine, with the digest that the reference means (that of the index, if it is one).
    async fn manifest(&self) -> Result<(String, Document), Error> {
        let mut digest = self.reference.digest.clone();
        let mut top = None;
        for _ in 0..3 {
            let image = self.image(digest.as_deref());
            let (bytes, _) = self
                .client
                .pull_manifest_raw(&image, &self.auth, &MANIFESTS)
                .await
                .map_err(|error| self.failed(error))?;
            let actual = digest::of(&bytes);
            if digest.as_ref().is_some_and(|expected| *expected != actual) {
                return Err(Error::Document(format!("the manifest's digest is {actual}, not {image}")));
            }
            let top = top.get_or_insert(actual).clone();
            let document: Document =
                serde_json::from_slice(&bytes).map_err(|error| Error::Document(error.to_string()))?;
            if document.manifests.is_empty() {
                return Ok((top, document));
            }
            digest = Some(choose(&document.manifests).ok_or(Error::NoPlatform)?.digest.clone());
        }
        Err(Error::Document("indexes are nested too deeply".to_owned()))
    }

    async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let blob = self
            .client
            .pull_blob_stream(&self.image(None), descriptor.digest.as_str())
            .await
            .map_err(|error| self.failed(error))?;
        let mut stream = blob.stream;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() as u64 > MAX_DOCUMENT {
                return Err(Error::Document(format!("{} is too long", descriptor.digest)));
            }
        }
        let actual = digest::of(&bytes);
        if actual != descriptor.digest {
            return Err(Error::Document(format!("{} has the digest {actual}", descriptor.digest)));
        }
        Ok(bytes)
    }

    async fn layer(&self, layer: Descriptor, diff_id: String) -> Result<Staged, Error> {
        let file = tempfile::tempfile_in(self.store.ingest_directory())?;
        let mut target = tokio::fs::File::from_std(file.try_clone()?);
        let mut attempt = 0;
        let mut have = 0;
        while let Err(error) = self.fetch(&layer, &mut target, &mut have).await {
            attempt += 1;
            if attempt == ATTEMPTS || !matches!(error, Error::Io(_) | Error::Request(..)) {
                return Err(error);
            }
            tracing::warn!(digest = layer.digest, have, %error, "fetching a layer again");
            tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
        }
        drop(target);
        let (store, digest) = (self.store.clone(), layer.digest);
        let unpack = tokio::task::spawn_blocking(move || {
            let mut file: File = file;
            file.seek(SeekFrom::Start(0))?;
            Ok::<Staged, Error>(store.stage_layer(std::io::BufReader::new(file), Some(&digest), &diff_id)?)
        });
        unpack.await.map_err(std::io::Error::other)?
    }

    /// Fetches what is missing of a layer. `have` counts the bytes that are there.
    async fn fetch(&self, layer: &Descriptor, target: &mut tokio::fs::File, have: &mut u64) -> Result<(), Error> {
        let image = self.image(None);
        let failed = |error| self.failed(error);
        let mut stream = if *have == 0 {
            self.client.pull_blob_stream(&image, layer.digest.as_str()).await.map_err(failed)?.stream
        } else {
            let response = self.client.pull_blob_stream_partial(&image, layer.digest.as_str(), *have, None).await;
            match response.map_err(failed)? {
                BlobResponse::Partial(blob) => blob.stream,
                BlobResponse::Full(blob) => {
                    target.set_len(0).await?;
                    target.seek(SeekFrom::Start(0)).await?;
                    *have = 0;
                    blob.stream
                }
            }
        };
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            target.write_all(&piece).await?;
            *have += piece.len() as u64;
            if layer.size > 0 && *have > layer.size {
                return Err(Error::Document(format!("layer {} is longer than {} bytes", layer.digest, layer.size)));
            }
        }
        target.flush().await?;
        if *have < layer.size {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_for_their_server_only() {
        let auth = AuthConfig { username: "u".to_owned(), password: "p".to_owned(), ..Default::default() };
        let basic = RegistryAuth::Basic("u".to_owned(), "p".to_owned());
        assert_eq!(credentials(Some(&auth), "r"), basic);
        let auth = AuthConfig { server_address: "https://index.docker.io/v1/".to_owned(), ..auth };
        assert_eq!(credentials(Some(&auth), "docker.io"), basic);
        assert_eq!(credentials(Some(&auth), "evil.example"), RegistryAuth::Anonymous);
        let auth = AuthConfig { auth: STANDARD.encode("u:p"), ..Default::default() };
        assert_eq!(credentials(Some(&auth), "r"), basic);
        assert_eq!(credentials(None, "r"), RegistryAuth::Anonymous);
    }

    #[test]
    fn only_loopback_and_named_registries_are_plain() {
        for plain in ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "localhost"] {
            assert!(is_plain(plain, &[]), "{plain}");
        }
        assert!(!is_plain("localhost.example.com", &[]));
        assert!(!is_plain("10.0.0.1:5000", &[]));
        assert!(is_plain("10.0.0.1:5000", &["10.0.0.1:5000".to_owned()]));
    }
}
