//! Pulling from a registry that runs in the test.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pintle_runtime::cri::AuthConfig;
use pintle_runtime::image::pack::pack;
use pintle_runtime::image::pull::{Error, Registries, pull};
use pintle_runtime::image::store::{ImageStore, ProcessConfig};
use serde_json::{Value, json};

/// How a registry compresses a layer.
type PackLayer = fn(&[u8]) -> Vec<u8>;

#[derive(Default)]
struct Registry {
    blobs: HashMap<String, Vec<u8>>,
    /// The manifest that every tag means.
    manifest: Vec<u8>,
    /// What has to come in the Authorization header.
    authorization: Option<String>,
    /// Break the first transfer of a layer in the middle.
    breaks: AtomicBool,
    layers_served: AtomicUsize,
}

fn digest(bytes: &[u8]) -> String {
    pintle_runtime::image::digest::of(bytes)
}

impl Registry {
    /// A registry with one image of one file, in a layer packed by `pack_layer`, for this machine and another.
    fn new(directory: &Path, pack_layer: PackLayer) -> Self {
        let root = directory.join("image");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("file"), "content".repeat(10_000)).unwrap();
        let archive = directory.join("image.tar");
        pack(&root, "x:1", &ProcessConfig::default(), &archive).unwrap();
        let mut files = HashMap::new();
        for entry in tar::Archive::new(std::fs::File::open(archive).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().to_string_lossy().replace("blobs/sha256/", "sha256:"), content);
        }
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let mut manifest: Value =
            serde_json::from_slice(&files[index["manifests"][0]["digest"].as_str().unwrap()]).unwrap();
        let layer = pack_layer(&files[manifest["layers"][0]["digest"].as_str().unwrap()]);
        manifest["layers"][0] = json!({"mediaType": "x", "digest": digest(&layer), "size": layer.len()});
        files.insert(digest(&layer), layer);
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let entry = |architecture: &str, digest: String| json!({"mediaType": media_type, "digest": digest, "platform": {"architecture": architecture, "os": "linux"}});
        let ours = pintle_runtime::image::archive::architecture();
        let index = json!({"schemaVersion": 2, "manifests": [
            entry("other", digest(b"missing")), entry(ours, digest(&manifest)),
        ]});
        files.insert(digest(&manifest), manifest);
        let index = serde_json::to_vec(&index).unwrap();
        files.insert(digest(&index), index.clone());
        Self { blobs: files, manifest: index, ..Self::default() }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let respond = |status: StatusCode, body: &[u8]| {
            Response::builder().status(status).body(Full::new(Bytes::copy_from_slice(body))).unwrap()
        };
        if let Some(wanted) = &self.authorization
            && request.headers().get("authorization").and_then(|value| value.to_str().ok()) != Some(wanted)
        {
            let mut response =
                respond(StatusCode::UNAUTHORIZED, b"{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"no\"}]}");
            response.headers_mut().insert("www-authenticate", "Basic realm=\"test\"".parse().unwrap());
            return response;
        }
        let path = request.uri().path();
        let name = path.rsplit('/').next().unwrap();
        if path == "/v2/" {
            return respond(StatusCode::OK, b"{}");
        }
        if path.contains("/manifests/") {
            let body = match self.blobs.get(name) {
                Some(blob) => blob,
                None if name == "latest" => &self.manifest,
                None => {
                    return respond(
                        StatusCode::NOT_FOUND,
                        b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"no\"}]}",
                    );
                }
            };
            let mut response = respond(StatusCode::OK, body);
            response.headers_mut().insert("content-type", "application/vnd.oci.image.index.v1+json".parse().unwrap());
            response.headers_mut().insert("docker-content-digest", digest(body).parse().unwrap());
            return response;
        }
        let Some(blob) = self.blobs.get(name) else { return respond(StatusCode::NOT_FOUND, b"{}") };
        let range = request.headers().get("range").and_then(|range| range.to_str().ok());
        let start = range.and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok());
        if blob.len() > 1000 {
            self.layers_served.fetch_add(1, Ordering::Relaxed);
            if self.breaks.swap(false, Ordering::Relaxed) {
                return respond(StatusCode::OK, &blob[..blob.len() / 2]);
            }
        }
        match start {
            Some(start) => respond(StatusCode::PARTIAL_CONTENT, &blob[start..]),
            None => respond(StatusCode::OK, blob),
        }
    }

    /// Serves; returns the registry's address.
    async fn serve(self) -> (String, Arc<Self>) {
        rustls::crypto::ring::default_provider().install_default().ok();
        let registry = Arc::new(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = registry.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let registry = shared.clone();
                let service = service_fn(move |request| {
                    let registry = registry.clone();
                    async move { Ok::<_, Infallible>(registry.answer(&request)) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        (address, registry)
    }
}

fn store(directory: &Path) -> Arc<ImageStore> {
    Arc::new(ImageStore::open(&directory.join("store")).unwrap())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::read::GzEncoder::new(bytes, flate2::Compression::none());
    let mut packed = Vec::new();
    gzip.read_to_end(&mut packed).unwrap();
    packed
}

#[tokio::test]
async fn an_image_is_pulled_for_this_machine_whatever_its_compression() {
    let layers: [PackLayer; 3] = [<[u8]>::to_vec, gzip, |bytes| zstd::encode_all(bytes, 1).unwrap()];
    for pack_layer in layers {
        let directory = tempfile::tempdir().unwrap();
        let (address, registry) = Registry::new(directory.path(), pack_layer).serve().await;
        let store = store(directory.path());
        let name = format!("{address}/some/image");
        let image = pull(&store, &name, None, &Registries::default()).await.unwrap();
        let file = store.layers_directory().join(&store.lower(&image)[0]).join("file");
        assert_eq!(std::fs::read_to_string(file).unwrap().len(), 70_000);
        assert!(image.tags.contains(&format!("{name}:latest")));
        assert!(image.digests.contains(&format!("{name}@{}", digest(&registry.manifest))));

        // By its digest it is found, and the layer is not fetched again.
        let served = registry.layers_served.load(Ordering::Relaxed);
        pull(&store, image.digests.first().unwrap(), None, &Registries::default()).await.unwrap();
        assert_eq!(registry.layers_served.load(Ordering::Relaxed), served);
    }
}

#[tokio::test]
async fn a_broken_transfer_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Registry::new(directory.path(), <[u8]>::to_vec);
    registry.breaks = AtomicBool::new(true);
    let (address, registry) = registry.serve().await;
    pull(&store(directory.path()), &format!("{address}/image"), None, &Registries::default()).await.unwrap();
    assert_eq!(registry.layers_served.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_missing_image_is_not_found() {
    let directory = tempfile::tempdir().unwrap();
    let (address, _) = Registry::new(directory.path(), <[u8]>::to_vec).serve().await;
    let name = format!("{address}/image:missing");
    let error = pull(&store(directory.path()), &name, None, &Registries::default()).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(error.to_string(), format!("failed to resolve reference \"{name}\": {name}: not found"));
    let error = pull(&store(directory.path()), "127.0.0.1:1/image", None, &Registries::default()).await.unwrap_err();
    assert!(matches!(error, Error::Request(..)), "{error}");
}

#[tokio::test]
async fn credentials_are_asked_for_and_used() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Registry::new(directory.path(), <[u8]>::to_vec);
    registry.authorization = Some("Basic dXNlcjpwYXNz".to_owned());
    let (address, _) = registry.serve().await;
    let store = store(directory.path());
    let name = format!("{address}/image");
    let error = pull(&store, &name, None, &Registries::default()).await.unwrap_err();
    assert!(error.to_string().contains("pull access denied"), "{error}");
    let auth = AuthConfig { username: "user".to_owned(), password: "pass".to_owned(), ..Default::default() };
    pull(&store, &name, Some(&auth), &Registries::default()).await.unwrap();
}

#[tokio::test]
async fn a_layer_that_is_not_what_its_digest_says_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Registry::new(directory.path(), <[u8]>::to_vec);
    for blob in registry.blobs.values_mut().filter(|blob| blob.len() > 1000) {
        let middle = blob.len() / 2;
        blob[middle] ^= 1;
    }
    let (address, _) = registry.serve().await;
    let store = store(directory.path());
    assert!(pull(&store, &format!("{address}/image"), None, &Registries::default()).await.is_err());
    assert!(store.list().is_empty());
}

#[tokio::test]
async fn an_image_comes_from_the_mirror_of_its_registry_under_its_own_name() {
    let directory = tempfile::tempdir().unwrap();
    let (address, registry) = Registry::new(directory.path(), <[u8]>::to_vec).serve().await;
    let store = store(directory.path());
    let mirrors = |mirror: String| Registries {
        mirrors: [("registry.invalid".to_owned(), mirror)].into(),
        ..Registries::default()
    };
    let name = "registry.invalid/some/image:latest";
    let image = pull(&store, name, None, &mirrors(format!("http://{address}"))).await.unwrap();
    assert!(image.tags.contains(name) && registry.layers_served.load(Ordering::Relaxed) == 1);
    // Where the mirror does not answer, the registry is asked.
    let error = pull(&store, name, None, &mirrors("http://127.0.0.1:1".to_owned())).await.unwrap_err();
    assert!(error.to_string().contains("registry.invalid"), "{error}");
}
