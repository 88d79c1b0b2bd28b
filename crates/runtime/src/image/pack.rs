//! Making an OCI image archive from a directory: what `pintle image pack` does.
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::archive::architecture;
use super::digest::{self, Hashing};
use super::reference::{InvalidReference, Reference};
use super::store::ProcessConfig;

/// Why an image could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] InvalidReference),
    /// The directory or the archive failed.
    #[error("cannot pack the image: {0}")]
    Io(#[from] io::Error),
    /// A document could not be written.
    #[error("cannot pack the image: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes the image `name` with one layer, the content of `directory`, as an OCI layout tar to `target`.
pub fn pack(directory: &Path, name: &str, config: &ProcessConfig, target: &Path) -> Result<(), Error> {
    let name = Reference::parse(name)?;
    let mut layer =
        tempfile::tempfile_in(target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    {
        let mut builder = tar::Builder::new(BufWriter::new(&mut layer));
        builder.follow_symlinks(false);
        builder.append_dir_all(".", directory)?;
        builder.into_inner()?.flush()?;
    }
    layer.seek(SeekFrom::Start(0))?;
    let (layer_digest, layer_size) = Hashing::new(io::BufReader::new(&layer)).finish()?;
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &digest::of(&config), config.len() as u64),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer_digest, layer_size)],
    }))?;
    let mut entry =
        descriptor("application/vnd.oci.image.manifest.v1+json", &digest::of(&manifest), manifest.len() as u64);
    entry["annotations"] = json!({
        "io.containerd.image.name": name.to_string(),
        "org.opencontainers.image.ref.name": name.tag.as_deref().unwrap_or("latest"),
    });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }))?;

    let mut archive = tar::Builder::new(BufWriter::new(File::create(target)?));
    add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add(&mut archive, "index.json", &index)?;
    add(&mut archive, &blob(&digest::of(&manifest)), &manifest)?;
    add(&mut archive, &blob(&digest::of(&config)), &config)?;
    layer.seek(SeekFrom::Start(0))?;
    archive.append_data(&mut header(layer_size), blob(&layer_digest), &mut layer)?;
    archive.into_inner()?.flush()?;
    Ok(())
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header
}

fn add(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(content.len() as u64), name, content)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::archive;
    use super::super::store::ImageStore;
    use super::*;

    fn packed(store: &Path, name: &str, content: &str) -> std::path::PathBuf {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bin")).unwrap();
        std::fs::write(root.path().join("bin/app"), content).unwrap();
        let config = ProcessConfig { cmd: vec!["/bin/app".to_owned()], user: "7:8".to_owned(), ..Default::default() };
        let target = store.join(format!("{content}.tar"));
        pack(root.path(), name, &config, &target).unwrap();
        target
    }

    #[test]
    fn a_packed_image_can_be_loaded_found_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let archive = packed(directory.path(), "example/app:1", "one");
        let store = ImageStore::open(&directory.path().join("store")).unwrap();
        let records = archive::load(&store, &archive, &[]).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].config.config.user, "7:8");
        let found = store.find("docker.io/example/app:1").unwrap();
        assert_eq!(found.id, records[0].id);
        assert!(store.find(&found.id).is_some());
        assert!(store.find(found.digests.first().unwrap()).is_some());
        let lower = store.lower(&found);
        assert_eq!(lower.len(), 1);
        let file = store.layers_directory().join(&lower[0]).join("bin/app");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");

        // Also after a restart.
        drop(store);
        let store = ImageStore::open(&directory.path().join("store")).unwrap();
        assert!(store.find("example/app:1").is_some());
        let used = BTreeSet::from([found.id.clone()]);
        assert!(matches!(store.remove(&found.id, &used), Err(super::super::store::Error::InUse(_))));
        store.remove("example/app:1", &BTreeSet::new()).unwrap();
        assert!(store.find("example/app:1").is_none());
        assert!(!file.exists());
    }

    #[test]
    fn a_tag_moves_to_the_image_loaded_last() {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&directory.path().join("store")).unwrap();
        let first = archive::load(&store, &packed(directory.path(), "app:1", "one"), &[]).unwrap();
        let second = archive::load(&store, &packed(directory.path(), "app:1", "two"), &[]).unwrap();
        assert_eq!(store.find("app:1").unwrap().id, second[0].id);
        assert!(store.find(&first[0].id).unwrap().tags.is_empty());
    }

    #[test]
    fn damaged_archives_leave_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let archive = packed(directory.path(), "app:1", "one");
        let whole = std::fs::read(&archive).unwrap();
        let store = ImageStore::open(&directory.path().join("store")).unwrap();
        // One changed byte of the file inside the layer.
        let mut damaged = whole.clone();
        let position = damaged.windows(3).rposition(|window| window == b"one").unwrap();
        damaged[position] = b'0';
        std::fs::write(&archive, &damaged).unwrap();
        assert!(archive::load(&store, &archive, &[]).unwrap_err().to_string().contains("digest"));
        for length in [0, 100, whole.len() / 2] {
            std::fs::write(&archive, &whole[..length]).unwrap();
            assert!(archive::load(&store, &archive, &[]).is_err());
        }
        assert!(store.list().is_empty());
        assert_eq!(std::fs::read_dir(store.layers_directory()).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(store.ingest_directory()).unwrap().count(), 0);
    }
}
