//! `pintle up` and `pintle server`: from nothing to a Ready cluster, and its orderly end.
use crate::cli::{LogFormat, Options, ServerArgs, UpArgs};
use crate::control_plane::ControlPlane;
use crate::instance::{Instance, Paths, detect_node_ip, write_private};
use crate::node::Node;
use crate::progress::{Progress, Reported, detach};
use crate::{lifecycle, machine, options, preflight, settings_map};
use anyhow::{Context, Result, bail};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a start may take, on the slowest of machines.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Tasks that run as long as the cluster; each ends with its name, and with why if it must not have ended.
pub type Components = JoinSet<(&'static str, Result<()>)>;

/// What a start was asked for, fully decided.
pub struct Settings {
    /// The files.
    pub paths: Paths,
    /// Names and numbers of this cluster.
    pub instance: Instance,
    /// Flags and config file.
    pub options: Options,
    /// The node's address.
    pub node_ip: IpAddr,
}

impl Settings {
    /// The address the API server listens on.
    pub fn bind(&self) -> IpAddr {
        self.options.bind_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into())
    }
}

/// Runs a control plane and a node.
pub fn up(args: UpArgs) -> Result<ExitCode> {
    begin(&args.data_dir.path(), args.detach, args.options, true)
}

/// Runs a control plane.
pub fn server(args: ServerArgs) -> Result<ExitCode> {
    begin(&args.data_dir.path(), args.detach, args.options, false)
}

fn begin(data: &Path, in_background: bool, flags: Options, with_node: bool) -> Result<ExitCode> {
    if let Some(problem) = preflight::not_root() {
        bail!(problem);
    }
    let paths = Paths::new(data)?;
    paths.create()?;
    if in_background {
        if let Some(pid) = lifecycle::await_ready(&paths, with_node, READY_TIMEOUT)? {
            println!("the cluster in {} runs already (process {pid})", paths.data.display());
            return Ok(ExitCode::SUCCESS);
        }
        detach(&paths.log())?;
        return Ok(ExitCode::SUCCESS);
    }
    let progress = Progress::new();
    let result = settle(&paths, flags, with_node).and_then(|settings| {
        let _lock = paths.take()?;
        runtime()?.block_on(serve(settings, with_node, &progress))
    });
    result.or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "the cluster ended");
        progress.failed(&format!("{error:#}"));
        bail!(Reported)
    })
}

/// The runtime of a cluster's or a node's process.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8))
        .build()
        .context("cannot start the runtime")
}

/// Decides everything that a start needs to know, and refuses with every problem at once.
fn settle(paths: &Paths, flags: Options, with_node: bool) -> Result<Settings> {
    let options = options::resolve(flags)?;
    start_logging(&options)?;
    if let Some(pid) = paths.owner()? {
        let data = paths.data.display();
        bail!("the cluster in {data} runs already (process {pid}); `pintle down --data-dir {data}` stops it");
    }
    let mut instance = match paths.load()? {
        Some(instance) if instance.server.is_some() => {
            let data = paths.data.display();
            bail!(
                "{data} is that of a node whose control plane is elsewhere: `pintle agent --data-dir {data}` starts it"
            )
        }
        Some(mut instance) => {
            instance.reconcile(&options)?;
            instance
        }
        None => Instance::choose(&options, node_name(&options)?)?,
    };
    if let Some(machine) = &mut instance.machine {
        machine.registry_mirrors.clone_from(&options.registry_mirrors);
        let wanted = options.nodes.filter(|_| with_node).map_or(0, usize::from);
        while machine.nodes.len() + 1 < wanted {
            machine.add(None, &instance.node_name)?;
        }
    }
    let bind = options.bind_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let mut ports = vec![(instance.https_port, "--https-port")];
    if with_node {
        ports.push((instance.kubelet_port, "--kubelet-port"));
    }
    let needs = preflight::Needs { data: &paths.data, bind, ports: &ports, node: with_node };
    let mut problems = preflight::problems(&needs);
    let node_ip = options.node_ip.map_or_else(detect_node_ip, Ok);
    if let Err(error) = &node_ip {
        problems.push(error.to_string());
    }
    if !problems.is_empty() {
        bail!(problems.join("\n"));
    }
    Ok(Settings { paths: paths.clone(), instance, options, node_ip: node_ip? })
}

pub fn node_name(options: &Options) -> Result<String> {
    let name = match &options.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname().context("cannot read the host's name")?.to_string_lossy().to_lowercase(),
    };
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(valid) || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        bail!(
            "{name:?} cannot be a node's name (lower-case letters, digits, '-' and '.'); choose one with --node-name"
        );
    }
    Ok(name)
}

