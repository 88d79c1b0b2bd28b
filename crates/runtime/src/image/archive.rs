//! Loading images from tar files: OCI layouts and docker-archives, with one or many images, plain or compressed.
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::reference::{InvalidReference, Reference};
use super::store::{self, ImageStore, Record};

/// Why an archive could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The archive.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is not an image archive.
    #[error("{0} is neither an OCI layout nor a docker-archive (it has no index.json and no manifest.json)")]
    NotAnImage(PathBuf),
    /// A part is missing.
    #[error("{path} has no {part}")]
    Missing {
        /// The archive.
        path: PathBuf,
        /// The file that is named but not there.
        part: String,
    },
    /// A document in it cannot be read.
    #[error("{path}: {part}: {source}")]
    Json {
        /// The archive.
        path: PathBuf,
        /// The document.
        part: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It holds no image for this machine.
    #[error("{0} holds no image for linux/{arch}", arch = architecture())]
    NoPlatform(PathBuf),
    /// A name in it is none.
    #[error(transparent)]
    Name(#[from] InvalidReference),
    /// The store could not take it.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// This machine's architecture as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An entry of a docker-archive's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// A reference to a document or a layer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its length.
    #[serde(default)]
    pub size: u64,
    /// For which machine it is.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// Notes.
    #[serde(default)]
    pub annotations: Option<HashMap<String, String>>,
}

/// A kind of machine.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Platform {
    /// E.g. `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// E.g. `linux`.
    #[serde(default)]
    pub os: String,
}

/// An index or a manifest.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Document {
    /// An index' manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// A manifest's configuration.
    #[serde(default)]
    pub config: Option<Descriptor>,
    /// A manifest's layers.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

/// Which of an index' manifests is for this machine.
pub fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture())
    };
    manifests.iter().find(fits).or_else(|| manifests.iter().find(|descriptor| descriptor.platform.is_none()))
}

struct Archive<'a> {
    path: &'a Path,
    file: File,
    /// Where the files' contents are.
    files: HashMap<String, (u64, u64)>,
    links: HashMap<String, String>,
}

/// Loads every image of the archive for this machine. Names in `names` are given to a single image without one.
pub fn load(store: &ImageStore, path: &Path, names: &[String]) -> Result<Vec<Arc<Record>>, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let file = plain(store, path).map_err(read)?;
    let mut archive = Archive::index(path, file).map_err(read)?;
    let extra = names.iter().map(|name| Reference::parse(name)).collect::<Result<Vec<_>, _>>()?;
    if archive.find("manifest.json").is_some() {
        archive.load_docker(store, &extra)
    } else if archive.find("index.json").is_some() {
        archive.load_oci(store, &extra)
    } else {
        Err(Error::NotAnImage(path.to_owned()))
    }
}

/// The archive without compression, as a file that can be read anywhere.
fn plain(store: &ImageStore, path: &Path) -> io::Result<File> {
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    (&mut file).take(4).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    let mut unpacked: Box<dyn Read> = match start.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::new(file))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(file)?),
        _ => return Ok(file),
    };
    let mut target = tempfile::tempfile_in(store.ingest_directory())?;
    io::copy(&mut unpacked, &mut target)?;
    target.seek(SeekFrom::Start(0))?;
    Ok(target)
}

