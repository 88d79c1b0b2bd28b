//! Label and field selectors, paging, revisions, and what is wrong with them.
use super::super::session::{Answer, Request, Session};
use anyhow::Result;
use serde_json::json;

const CONFIG_MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";

/// Reads config maps and pods in every way.
pub async fn run(session: &mut Session) -> Result<()> {
    for i in 0..5 {
        let map = json!({"metadata": {"name": format!("page-{i}"), "labels": {"page": "yes", "i": i.to_string()}}});
        session.ask(&Request::json("POST", CONFIG_MAPS, &map)).await?;
    }
    selectors(session).await?;
    pages(session).await?;
    revisions(session).await?;
    let all = format!("{CONFIG_MAPS}?labelSelector=page");
    session.send("", &Request::plain("DELETE", format!("{all}&dryRun=All"))).await?;
    session.send("", &Request::plain("DELETE", &all)).await?;
    session.send("", &Request::plain("GET", &all)).await?;
    Ok(())
}

async fn selectors(session: &mut Session) -> Result<()> {
    for selector in [
        "page",
        "!page",
        "page%3Dyes",
        "page%3D%3Dyes",
        "page!%3Dyes",
        "i%20in%20(1,2)",
        "page,i%20notin%20(1,2)",
        "i%3E2",
        "page,i%3C2",
        "i%20in%20()",
        "%3D",
        "a%20b",
        "page%3Da%20b",
        "page,",
        ",",
        "in",
        "i%20in",
        "i%20in%20(1",
        "x%3Ey",
        "-a",
        "page%3D-",
        "a/b/c",
        "A_b.c/d",
        "page%3Dyes,page%3Dno",
        "%21",
        "i%20in%20(1,,2)",
        "(",
        "page%3D%3D%3Dyes",
    ] {
        let uri = format!("{CONFIG_MAPS}?labelSelector={selector}");
        session.send("", &Request::plain("GET", uri)).await?;
    }
    for selector in [
        "metadata.name%3Dpage-1",
        "metadata.name!%3Dpage-1",
        "metadata.namespace%3Ddiff",
        "data%3Dx",
        "metadata.name",
        "%3D",
        "metadata.name%3D%3Dpage-1,metadata.namespace%3Ddiff",
        "metadata.name%3Da%5C,b",
        "metadata.name%3E1",
        "metadata.labels%3Dx",
    ] {
        let uri = format!("{CONFIG_MAPS}?labelSelector=page&fieldSelector={selector}");
        session.send("", &Request::plain("GET", uri)).await?;
    }
    for (resource, selectors) in [
        (
            "/api/v1/namespaces/{ns}/pods",
            "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork status.phase status.podIP status.podIPs status.nominatedNodeName spec.containers",
        ),
        ("/api/v1/nodes", "spec.unschedulable metadata.name spec.podCIDR"),
        (
            "/api/v1/namespaces/{ns}/events",
            "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath reason reportingComponent source type message",
        ),
        (
            "/apis/events.k8s.io/v1/namespaces/{ns}/events",
            "regarding.kind regarding.name involvedObject.kind reason reportingController type",
        ),
        ("/api/v1/namespaces/{ns}/secrets", "type data"),
        ("/api/v1/namespaces", "status.phase name"),
        ("/api/v1/persistentvolumes", "name spec.claimRef"),
        ("/api/v1/namespaces/{ns}/persistentvolumeclaims", "name"),
        ("/api/v1/namespaces/{ns}/services", "spec.clusterIP spec.type spec.ports"),
        ("/api/v1/namespaces/{ns}/replicationcontrollers", "status.replicas spec.replicas"),
        ("/apis/apps/v1/namespaces/{ns}/replicasets", "status.replicas spec.replicas"),
        ("/apis/batch/v1/namespaces/{ns}/jobs", "status.successful status.failed"),
        ("/apis/certificates.k8s.io/v1/certificatesigningrequests", "spec.signerName status"),
        ("/apis/resource.k8s.io/v1/resourceslices", "spec.nodeName spec.driver"),
    ] {
        for field in selectors.split(' ') {
            for value in ["x", "true", "1"] {
                session.send("", &Request::plain("GET", format!("{resource}?fieldSelector={field}%3D{value}"))).await?;
            }
        }
    }
    Ok(())
}

