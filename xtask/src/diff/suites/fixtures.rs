//! The fixtures of k8s.io/api: every field filled with a generated value, so that most are refused for many reasons.
use super::super::kinds::Kind;
use super::super::session::{Request, Session};
use anyhow::Result;
use serde_json::json;

/// Sends the fixture of every kind through every verb.
pub async fn run(session: &mut Session, kinds: &[Kind]) -> Result<()> {
    for kind in kinds.iter().filter(|kind| kind.has("create")) {
        let Some(fixture) = &kind.fixture else { continue };
        let dry = "dryRun=All&fieldManager=fixtures";
        let (collection, one) = (format!("{}?{dry}", kind.path), format!("{}/fixture?{dry}", kind.path));
        session.send("as it is", &Request::json("POST", &collection, fixture)).await?;
        let mut named = fixture.clone();
        named["metadata"] = json!({"name": "fixture"});
        session.send("named", &Request::json("POST", &collection, &named)).await?;
        let strict = format!("{collection}&fieldValidation=Strict");
        session.send("named", &Request::json("POST", strict, &named)).await?;
        if !kind.is_writable() {
            continue;
        }
        session.send("fixture", &Request::plain("GET", &one)).await?;
        session.send("fixture", &Request::json("PUT", &one, &named)).await?;
        for content_type in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
            let patch = Request::json("PATCH", &one, &named).of_type(content_type);
            session.send(content_type, &patch).await?;
        }
        let apply = Request::json("PATCH", format!("{one}&force=true"), &named);
        session.send("apply", &apply.of_type("application/apply-patch+yaml")).await?;
        session.send("fixture", &Request::plain("DELETE", &one)).await?;
    }
    Ok(())
}
