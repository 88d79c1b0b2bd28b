//! `pintle image`: load, list, remove, pack. A running node is asked over its socket; otherwise the store is opened here, whose
//! lock keeps the two apart.
use crate::cli::{DataDir, ImageCommand, PackArgs};
use crate::instance::Paths;
use crate::machine::{self, NodeStore};
use crate::node::{runtime_root, runtime_state};
use anyhow::{Context, Result, bail};
use pintle_runtime::image::control::{self, Error, Request};
use pintle_runtime::image::store::{ImageStore, ProcessConfig, Record};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

/// Runs an image command.
pub fn run(command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Load { data_dir, files } => {
            let images = Images::of(&data_dir)?;
            for file in files {
                let path = file.canonicalize().with_context(|| format!("cannot read {}", file.display()))?;
                let loaded = images
                    .ask(&Request::Load { path, names: Vec::new() })
                    .with_context(|| format!("cannot load {}", file.display()))?;
                for record in loaded {
                    for name in names(&record) {
                        println!("loaded {name}");
                    }
                }
            }
            images.share()
        }
        ImageCommand::Ls { data_dir } => {
            let mut images = Images::of(&data_dir)?.ask(&Request::List)?;
            images.sort_by(|a, b| a.tags.cmp(&b.tags));
            println!("{:<60} {:<14} {:>10}", "IMAGE", "ID", "SIZE");
            for image in images {
                let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
                let size = format!("{:.1} MB", image.size as f64 / 1e6);
                println!("{:<60} {id:<14} {size:>10}", image.tags.first().map_or("<none>", String::as_str));
            }
            Ok(())
        }
        ImageCommand::Rm { data_dir, images } => {
            let store = Images::of(&data_dir)?;
            for name in images {
                store.ask(&Request::Remove { name: name.clone() }).with_context(|| format!("cannot remove {name}"))?;
                println!("removed {name}");
            }
            Ok(())
        }
        ImageCommand::Pack(args) => pack(&args),
    }
}

/// The images of one cluster.
struct Images {
    root: PathBuf,
    state: PathBuf,
    others: Vec<NodeStore>,
}

impl Images {
    fn of(data_dir: &DataDir) -> Result<Self> {
        let paths = Paths::new(&data_dir.path())?;
        let instance = paths.load()?;
        let instance = instance
            .with_context(|| format!("there is no cluster in {}; `pintle up` makes one", paths.data.display()))?;
        let others = machine::image_stores(&paths, &instance);
        Ok(Images { root: runtime_root(&paths), state: runtime_state(&instance), others })
    }

    /// Has the other nodes of this machine take what the first one has.
    fn share(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for node in self.others.iter().filter(|node| control::socket(&node.state).exists()) {
            let request = Request::Share { root: self.root.clone() };
            match runtime.block_on(control::ask(&node.state, &request)) {
                // It takes them when it starts.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::ConnectionRefused => {}
                result => _ = result.with_context(|| format!("node {}", node.name))?,
            }
        }
        Ok(())
    }

    /// Has the running node do it; does it itself when none runs.
    fn ask(&self, request: &Request) -> Result<Vec<Arc<Record>>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(control::ask(&self.state, request)) {
            Ok(records) => Ok(records.into_iter().map(Arc::new).collect()),
            Err(Error::Io { source, .. })
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
            {
                std::fs::create_dir_all(&self.root)?;
                let store = ImageStore::open(&self.root)?;
                // Containers may go on without the node: what they use is not known here, so nothing is removed.
                if matches!(request, Request::Remove { .. }) {
                    bail!("the cluster does not run here, start it with `pintle up`: pods may still use the image");
                }
                control::execute(&store, request, &Default::default()).map_err(anyhow::Error::msg)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The names of an image, its id when it has none.
fn names(record: &Record) -> Vec<&str> {
    if record.tags.is_empty() { vec![&record.id] } else { record.tags.iter().map(String::as_str).collect() }
}

fn pack(args: &PackArgs) -> Result<()> {
    let config = ProcessConfig {
        entrypoint: args.entrypoint.clone(),
        cmd: args.cmd.clone(),
        env: args.env.clone(),
        working_dir: args.workdir.clone().unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
        ..ProcessConfig::default()
    };
    pintle_runtime::image::pack::pack(&args.root, &args.name, &config, &args.output)?;
    println!("packed {} into {}", args.name, args.output.display());
    Ok(())
}
