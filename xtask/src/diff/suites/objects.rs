//! A valid object of every kind through every verb, every kind of patch and every representation.
use super::super::kinds::Kind;
use super::super::session::{Request, Session};
use super::{merged, remove};
use anyhow::Result;
use serde_json::{Value, json};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Sends the valid object of every kind through its life.
pub async fn run(session: &mut Session, kinds: &[Kind]) -> Result<()> {
    for kind in kinds {
        if !kind.is_writable() && kind.has("list") {
            lists(session, kind).await?;
        }
        let Some(object) = kind.object.as_ref().filter(|_| kind.has("create")) else {
            if kind.has("create") {
                eprintln!("{} {} has no valid object", kind.api_version, kind.kind);
            }
            continue;
        };
        let mut object = object.clone();
        if !kind.is_writable() {
            session.send("", &Request::json("POST", &kind.path, &object)).await?;
            continue;
        }
        object["metadata"]["labels"]["made-by"] = json!("diff");
        life(session, kind, &object).await?;
    }
    Ok(())
}

/// One object from its creation to its end.
async fn life(session: &mut Session, kind: &Kind, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let one = &format!("{}/{name}", kind.path);
    let managed = |manager: &str| format!("{one}?fieldManager={manager}");
    session.send("dry", &Request::json("POST", format!("{}?dryRun=All", kind.path), object)).await?;
    let created = session.send("", &Request::json("POST", &kind.path, object)).await?;
    session.send("again", &Request::json("POST", &kind.path, object)).await?;
    if created.iter().any(|answer| answer.status >= 300) {
        eprintln!("{one}: {}", created[0].body);
    }
    for accept in ["application/json", TABLE, PARTIAL, "application/yaml"] {
        session.send(accept, &Request::plain("GET", one).accepting(accept)).await?;
    }
    lists(session, kind).await?;

    let stored = session.ask(&Request::plain("GET", one)).await?;
    let label = json!({"metadata": {"labels": {"changed": "put"}}});
    let bodies = [&merged(&stored[0].body, &label), &merged(&stored[1].body, &label)];
    session.send("update", &Request::json_each("PUT", managed("put"), bodies)).await?;
    session.send("same update again, stale", &Request::json_each("PUT", managed("put"), bodies)).await?;
    session.send("unconditional", &Request::json("PUT", managed("put"), object)).await?;
    let other = json!({"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}});
    session.send("another uid", &Request::json("PUT", managed("put"), &merged(object, &other))).await?;
    let renamed = json!({"metadata": {"name": "another"}});
    session.send("another name", &Request::json("PUT", managed("put"), &merged(object, &renamed))).await?;

    again(session, kind, object, one).await?;
    patches(session, kind, object, one).await?;
    again(session, kind, object, one).await?;
    apply(session, object, one).await?;
    again(session, kind, object, one).await?;
    for subresource in kind.subresources.iter().filter(|s| ["status", "scale", "approval"].contains(&s.as_str())) {
        subresources(session, &format!("{one}/{subresource}")).await?;
    }
    let wrong = json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    session.send("precondition", &Request::json("DELETE", one, &wrong)).await?;
    let policy = json!({"propagationPolicy": "Sideways"});
    session.send("policy", &Request::json("DELETE", one, &policy)).await?;
    session.send("", &Request::plain("DELETE", format!("{one}?dryRun=All"))).await?;
    for policy in ["Foreground", "Orphan"] {
        let uri = format!("{one}?dryRun=All&propagationPolicy={policy}");
        session.send("", &Request::plain("DELETE", uri)).await?;
    }
    session.send("", &Request::plain("DELETE", format!("{one}?gracePeriodSeconds=0"))).await?;
    session.send("deleted", &Request::plain("GET", one)).await?;
    remove(session, one).await?;
    Ok(())
}

/// Begins anew with the object, so that one difference does not cause the next.
async fn again(session: &mut Session, kind: &Kind, object: &Value, one: &str) -> Result<()> {
    remove(session, one).await?;
    session.ask(&Request::json("POST", &kind.path, object)).await?;
    Ok(())
}

async fn lists(session: &mut Session, kind: &Kind) -> Result<()> {
    let selected = format!("{}?labelSelector=made-by%3Ddiff", kind.all);
    for accept in ["application/json", TABLE, PARTIAL_LIST] {
        session.send(accept, &Request::plain("GET", &selected).accepting(accept)).await?;
    }
    let objects = format!("{selected}&includeObject=Object");
    session.send("table", &Request::plain("GET", objects).accepting(TABLE)).await?;
    let none = format!("{}?labelSelector=made-by%3Dnobody", kind.all);
    session.send("table", &Request::plain("GET", none).accepting(TABLE)).await?;
    Ok(())
}

async fn patches(session: &mut Session, kind: &Kind, object: &Value, one: &str) -> Result<()> {
    let uri = &format!("{one}?fieldManager=patch");
    let send = |what: &'static str, patch: Value, content_type| (what, patch, content_type);
    let requests = [
        send("add", json!([{"op": "add", "path": "/metadata/labels/json", "value": "a"}]), JSON_PATCH),
        send("test", json!([{"op": "test", "path": "/metadata/labels/json", "value": "b"}]), JSON_PATCH),
        send("no place", json!([{"op": "remove", "path": "/metadata/labels/none"}]), JSON_PATCH),
        send("no operation", json!([{"op": "swap", "path": "/metadata/labels/none"}]), JSON_PATCH),
        send("no list", json!({"op": "add"}), JSON_PATCH),
        send("wrong type", json!([{"op": "add", "path": "/metadata/labels", "value": 7}]), JSON_PATCH),
        send("merge", json!({"metadata": {"labels": {"json": null, "merge": "a"}}}), MERGE_PATCH),
        send("unknown", json!({"metadata": {"unknownField": 1}}), MERGE_PATCH),
        send("wrong type", json!({"metadata": {"labels": {"merge": 7}}}), MERGE_PATCH),
        send("list", json!([{"metadata": {}}]), MERGE_PATCH),
        send("strategic", json!({"metadata": {"annotations": {"a": "b"}, "finalizers": ["x.io/y"]}}), STRATEGIC),
        send(
            "directive",
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.io/y"], "annotations": {"$patch": "delete"}}}),
            STRATEGIC,
        ),
        send("wrong type", json!({"metadata": "x"}), STRATEGIC),
        send("unknown", json!({"unknownField": 1}), STRATEGIC),
        send("nothing", json!({}), STRATEGIC),
        send("name", json!({"metadata": {"name": "another"}}), MERGE_PATCH),
        send("kind", json!({"kind": "Another", "apiVersion": "x/v1"}), MERGE_PATCH),
        send("no type", json!({}), "application/json"),
    ];
    for (what, patch, content_type) in requests {
        session.send(what, &Request::json("PATCH", uri, &patch).of_type(content_type)).await?;
    }
    let strict = format!("{uri}&fieldValidation=Strict");
    let unknown = json!({"unknownField": 1, "metadata": {"other": 1}});
    session.send("strict", &Request::json("PATCH", &strict, &unknown).of_type(MERGE_PATCH)).await?;
    session.send("strict", &Request::json("PATCH", &strict, &unknown).of_type(STRATEGIC)).await?;
    session.send("whole", &Request::json("PATCH", uri, object).of_type(STRATEGIC)).await?;
    session.send("whole", &Request::json("PATCH", uri, object).of_type(MERGE_PATCH)).await?;
    let nobody = format!("{}/nobody?fieldManager=patch", kind.path);
    session.send("nobody", &Request::json("PATCH", nobody, &json!({})).of_type(MERGE_PATCH)).await?;
    Ok(())
}

async fn apply(session: &mut Session, object: &Value, one: &str) -> Result<()> {
    let by = |manager: &str| format!("{one}?fieldManager={manager}");
    let typed = |rest: Value| merged(&json!({"apiVersion": object["apiVersion"], "kind": object["kind"]}), &rest);
    let label = typed(json!({"metadata": {"labels": {"applied": "a"}}}));
    let other = typed(json!({"metadata": {"labels": {"applied": "b"}}}));
    let requests = [
        ("label", by("one"), &label),
        ("conflict", by("two"), &other),
        ("forced", format!("{}&force=true", by("two")), &other),
        ("dropped", by("two"), &typed(json!({}))),
        ("whole", by("one"), object),
        ("whole, forced", format!("{}&force=true", by("one")), object),
        ("no manager", one.to_owned(), &label),
        ("force", format!("{}&force=perhaps", by("one")), &label),
        ("no type", by("one"), &json!({"metadata": {"labels": {"a": "b"}}})),
        ("managed fields", by("one"), &typed(json!({"metadata": {"managedFields": [{"manager": "x"}]}}))),
        ("unknown", by("one"), &typed(json!({"unknownField": 1}))),
        ("wrong type", by("one"), &typed(json!({"metadata": {"labels": "x"}}))),
    ];
    for (what, uri, body) in requests {
        session.send(&format!("apply, {what}"), &Request::json("PATCH", uri, body).of_type(APPLY)).await?;
    }
    Ok(())
}

async fn subresources(session: &mut Session, path: &str) -> Result<()> {
    let stored = session.send("", &Request::plain("GET", path)).await?;
    let label = json!({"metadata": {"labels": {"by": "subresource"}}, "spec": {}});
    let bodies = [&merged(&stored[0].body, &label), &merged(&stored[1].body, &label)];
    session.send("", &Request::json_each("PUT", format!("{path}?dryRun=All"), bodies)).await?;
    let condition = json!({"status": {"conditions": [{"type": "Odd", "status": "True", "reason": "r", "message": "m",
        "lastTransitionTime": "2009-01-01T00:00:00Z"}]}});
    for content_type in [MERGE_PATCH, STRATEGIC] {
        let patch = Request::json("PATCH", format!("{path}?dryRun=All&fieldManager=sub"), &condition);
        session.send(content_type, &patch.of_type(content_type)).await?;
    }
    let wrong = Request::json("PATCH", path, &json!({"status": "x"})).of_type(MERGE_PATCH);
    session.send("wrong type", &wrong).await?;
    session.send("table", &Request::plain("GET", path).accepting(TABLE)).await?;
    Ok(())
}
