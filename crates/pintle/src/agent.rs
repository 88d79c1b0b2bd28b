//! `pintle agent`: a node of a cluster whose control plane is elsewhere. Start at [`run`].
//!
//! The first start joins with a token ([`join`]): the server is verified by the hash in the token before the secret is
//! said, and signs a client certificate. From then on the node acts as `system:node:<name>` and renews its certificates
//! while running ([`certificates`]).
mod certificates;
mod join;

use crate::cli::{AgentArgs, Options};
use crate::instance::{Instance, Paths, detect_node_ip};
use crate::node::{Node, NodeAccess};
use crate::preflight;
use crate::progress::{Progress, Reported, detach};
use crate::settings_map;
use crate::start::{self, Components, Settings, Signals};
use crate::token::Token;
use anyhow::{Context, Result, bail};
use certificates::Certificates;
use pintle_client::{Clients, Informers, Remote};
use pintle_runtime::image::store::ImageStore;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause before a server that cannot be reached is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What an agent was asked for, decided as far as it can be without the server.
struct Wish {
    paths: Paths,
    server: http::Uri,
    token: Option<Token>,
    options: Options,
    node_name: String,
    node_ip: std::net::IpAddr,
    share_images: Option<std::path::PathBuf>,
}

/// Runs a node.
pub fn run(args: AgentArgs) -> Result<ExitCode> {
    if let Some(problem) = preflight::not_root() {
        bail!(problem);
    }
    // A node's first process, which waits for these signals itself, hands them down blocked.
    nix::sys::signal::SigSet::all().thread_unblock().context("cannot unblock signals")?;
    let paths = Paths::new(&args.data_dir.path())?;
    paths.create()?;
    if args.detach {
        if let Some(pid) = paths.owner()? {
            println!("the node in {} runs already (process {pid})", paths.data.display());
            return Ok(ExitCode::SUCCESS);
        }
        detach(&paths.log())?;
        return Ok(ExitCode::SUCCESS);
    }
    let progress = Progress::new();
    let result = settle(paths.clone(), args).and_then(|wish| {
        let _lock = paths.take()?;
        start::runtime()?.block_on(serve(wish, &progress))
    });
    result.or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "the node ended");
        progress.failed(&format!("{error:#}"));
        bail!(Reported)
    })
}

fn settle(paths: Paths, args: AgentArgs) -> Result<Wish> {
    let options = Options::from(args.node);
    start::start_logging(&options)?;
    let known = paths.load()?;
    let Some(server) = args.server.or_else(|| known.as_ref().and_then(|known| known.server.clone())) else {
        bail!("say which cluster to join: --server https://ADDRESS:PORT and --token TOKEN")
    };
    let uri: http::Uri = server.parse().with_context(|| format!("--server {server} is not a URL"))?;
    if uri.scheme_str() != Some("https") || uri.host().is_none() {
        bail!("--server {server}: the address of a server looks like https://192.0.2.1:6443");
    }
    let token = match (args.token, args.token_file) {
        (Some(token), _) => Some(token),
        (None, Some(file)) => {
            Some(std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?)
        }
        (None, None) => None,
    };
    let token = token.map(|text| text.parse::<Token>().context("--token")).transpose()?;
    let node_name = match &known {
        Some(known) => known.node_name.clone(),
        None => start::node_name(&options)?,
    };
    let node_ip = options.node_ip.map_or_else(detect_node_ip, Ok);
    let ports: Vec<_> = options.kubelet_port.map(|port| (port, "--kubelet-port")).into_iter().collect();
    let needs =
        preflight::Needs { data: &paths.data, bind: std::net::Ipv4Addr::UNSPECIFIED.into(), ports: &ports, node: true };
    let mut problems = preflight::problems(&needs);
    if let Err(error) = &node_ip {
        problems.push(error.to_string());
    }
    if !problems.is_empty() {
        bail!(problems.join("\n"));
    }
    Ok(Wish { paths, server: uri, token, options, node_name, node_ip: node_ip?, share_images: args.share_images })
}