async fn pages(session: &mut Session) -> Result<()> {
    let uri = format!("{CONFIG_MAPS}?labelSelector=page&limit=2");
    let mut answers = session.send("first page", &Request::plain("GET", &uri)).await?;
    for page in ["second page", "third page"] {
        answers = each(session, page, &answers, |token| format!("{uri}&continue={token}")).await?;
    }
    let first = session.ask(&Request::plain("GET", &uri)).await?;
    each(session, "continue and exact revision", &first, |token| format!("{uri}&continue={token}&resourceVersion=1"))
        .await?;
    each(session, "continue and revision 0", &first, |token| format!("{uri}&continue={token}&resourceVersion=0"))
        .await?;
    each(session, "continue and match", &first, |token| {
        format!("{uri}&continue={token}&resourceVersionMatch=NotOlderThan")
    })
    .await?;
    each(session, "continue elsewhere", &first, |token| {
        format!("/api/v1/namespaces/{{ns}}/secrets?limit=1&continue={token}")
    })
    .await?;
    for query in [
        "limit=-1",
        "limit=x",
        "limit=0",
        "continue=x",
        "continue=eyJ2IjoieCJ9",
        "continue=%7B%7D",
        "limit=2&watch=true&timeoutSeconds=x",
    ] {
        session.send("", &Request::plain("GET", format!("{CONFIG_MAPS}?labelSelector=page&{query}"))).await?;
    }
    Ok(())
}

/// Sends a request whose path depends on each server's continue token.
async fn each(
    session: &mut Session,
    what: &str,
    answers: &[Answer; 2],
    uri: impl Fn(&str) -> String,
) -> Result<[Answer; 2]> {
    let mut found = Vec::new();
    for (side, answer) in answers.iter().enumerate() {
        let token = answer.body["metadata"]["continue"].as_str().unwrap_or_default();
        found.push(session.ask_one(side, &Request::plain("GET", uri(token))).await?);
    }
    let found: [Answer; 2] = found.try_into().map_err(|_| anyhow::anyhow!("two answers"))?;
    session.note(&format!("GET {} [{what}]", uri("")), &found);
    Ok(found)
}

async fn revisions(session: &mut Session) -> Result<()> {
    for query in [
        "resourceVersion=0",
        "resourceVersion=1",
        "resourceVersion=x",
        "resourceVersion=-1",
        "resourceVersion=",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=1&resourceVersionMatch=Exact",
        "resourceVersion=1&resourceVersionMatch=NotOlderThan",
        "resourceVersion=0&resourceVersionMatch=NotOlderThan",
        "resourceVersionMatch=Exact",
        "resourceVersion=1&resourceVersionMatch=Sometimes",
        "resourceVersion=1&limit=2",
        "resourceVersion=1&resourceVersionMatch=Exact&limit=2",
        "resourceVersion=99999999",
        "resourceVersion=99999999&resourceVersionMatch=Exact",
        "sendInitialEvents=true",
        "sendInitialEvents=false",
        "allowWatchBookmarks=true",
        "timeoutSeconds=-1",
        "timeoutSeconds=x",
        "watch=true&resourceVersion=x",
        "watch=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1",
        "watch=true&resourceVersionMatch=Exact&sendInitialEvents=true&timeoutSeconds=1",
        "watch=true&sendInitialEvents=true&timeoutSeconds=1",
        "watch=true&resourceVersion=1&timeoutSeconds=1",
        "watch=true&limit=1&timeoutSeconds=1",
        "watch=true&continue=x&timeoutSeconds=1",
        "watch=maybe&timeoutSeconds=1",
        "labelSelector=page&unknown=1",
        "pretty=true&labelSelector=i%3D1",
        "limit=1&limit=2&labelSelector=i%3D1",
    ] {
        let query = if query.starts_with("watch") || query.contains("labelSelector") {
            query.to_owned()
        } else {
            format!("labelSelector=page&{query}")
        };
        session.send("", &Request::plain("GET", format!("{CONFIG_MAPS}?{query}"))).await?;
    }
    for query in
        ["resourceVersion=0", "resourceVersion=1", "resourceVersion=x", "resourceVersion=99999999", "unknown=1"]
    {
        session.send("", &Request::plain("GET", format!("{CONFIG_MAPS}/page-1?{query}"))).await?;
    }
    Ok(())
}
