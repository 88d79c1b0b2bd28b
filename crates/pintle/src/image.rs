//! `pintle image`: load, list, remove, pack.
use crate::cli::{DataDir, ImageCommand, PackArgs};
use crate::control::{Request, Response, ask};
use crate::instance::Paths;
use anyhow::{Context, Result};
use pintle_runtime::image::store::ProcessConfig;
use std::path::PathBuf;

/// Runs an image command.
pub fn run(command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Load { data_dir, files } => {
            let run_dir = run_dir(&data_dir)?;
            for file in files {
                let path = file.canonicalize().with_context(|| format!("cannot read {}", file.display()))?;
                let response = ask(&run_dir, &Request::LoadImages(path))
                    .with_context(|| format!("cannot load {}", file.display()))?;
                if let Response::Loaded(names) = response {
                    names.iter().for_each(|name| println!("loaded {name}"));
                }
            }
            Ok(())
        }
        ImageCommand::Ls { data_dir } => {
            if let Response::Images(mut images) = ask(&run_dir(&data_dir)?, &Request::ListImages)? {
                images.sort_by(|a, b| a.names.cmp(&b.names));
                println!("{:<60} {:<14} {:>10}", "IMAGE", "ID", "SIZE");
                for image in images {
                    let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
                    let size = format!("{:.1} MB", image.size as f64 / 1e6);
                    println!("{:<60} {id:<14} {size:>10}", image.names.first().map_or("<none>", String::as_str));
                }
            }
            Ok(())
        }
        ImageCommand::Rm { data_dir, images } => {
            let run_dir = run_dir(&data_dir)?;
            for image in images {
                ask(&run_dir, &Request::RemoveImage(image.clone()))
                    .with_context(|| format!("cannot remove {image}"))?;
                println!("removed {image}");
            }
            Ok(())
        }
        ImageCommand::Pack(args) => pack(&args),
    }
}

fn run_dir(data_dir: &DataDir) -> Result<PathBuf> {
    let paths = Paths::new(&data_dir.data_dir)?;
    let instance = paths.load()?;
    let instance =
        instance.with_context(|| format!("there is no cluster in {}; `pintle up` makes one", paths.data.display()))?;
    Ok(instance.run_dir())
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
