//! Discovery, and what kubectl prints of it: `api-resources`, `api-versions`, `explain --recursive`.
use super::super::Args;
use super::super::kinds::{AGGREGATED, Kind};
use super::super::servers::Servers;
use super::super::session::{Answer, Request, Session};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::process::Command;

/// Compares the documents and kubectl's output.
pub async fn run(args: &Args, servers: &Servers, session: &mut Session, kinds: &[Kind]) -> Result<()> {
    for root in ["/api", "/apis"] {
        session.send("", &Request::plain("GET", root)).await?;
        session.send("aggregated", &Request::plain("GET", root).accepting(AGGREGATED)).await?;
    }
    session.send("", &Request::plain("GET", "/version")).await?;
    session.send("", &Request::plain("GET", "/.well-known/openid-configuration")).await?;
    let mut documents: Vec<String> = Vec::new();
    for kind in kinds {
        let (group, _) = kind.all.rsplit_once('/').context("a path")?;
        let parent = group.rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default();
        documents.extend([group.to_owned(), parent]);
    }
    documents.sort();
    documents.dedup();
    for document in documents {
        session.send("", &Request::plain("GET", document)).await?;
    }
    for command in [&["api-resources", "-o", "wide"][..], &["api-versions"], &["api-resources", "--sort-by=name"]] {
        kubectl(args, servers, session, command)?;
    }
    for kind in kinds {
        let api_version = format!("--api-version={}", kind.api_version);
        kubectl(args, servers, session, &["explain", &kind.resource, &api_version, "--recursive"])?;
        kubectl(args, servers, session, &["explain", &kind.resource, &api_version])?;
    }
    Ok(())
}

/// Compares what kubectl prints, line by line.
fn kubectl(args: &Args, servers: &Servers, session: &mut Session, command: &[&str]) -> Result<()> {
    let mut answers = Vec::new();
    for (side, kubeconfig) in [servers.upstream_kubeconfig(), servers.pintle_kubeconfig()].iter().enumerate() {
        let cache = servers.scratch().join(format!("cache-{side}"));
        let mut kubectl = Command::new(&args.kubectl);
        kubectl.arg("--kubeconfig").arg(kubeconfig).arg("--cache-dir").arg(cache).args(command);
        let output = kubectl.output().with_context(|| format!("{}", args.kubectl.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let lines: Vec<Value> = text.lines().map(|line| json!(line)).collect();
        let status = output.status.code().and_then(|code| code.try_into().ok()).unwrap_or(u16::MAX);
        answers.push(Answer { status, headers: Value::Null, body: json!({"lines": lines}) });
    }
    let answers: [Answer; 2] = answers.try_into().map_err(|_| anyhow::anyhow!("two answers"))?;
    session.note(&format!("kubectl {}", command.join(" ")), &answers);
    Ok(())
}