async fn serve(wish: Wish, progress: &Progress) -> Result<ExitCode> {
    let stop = CancellationToken::new();
    let mut signals = Signals::new()?;
    let mut components = Components::new();
    let name = wish.node_name.clone();
    let start = async {
        let certificates = join::certificates(&wish, progress).await?;
        let remote = certificates.remote(&wish.server)?;
        let instance = instance(&wish, &remote).await?;
        wish.paths.save(&instance)?;
        instance.register(&wish.paths)?;
        progress.step(&format!("cluster {} at {}", instance.id, wish.server));
        let settings =
            Settings { paths: wish.paths.clone(), instance, options: wish.options.clone(), node_ip: wish.node_ip };
        let access = access(&certificates, &remote, &stop)?;
        let client = remote.client();
        if let Some(root) = wish.share_images.clone() {
            let own = crate::node::runtime_root(&wish.paths);
            tokio::task::spawn_blocking(move || share_images(&own, &root)).await?.context("the machine's images")?;
        }
        let node = Node::start(&settings, access, &stop, &mut components, progress).await?;
        let renewal = certificates.keep(client, remote, wish.node_ip, stop.clone());
        components.spawn(async move {
            renewal.await;
            ("certificate renewal", Ok(()))
        });
        node.ready().await?;
        progress.step(&format!("node {name} is Ready"));
        anyhow::Ok(node)
    };
    // Without a limit: a server that is away for long comes back some day, and the pods run meanwhile.
    let started = tokio::select! {
        started = start => started,
        () = signals.any() => bail!("interrupted while starting"),
    };
    let node = started?;
    progress.ready(&format!("node {name} is part of the cluster at {}", wish.server));
    start::until_stopped(&mut signals, &mut components, &stop, std::future::ready(())).await?;
    drop(node);
    Ok(ExitCode::SUCCESS)
}

/// Takes the images that another node of this machine has.
fn share_images(own: &std::path::Path, other: &std::path::Path) -> Result<()> {
    let taken = ImageStore::open(own)?.share_from(other)?;
    tracing::info!(count = taken.len(), "took the images of the machine's first node");
    Ok(())
}

/// The cluster's names and numbers, as the server says now; what was known before if it cannot be asked.
async fn instance(wish: &Wish, remote: &Remote) -> Result<Instance> {
    let known = wish.paths.load()?;
    let mut told = None;
    loop {
        match settings_map::settings(remote.client()).await {
            Ok(settings) => {
                told = Some(settings);
                break;
            }
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
                bail!("the server refuses to say what this node needs to know: {}", status.message)
            }
            Err(error) if known.is_some() => {
                tracing::warn!(%error, "cannot ask the server for the cluster's settings, taking those of the last start");
                break;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot ask the server for the cluster's settings, will try again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    let kubelet_port = wish.options.kubelet_port.or(known.as_ref().map(|known| known.kubelet_port));
    let Some(mut instance) = told.or_else(|| known.clone()) else { bail!("the server says nothing about the cluster") };
    if let Some(known) = known.filter(|known| known.id != instance.id) {
        bail!(
            "this node is part of cluster {}, and {} is cluster {}; `pintle reset` removes the node from the old one",
            known.id,
            wish.server,
            instance.id
        );
    }
    instance.server = Some(wish.server.to_string().trim_end_matches('/').to_owned());
    instance.node_name.clone_from(&wish.node_name);
    instance.kubelet_port = kubelet_port.unwrap_or(10250);
    instance.machine = None;
    instance.kubeconfigs.clear();
    Ok(instance)
}

/// Everything that the node's parts may do, they do as the node.
fn access(certificates: &Arc<Certificates>, remote: &Remote, stop: &CancellationToken) -> Result<NodeAccess> {
    let client = remote.client();
    let informers = Informers::new(client.clone(), stop.clone());
    Ok(NodeAccess {
        clients: Clients::remote(client.clone()),
        proxy: informers.clone(),
        informers,
        node: client,
        tls: Arc::new(certificates.server_tls()?),
    })
}