impl<'a> Archive<'a> {
    fn index(path: &'a Path, file: File) -> io::Result<Self> {
        let mut files = HashMap::new();
        let mut links = HashMap::new();
        let mut tar = tar::Archive::new(io::BufReader::new(&file));
        for entry in tar.entries_with_seek()? {
            let entry = entry?;
            let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    files.insert(name, (entry.raw_file_position(), entry.size()));
                }
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    if let Some(target) = entry.link_name()? {
                        // Old docker-archives link equal layers: `../<id>/layer.tar`.
                        links.insert(name, target.to_string_lossy().trim_start_matches("../").to_owned());
                    }
                }
                _ => {}
            }
        }
        drop(tar);
        Ok(Self { path, file, files, links })
    }

    fn find(&self, name: &str) -> Option<(u64, u64)> {
        let name = self.links.get(name).map_or(name, String::as_str);
        self.files.get(name).copied()
    }

    fn open(&mut self, name: &str) -> Result<impl Read + '_, Error> {
        let (offset, size) =
            self.find(name).ok_or_else(|| Error::Missing { path: self.path.to_owned(), part: name.to_owned() })?;
        self.file.seek(SeekFrom::Start(offset)).map_err(|source| Error::Read { path: self.path.to_owned(), source })?;
        Ok(io::BufReader::with_capacity(1 << 17, (&self.file).take(size)))
    }

    fn bytes(&mut self, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.path.to_owned();
        let mut bytes = Vec::new();
        self.open(name)?.read_to_end(&mut bytes).map_err(|source| Error::Read { path, source })?;
        Ok(bytes)
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<T, Error> {
        let bytes = self.bytes(name)?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Json {
            path: self.path.to_owned(),
            part: name.to_owned(),
            source,
        })
    }

    /// A document of an OCI layout, whose digest has to be right.
    fn blob(&mut self, digest: &str) -> Result<Vec<u8>, Error> {
        let bytes = self.bytes(&blob_path(digest))?;
        let actual = super::digest::of(&bytes);
        if actual != digest {
            let expected = digest.to_owned();
            return Err(store::Error::Digest { what: "a document", expected, actual }.into());
        }
        Ok(bytes)
    }

    fn load_docker(&mut self, store: &ImageStore, extra: &[Reference]) -> Result<Vec<Arc<Record>>, Error> {
        let manifests: Vec<DockerManifest> = self.json("manifest.json")?;
        let single = manifests.len() == 1;
        let mut images = Vec::new();
        for manifest in manifests {
            let tags = manifest.repo_tags.unwrap_or_default();
            let mut names = tags.iter().map(|tag| Reference::parse(tag)).collect::<Result<Vec<_>, _>>()?;
            if single {
                names.extend(extra.iter().cloned());
            }
            let config = self.bytes(&manifest.config)?;
            let layers: Vec<(String, Option<String>)> =
                manifest.layers.into_iter().map(|layer| (layer, None)).collect();
            images.push(self.image(store, &config, &layers, &names, None)?);
        }
        Ok(images)
    }

    fn load_oci(&mut self, store: &ImageStore, extra: &[Reference]) -> Result<Vec<Arc<Record>>, Error> {
        let index: Document = self.json("index.json")?;
        let mut images = Vec::new();
        let named = |descriptor: &Descriptor| {
            let annotations = descriptor.annotations.as_ref()?;
            let full = annotations.get("io.containerd.image.name");
            full.or_else(|| annotations.get("org.opencontainers.image.ref.name")).cloned()
        };
        // Several manifests without different names are one image for several machines.
        let all: Vec<Descriptor> = match index.manifests.iter().filter_map(named).collect::<Vec<_>>().len() {
            0 => choose(&index.manifests).cloned().into_iter().collect(),
            _ => index.manifests,
        };
        let single = all.len() == 1;
        for descriptor in all {
            let Some((digest, document)) = self.manifest(&descriptor)? else { continue };
            let mut names = Vec::new();
            if let Some(name) = named(&descriptor) {
                names.push(Reference::parse(&name)?);
            }
            if single {
                names.extend(extra.iter().cloned());
            }
            let missing = || Error::Missing { path: self.path.to_owned(), part: "config".to_owned() };
            let config = document.config.ok_or_else(missing)?;
            let config = self.blob(&config.digest)?;
            let layers: Vec<(String, Option<String>)> =
                document.layers.iter().map(|layer| (blob_path(&layer.digest), Some(layer.digest.clone()))).collect();
            images.push(self.image(store, &config, &layers, &names, Some(&digest))?);
        }
        if images.is_empty() {
            return Err(Error::NoPlatform(self.path.to_owned()));
        }
        Ok(images)
    }

    /// The manifest for this machine behind a descriptor, through nested indexes, with the descriptor's digest.
    fn manifest(&mut self, descriptor: &Descriptor) -> Result<Option<(String, Document)>, Error> {
        let mut digest = descriptor.digest.clone();
        for _ in 0..4 {
            let bytes = self.blob(&digest)?;
            let document: Document = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
                path: self.path.to_owned(),
                part: digest.clone(),
                source,
            })?;
            if document.manifests.is_empty() {
                return Ok(Some((descriptor.digest.clone(), document)));
            }
            let Some(next) = choose(&document.manifests) else { return Ok(None) };
            digest.clone_from(&next.digest);
        }
        Ok(None)
    }

    fn image(
        &mut self,
        store: &ImageStore,
        config: &[u8],
        layers: &[(String, Option<String>)],
        names: &[Reference],
        manifest: Option<&str>,
    ) -> Result<Arc<Record>, Error> {
        let diff_ids = store::parse_config(config)?.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(store::Error::LayerCount(diff_ids.len(), layers.len()).into());
        }
        let mut staged = Vec::new();
        for ((layer, digest), diff_id) in layers.iter().zip(&diff_ids) {
            if store.reserve_layer(diff_id) {
                continue;
            }
            let reader = self.open(layer);
            match reader.and_then(|reader| Ok(store.stage_layer(reader, digest.as_deref(), diff_id)?)) {
                Ok(layer) => staged.push(layer),
                Err(error) => {
                    store.abandon(&diff_ids, staged);
                    return Err(error);
                }
            }
        }
        Ok(store.commit(config, names, manifest, staged)?)
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}
