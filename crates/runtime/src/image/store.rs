//! The images of a node: records by image id, and layers unpacked once into directories that all containers share.
//!
//! On disk, below `root`: `images/<id>.json` (a [`Record`]), `layers/<number>/{digest,fs/}`, `ingest/` (unfinished work,
//! emptied at the next start), `empty/` (the lower layer of an image without layers). Everything arrives by rename, after the file system was told to write it out.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

mod share;

use super::reference::Reference;
use super::{digest, layer};

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the store failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A layer could not be unpacked.
    #[error(transparent)]
    Layer(#[from] layer::Error),
    /// Content is not what its digest says.
    #[error("unexpected digest of {what}: expected {expected}, got {actual}")]
    Digest {
        /// What was read.
        what: &'static str,
        /// The digest it should have.
        expected: String,
        /// The digest it has.
        actual: String,
    },
    /// A record or configuration cannot be read.
    #[error("{what}: {source}")]
    Json {
        /// What was read.
        what: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The configuration and the layers do not belong together.
    #[error("the image's configuration lists {0} layers, its manifest {1}")]
    LayerCount(usize, usize),
    /// The compression is not known.
    #[error("a layer's compression is not supported: {0}")]
    Compression(io::Error),
    /// Another process has the store open.
    #[error("the images in {0} are in use by a running node")]
    Locked(PathBuf),
    /// A container uses the image.
    #[error("image {0} is in use")]
    InUse(String),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// The part of an image configuration that says how to run it. Absent and `null` are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProcessConfig {
    /// `user[:group]`, by name or number.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What every command line starts with.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The default arguments.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Where the process starts.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// The signal that asks the process to end.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Directories that get a volume of their own.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Notes.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Ports like `80/tcp`, as a note to people.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The layers of an image configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// An image configuration (OCI image specification, `application/vnd.oci.image.config.v1+json`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Config {
    /// E.g. `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// E.g. `linux`.
    #[serde(default)]
    pub os: String,
    /// How to run it.
    #[serde(default, deserialize_with = "or_default")]
    pub config: ProcessConfig,
    /// Its layers.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// An image that is present.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// The digest of its configuration: `sha256:…`.
    pub id: String,
    /// Its normalised tags.
    pub tags: BTreeSet<String>,
    /// Its references by manifest digest.
    pub digests: BTreeSet<String>,
    /// Its configuration, as it was read.
    pub config: Config,
    /// Bytes: the unpacked layers.
    pub size: u64,
    /// Not to be removed by garbage collection.
    #[serde(default)]
    pub pinned: bool,
}

#[derive(Clone, Debug)]
struct Layer {
    number: u64,
    size: u64,
    entries: u64,
}

#[derive(Debug, Default)]
struct Index {
    images: BTreeMap<String, Arc<Record>>,
    layers: HashMap<String, Layer>,
    next: u64,
    /// Layers that an image being made will use.
    reserved: Vec<String>,
}

/// The images of a node.
#[derive(Debug)]
pub struct ImageStore {
    root: PathBuf,
    index: Mutex<Index>,
    /// One writer of records at a time.
    writing: Mutex<()>,
    /// Keeps other processes away.
    _lock: nix::fcntl::Flock<File>,
}

/// A layer that was unpacked but does not belong to the store yet.
#[derive(Debug)]
pub struct Staged {
    diff_id: String,
    size: u64,
    entries: u64,
    directory: PathBuf,
}

impl ImageStore {
    /// Opens the store, dropping what an interrupted run left unfinished.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let path = root.join("images.lock");
        fs::create_dir_all(root).map_err(at(root))?;
        let file = File::create(&path).map_err(at(&path))?;
        let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock)
            .map_err(|_| Error::Locked(root.to_owned()))?;
        for name in ["images", "layers", "ingest", "empty"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        let ingest = root.join("ingest");
        for entry in fs::read_dir(&ingest).map_err(at(&ingest))?.flatten() {
            remove(&entry.path())?;
        }
        let mut index = Index::default();
        let layers = root.join("layers");
        for entry in fs::read_dir(&layers).map_err(at(&layers))?.flatten() {
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok()) else { continue };
            index.next = index.next.max(number + 1);
            let text = fs::read_to_string(entry.path().join("digest")).unwrap_or_default();
            let mut words = text.split_whitespace();
            let digest = words.next();
            let mut number_of = || words.next().and_then(|word| word.parse::<u64>().ok());
            match (digest, number_of(), number_of()) {
                (Some(digest), Some(size), Some(entries)) => {
                    index.layers.insert(digest.to_owned(), Layer { number, size, entries });
                }
                _ => remove(&entry.path())?,
            }
        }
        let images = root.join("images");
        for entry in fs::read_dir(&images).map_err(at(&images))?.flatten() {
            let path = entry.path();
            let text = fs::read(&path).map_err(at(&path))?;
            match serde_json::from_slice::<Record>(&text) {
                Ok(record) if record.config.rootfs.diff_ids.iter().all(|id| index.layers.contains_key(id)) => {
                    index.images.insert(record.id.clone(), Arc::new(record));
                }
                // Unfinished or damaged: the image is not there and will be pulled or loaded again.
                _ => remove(&path)?,
            }
        }
        Ok(Self { root: root.to_owned(), index: Mutex::new(index), writing: Mutex::new(()), _lock: lock })
    }

    /// The directory of the layers, to which [`Self::lower`] is relative.
    pub fn layers_directory(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// A directory for unfinished work, on the same file system as the rest.
    pub fn ingest_directory(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// All images.
    pub fn list(&self) -> Vec<Arc<Record>> {
        self.index.lock().images.values().cloned().collect()
    }

    /// Bytes and files of all layers.
    pub fn usage(&self) -> (u64, u64) {
        self.index.lock().layers.values().fold((0, 0), |sum, layer| (sum.0 + layer.size, sum.1 + layer.entries))
    }

    /// The image with an id, a unique beginning of one, a tag or a digest reference.
    pub fn find(&self, name: &str) -> Option<Arc<Record>> {
        let index = self.index.lock();
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if let Some(record) = index.images.get(&format!("sha256:{hex}")) {
            return Some(record.clone());
        }
        if let Ok(reference) = Reference::parse(name) {
            let wanted = reference.digest.as_ref().map(|digest| reference.with_digest(digest));
            let tag = reference.tagged();
            let by_name = index.images.values().find(|record| match &wanted {
                Some(wanted) => record.digests.contains(wanted),
                None => tag.as_ref().is_some_and(|tag| record.tags.contains(tag)),
            });
            if by_name.is_some() {
                return by_name.cloned();
            }
        }
        if hex.len() < 8 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let beginning = format!("sha256:{hex}");
        let mut matching = index.images.values().filter(|record| record.id.starts_with(&beginning));
        matching.next().filter(|_| matching.next().is_none()).cloned()
    }

    /// The layers of an image, uppermost first, relative to [`Self::layers_directory`].
    pub fn lower(&self, record: &Record) -> Vec<String> {
        let index = self.index.lock();
        let lower: Vec<String> = record
            .config
            .rootfs
            .diff_ids
            .iter()
            .rev()
            .filter_map(|id| index.layers.get(id))
            .map(|layer| format!("{}/fs", layer.number))
            .collect();
        lower
    }

    /// Whether a layer is unpacked already. It is kept until [`Self::commit`] or [`Self::abandon`] names it.
    pub fn reserve_layer(&self, diff_id: &str) -> bool {
        let mut index = self.index.lock();
        index.reserved.push(diff_id.to_owned());
        index.layers.contains_key(diff_id)
    }

    /// Unpacks one layer. `digest` is that of the bytes as they come, if known; `diff_id` that of the tar inside.
    pub fn stage_layer(&self, reader: impl Read, digest: Option<&str>, diff_id: &str) -> Result<Staged, Error> {
        let ingest = self.ingest_directory();
        let directory = tempfile::Builder::new().prefix("layer-").tempdir_in(&ingest).map_err(at(&ingest))?;
        let contents = directory.path().join("fs");
        fs::create_dir(&contents).map_err(at(&contents))?;
        let mut packed = digest::Hashing::new(reader);
        let mut start = [0; 4];
        let read = read_up_to(&mut packed, &mut start).map_err(layer::Error::from)?;
        let whole = (&start[..read]).chain(&mut packed);
        let plain: Box<dyn Read + '_> = match start {
            [0x1f, 0x8b, ..] => {
                Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(1 << 17, whole)))
            }
            [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(whole).map_err(Error::Compression)?),
            _ => Box::new(whole),
        };
        let mut plain = digest::Hashing::new(plain);
        let unpacked = layer::unpack(&mut plain, &contents)?;
        let check = |what, expected: &str, actual: String| {
            if expected == actual { Ok(()) } else { Err(Error::Digest { what, expected: expected.to_owned(), actual }) }
        };
        check("an unpacked layer", diff_id, plain.finish().map_err(layer::Error::from)?.0)?;
        let (actual, _) = packed.finish().map_err(layer::Error::from)?;
        if let Some(expected) = digest {
            check("a layer", expected, actual)?;
        }
        // Makes the directory a layer, see `open`.
        let note = directory.path().join("digest");
        fs::write(&note, format!("{diff_id} {} {}\n", unpacked.size, unpacked.entries)).map_err(at(&note))?;
        let (size, entries) = (unpacked.size, unpacked.entries);
        Ok(Staged { diff_id: diff_id.to_owned(), size, entries, directory: directory.keep() })
    }

    /// Makes an image of its configuration and the layers that were not there yet.
    pub fn commit(
        &self,
        config_text: &[u8],
        names: &[Reference],
        manifest_digest: Option<&str>,
        staged: Vec<Staged>,
    ) -> Result<Arc<Record>, Error> {
        let mut record =
            Record { id: digest::of(config_text), config: parse_config(config_text)?, ..Record::default() };
        record.size = config_text.len() as u64;
        record.tags.extend(names.iter().filter_map(Reference::tagged));
        if let Some(digest) = manifest_digest {
            record.digests.extend(names.iter().map(|name| name.with_digest(digest)));
        }
        self.commit_record(record, staged)
    }

    /// Makes an image of `record`, whose size is without the layers, and the layers that were not there yet.
    fn commit_record(&self, mut record: Record, staged: Vec<Staged>) -> Result<Arc<Record>, Error> {
        let ingest = File::open(self.ingest_directory()).map_err(at(&self.root))?;
        // SAFETY: plain system call on an open descriptor.
        if !staged.is_empty() && unsafe { libc::syncfs(ingest.as_raw_fd()) } < 0 {
            return Err(at(&self.root)(io::Error::last_os_error()));
        }
        let writing = self.writing.lock();
        for layer in staged {
            self.adopt(layer)?;
        }
        let id = record.id.clone();
        {
            let mut index = self.index.lock();
            if let Some(known) = index.images.get(&id) {
                record.tags.extend(known.tags.iter().cloned());
                record.digests.extend(known.digests.iter().cloned());
            }
            record.size +=
                record.config.rootfs.diff_ids.iter().filter_map(|id| index.layers.get(id)).map(|l| l.size).sum::<u64>();
            index.reserved.retain(|reserved| !record.config.rootfs.diff_ids.contains(reserved));
        }
        // A tag points to one image: take it from the others.
        let others: Vec<Record> = {
            let index = self.index.lock();
            let shares = |other: &&Arc<Record>| other.id != id && !other.tags.is_disjoint(&record.tags);
            index.images.values().filter(shares).map(|other| Record::clone(other)).collect()
        };
        let record = self.write_record(record)?;
        for mut other in others {
            other.tags.retain(|tag| !record.tags.contains(tag));
            self.write_record(other)?;
        }
        drop(writing);
        Ok(record)
    }

    /// The image will not be made after all.
    pub fn abandon(&self, diff_ids: &[String], staged: Vec<Staged>) {
        let mut index = self.index.lock();
        for id in diff_ids {
            if let Some(position) = index.reserved.iter().position(|reserved| reserved == id) {
                index.reserved.swap_remove(position);
            }
        }
        drop(index);
        for layer in staged {
            // What cannot be removed now is removed when the store is opened next.
            fs::remove_dir_all(&layer.directory).ok();
        }
    }

    fn adopt(&self, layer: Staged) -> Result<(), Error> {
        let number = {
            let mut index = self.index.lock();
            if index.layers.contains_key(&layer.diff_id) {
                drop(index);
                return remove(&layer.directory);
            }
            let number = index.next;
            index.next += 1;
            number
        };
        let target = self.root.join("layers").join(number.to_string());
        fs::rename(&layer.directory, &target).map_err(at(&target))?;
        self.index.lock().layers.insert(layer.diff_id, Layer { number, size: layer.size, entries: layer.entries });
        Ok(())
    }

    fn write_record(&self, record: Record) -> Result<Arc<Record>, Error> {
        let directory = self.root.join("images");
        let path = directory.join(format!("{}.json", record.id.trim_start_matches("sha256:")));
        let text = serde_json::to_vec(&record).map_err(|source| Error::Json { what: record.id.clone(), source })?;
        let mut file = tempfile::NamedTempFile::new_in(self.ingest_directory()).map_err(at(&path))?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(at(&path))?;
        file.persist(&path).map_err(|error| at(&path)(error.error))?;
        File::open(&directory).and_then(|directory| directory.sync_all()).map_err(at(&directory))?;
        let record = Arc::new(record);
        self.index.lock().images.insert(record.id.clone(), record.clone());
        Ok(record)
    }

    /// Removes a name or, by its id or last name, the image with the layers that nobody else uses. `in_use` are the
    /// images of containers. An absent image is fine.
    pub fn remove(&self, name: &str, in_use: &BTreeSet<String>) -> Result<(), Error> {
        let writing = self.writing.lock();
        let Some(record) = self.find(name) else { return Ok(()) };
        let reference =
            Reference::parse(name).ok().filter(|_| !record.id.ends_with(name.trim_start_matches("sha256:")));
        if let Some(reference) = reference {
            let mut rest = Record::clone(&record);
            if let Some(digest) = &reference.digest {
                rest.digests.remove(&reference.with_digest(digest));
            } else if let Some(tag) = reference.tagged() {
                rest.tags.remove(&tag);
            }
            if !rest.tags.is_empty() {
                self.write_record(rest)?;
                return Ok(());
            }
        }
        if in_use.contains(&record.id) {
            return Err(Error::InUse(record.id.clone()));
        }
        let path = self.root.join("images").join(format!("{}.json", record.id.trim_start_matches("sha256:")));
        remove(&path)?;
        let unused: Vec<(String, u64)> = {
            let mut index = self.index.lock();
            index.images.remove(&record.id);
            let used: BTreeSet<String> = index
                .images
                .values()
                .flat_map(|image| image.config.rootfs.diff_ids.iter().cloned())
                .chain(index.reserved.iter().cloned())
                .collect();
            let unused: Vec<(String, u64)> = index
                .layers
                .iter()
                .filter(|(id, _)| !used.contains(*id))
                .map(|(id, layer)| (id.clone(), layer.number))
                .collect();
            for (id, _) in &unused {
                index.layers.remove(id);
            }
            unused
        };
        for (_, number) in unused {
            // Away in one step first, so that a kill in the middle leaves no half layer.
            let away = self.ingest_directory().join(format!("removed-{number}"));
            let layer = self.root.join("layers").join(number.to_string());
            fs::rename(&layer, &away).map_err(at(&layer))?;
            remove(&away)?;
        }
        drop(writing);
        Ok(())
    }
}

/// Reads an image configuration.
pub fn parse_config(text: &[u8]) -> Result<Config, Error> {
    serde_json::from_slice(text).map_err(|source| Error::Json { what: "the image's configuration".to_owned(), source })
}

fn remove(path: &Path) -> Result<(), Error> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