pub fn start_logging(options: &Options) -> Result<()> {
    let filter = options.log_level.as_deref().unwrap_or("info");
    let filter = tracing_subscriber::EnvFilter::try_new(filter).with_context(|| format!("--log-level {filter}"))?;
    // A line that cannot be written (the log's disk is full) is dropped: reporting it on standard error would panic.
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = match options.log_format.unwrap_or(LogFormat::Text) {
        LogFormat::Text => logs.with_ansi(false).try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

async fn serve(mut settings: Settings, with_node: bool, progress: &Progress) -> Result<ExitCode> {
    let stop = CancellationToken::new();
    let mut signals = Signals::new()?;
    settings.paths.save(&settings.instance)?;
    settings.instance.register(&settings.paths)?;
    let mut components = Components::new();
    let start = async {
        let control_plane = ControlPlane::start(&settings, &stop, &mut components, progress).await?;
        let node = match with_node {
            true => {
                let access = control_plane.node_access(&settings, &stop)?;
                Some(Node::start(&settings, access, &stop, &mut components, progress).await?)
            }
            false => None,
        };
        let kubeconfig = write_kubeconfigs(&mut settings, &control_plane)?;
        let server = format!("https://{}", std::net::SocketAddr::new(settings.node_ip, settings.instance.https_port));
        let authority = control_plane.pki.authority().certificate_pem().to_owned();
        settings_map::publish(control_plane.admin(), &settings.instance, &authority, &server)
            .await
            .context("cannot publish what nodes need to know")?;
        if let Some(node) = &node {
            crate::ingress::start(&settings, &control_plane, &stop, &mut components, progress).await?;
            node.ready().await?;
            progress.step(&format!("node {} is Ready", settings.instance.node_name));
            let nodes = settings.instance.machine.as_ref().map_or(&[][..], |machine| &machine.nodes);
            machine::start(&settings.paths, &settings.instance, &control_plane.admin(), nodes).await?;
            for node in nodes {
                progress.step(&format!("node {} is Ready", node.name));
            }
        }
        anyhow::Ok((control_plane, node, kubeconfig))
    };
    let started = tokio::select! {
        started = tokio::time::timeout(READY_TIMEOUT, start) => started.unwrap_or_else(|_| {
            bail!("the node was not Ready within {} s; the log says why", READY_TIMEOUT.as_secs())
        }),
        () = signals.any() => bail!("interrupted while starting"),
    };
    let (control_plane, node, kubeconfig) = started?;
    progress.ready(&format!("export KUBECONFIG={}", kubeconfig.display()));
    let ended = until_stopped(&mut signals, &mut components, &stop, control_plane.drain()).await;
    drop(node);
    control_plane.close().await;
    ended.map(|()| ExitCode::SUCCESS)
}

/// Waits for a signal, or for a component that must not have ended; then for all of them to end. A signal lets `drain` happen
/// first, which another signal cuts short.
pub async fn until_stopped(
    signals: &mut Signals,
    components: &mut Components,
    stop: &CancellationToken,
    drain: impl Future<Output = ()>,
) -> Result<()> {
    let ended = tokio::select! {
        () = signals.any() => Ok(()),
        Some(ended) = components.join_next() => Err(too_early(ended)),
    };
    if ended.is_ok() {
        tokio::select! {
            () = drain => {}
            () = signals.any() => {}
        }
    }
    stop.cancel();
    while let Some(ended) = components.join_next().await {
        if let Ok((name, Err(error))) = ended {
            tracing::warn!(component = name, error = format!("{error:#}"), "did not end well");
        }
    }
    ended
}

fn too_early(ended: std::result::Result<(&'static str, Result<()>), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow::anyhow!("{name} ended unexpectedly"),
        Ok((name, Err(error))) => error.context(format!("{name} failed")),
        Err(error) => anyhow::anyhow!("a component failed: {error}"),
    }
}

/// Writes the administrator's kubeconfig where it is kept and where the user wants it.
fn write_kubeconfigs(settings: &mut Settings, control_plane: &ControlPlane) -> Result<std::path::PathBuf> {
    let text = control_plane.admin_kubeconfig(&settings.instance);
    let kept = settings.paths.kubeconfig();
    write_private(&kept, text.as_bytes())?;
    let mut told = kept;
    if let Some(wanted) = settings.options.kubeconfig.clone() {
        let wanted = std::path::absolute(&wanted)?;
        write_private(&wanted, text.as_bytes())?;
        if !settings.instance.kubeconfigs.contains(&wanted) {
            settings.instance.kubeconfigs.push(wanted.clone());
        }
        told = wanted;
    }
    if settings.options.merge_kubeconfig {
        lifecycle::merge_into_user_file(&text, &mut settings.instance)?;
    }
    settings.paths.save(&settings.instance)?;
    Ok(told)
}

/// The signals that ask the cluster to end.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes the signals from now on.
    pub fn new() -> Result<Self> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one.
    pub async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
