//! Requests that are wrong before they reach an object: paths, verbs, types, bodies, options.
use super::super::session::{Request, Session};
use anyhow::Result;
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";

/// Sends them.
pub async fn run(session: &mut Session) -> Result<()> {
    for path in [
        "/",
        "/api",
        "/apis",
        "/api/v2",
        "/apis/none",
        "/apis/apps",
        "/apis/apps/v2",
        "/apis/apps/v1/none",
        "/api/v1/none",
        "/api/v1/namespaces/{ns}/none",
        "/api/v1/namespaces/{ns}/none/x",
        "/api/v1/namespaces/none/pods",
        "/api/v1/pods/x",
        "/api/v1/namespaces/{ns}/pods/x/none",
        "/api/v1/namespaces/{ns}/pods/x/log",
        "/api/v1/namespaces/{ns}/pods/x/exec",
        "/api/v1/namespaces/{ns}/pods/A%20b",
        "/api/v1/namespaces/{ns}/pods/a%2Fb",
        "/api/v1/nodes/x",
        "/none",
        "/healthz",
        "/livez",
        "/readyz",
        "/healthz/none",
        "/version",
        "/version/",
        "/openid/v1/jwks/none",
        "/.well-known/none",
        "/api/",
        "/apis/",
        "/api/v1/",
        "/apis/apps/",
        "/apis/apps/v1/",
        "//api/v1",
        "/api/v1//pods",
        "/api/v1/namespaces/{ns}/configmaps/",
        "/api/v1/watch/namespaces/{ns}/none",
        "/api/v1/proxy/namespaces/{ns}/pods/x",
        "/api/v1/namespaces/{ns}/services/x/proxy/",
        "/api/v1/namespaces/{ns}/configmaps/x/status",
        "/apis/apps/v1/namespaces/{ns}/deployments/x/scale",
        "/apis/apps/v1/namespaces/{ns}/deployments/x/status",
        "/api/v1/componentstatuses/none",
        "/openapi/v3/apis/none",
        "/openapi/v4",
        "/metrics/none",
        "/debug/none",
        "/logs/none",
        "/api/v1/namespaces/{ns}/bindings",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews/x",
    ] {
        session.send("", &Request::plain("GET", path)).await?;
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"] {
        for path in [
            "/api/v1/none",
            "/api/v1/pods",
            CONFIG_MAPS,
            "/api/v1/namespaces/{ns}/configmaps/none",
            "/version",
            "/apis",
        ] {
            if method == "DELETE" && (path == CONFIG_MAPS || path == "/api/v1/pods") {
                continue;
            }
            session.send("", &Request::json(method, path, &json!({})).of_type("application/json")).await?;
        }
    }
    for accept in [
        "",
        "*/*",
        "text/html",
        "application/yaml",
        "application/xml",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/*",
        "application/json;as=Table;v=v2;g=meta.k8s.io",
        "application/json;as=None;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        "application/json;q=0.1,application/yaml",
        "text/plain;q=x",
        ";;",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        "application/json;stream=watch",
        "application/json;pretty=1",
        "application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io",
        "application/cbor",
        "application/vnd.kubernetes.protobuf;stream=x",
    ] {
        for path in [
            "/api/v1/namespaces/{ns}",
            "/api/v1/namespaces/{ns}/configmaps?labelSelector=none",
            "/api/v1/namespaces/{ns}/none",
            "/api/v1/namespaces/{ns}/configmaps/none",
        ] {
            session.send(accept, &Request::plain("GET", path).accepting(accept)).await?;
        }
    }
    bodies(session).await?;
    options(session).await
}

async fn bodies(session: &mut Session) -> Result<()> {
    let create = format!("{CONFIG_MAPS}?dryRun=All&fieldManager=m");
    let one = "/api/v1/namespaces/{ns}/configmaps/none?dryRun=All&fieldManager=m";
    for body in [
        "",
        "{",
        "null",
        "[]",
        "7",
        "\"x\"",
        "{}",
        "{\"kind\":\"Pod\"}",
        "{\"apiVersion\":\"v2\"}",
        "{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\"}",
        "{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"name\":\"x\"}}",
        "{\"apiVersion\":7}",
        "{\"kind\":7}",
        "{\"metadata\":7}",
        "{\"metadata\":[]}",
        "{\"apiVersion\":\"a/b/c\",\"kind\":\"ConfigMap\"}",
        "{\"metadata\":{\"name\":\"x\"}}garbage",
        "{\"metadata\":{\"name\":\"x\"}} {}",
        "{'a': 1}",
        "{\"metadata\":{\"name\":\"x\",\"name\":\"y\"}}",
        "{\"metadata\":{\"name\":\"x\"},\"data\":{\"a\":1}}",
        "{\"metadata\":{\"name\":\"x\"},\"data\":{\"a\":null}}",
        "{\"metadata\":{\"name\":\"x\"},\"Data\":{\"a\":\"b\"}}",
        "{\"metadata\":{\"name\":\"x\"},\"binaryData\":{\"a\":\"?\"}}",
        "{\"metadata\":{\"name\":\"x\"},\"immutable\":\"true\"}",
        "{\"metadata\":{\"name\":\"\\ud800\"}}",
        "\u{feff}{}",
        "metadata:\n  name: x\n",
        "metadata:\n\tname: x\n",
        "a: b: c",
        "---\n",
        "metadata: {name: x}\nmetadata: {name: y}\n",
        "{\"metadata\":{\"name\":\"x\",\"namespace\":\"other\"}}",
        "{\"metadata\":{\"generateName\":\"generated-\"}}",
        "{\"metadata\":{\"creationTimestamp\":\"yesterday\",\"name\":\"x\"}}",
        "{\"metadata\":{\"name\":\"x\",\"labels\":{\"a\":\"b\",\"a\":\"c\"}}}",
        "{\"metadata\":{\"name\":\"x\",\"deletionGracePeriodSeconds\":\"1\"}}",
        "{\"metadata\":{\"name\":\"x\",\"generation\":1.5}}",
    ] {
        for content_type in ["application/json", "application/yaml", ""] {
            let request = |method, uri: &str| Request {
                bodies: [body.into(), body.into()],
                content_type,
                ..Request::plain(method, uri)
            };
            session.send(&format!("{content_type} {body}"), &request("POST", &create)).await?;
            if content_type == "application/json" {
                session.send(body, &request("PUT", one)).await?;
                session.send(body, &request("DELETE", one)).await?;
                for validation in ["Strict", "Ignore"] {
                    let uri = format!("{create}&fieldValidation={validation}");
                    session.send(body, &request("POST", &uri)).await?;
                }
            }
        }
        for content_type in [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ] {
            let request = Request {
                bodies: [body.into(), body.into()],
                content_type,
                ..Request::plain("PATCH", "/api/v1/namespaces/{ns}?dryRun=All&fieldManager=m")
            };
            session.send(&format!("{content_type} {body}"), &request).await?;
        }
    }
    for content_type in [
        "text/plain",
        "application/xml",
        "application/json; charset=utf-8",
        "application/json;x",
        "x",
        "application/vnd.kubernetes.protobuf",
        "application/apply-patch+cbor",
    ] {
        let object = json!({"metadata": {"name": "x"}});
        session.send(content_type, &Request::json("POST", &create, &object).of_type(content_type)).await?;
        session.send(content_type, &Request::json("PATCH", one, &object).of_type(content_type)).await?;
    }
    Ok(())
}

async fn options(session: &mut Session) -> Result<()> {
    let object = &json!({"metadata": {"name": "x"}});
    let long = "x".repeat(200);
    for query in [
        "dryRun=",
        "dryRun=all",
        "dryRun=All&dryRun=All",
        "dryRun=None",
        "fieldManager=&dryRun=All",
        &format!("fieldManager={long}&dryRun=All"),
        "fieldManager=a%07b&dryRun=All",
        "fieldValidation=x&dryRun=All",
        "fieldValidation=&dryRun=All",
        "pretty=1&dryRun=All",
        "unknown=1&dryRun=All",
        "force=true&dryRun=All",
        "gracePeriodSeconds=x&dryRun=All",
        "orphanDependents=maybe&dryRun=All",
        "propagationPolicy=x&dryRun=All",
        "gracePeriodSeconds=-1&dryRun=All",
        "orphanDependents=true&propagationPolicy=Orphan&dryRun=All",
        "ignoreStoreReadErrorWithClusterBreakingPotential=true&dryRun=All",
    ] {
        let one = format!("/api/v1/namespaces/{{ns}}?{query}");
        if query.contains("All") || query.contains("all") || query.contains("None") {
            session.send("", &Request::json("POST", format!("{CONFIG_MAPS}?{query}"), object)).await?;
            session.send("", &Request::json("PATCH", &one, &json!({})).of_type("application/merge-patch+json")).await?;
            session
                .send(
                    "",
                    &Request::json("PATCH", &one, &json!({"apiVersion": "v1", "kind": "Namespace"}))
                        .of_type("application/apply-patch+yaml"),
                )
                .await?;
            session.send("", &Request::plain("DELETE", format!("{CONFIG_MAPS}/none?{query}"))).await?;
            session.send("", &Request::plain("DELETE", format!("{CONFIG_MAPS}?labelSelector=none&{query}"))).await?;
        }
    }
    for body in [
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": -1}),
        json!({"kind": "Pod", "apiVersion": "v1"}),
        json!({"gracePeriodSeconds": "1"}),
        json!({"dryRun": ["x"]}),
        json!({"preconditions": {"resourceVersion": "x"}}),
        json!({"orphanDependents": true, "propagationPolicy": "Orphan"}),
        json!({"propagationPolicy": "x"}),
        json!({"unknown": 1}),
        json!({"kind": "DeleteOptions", "apiVersion": "apps/v1", "dryRun": ["All"]}),
        Value::Null,
    ] {
        let uri = format!("{CONFIG_MAPS}/none");
        session.send(&body.to_string(), &Request::json("DELETE", uri, &body)).await?;
    }
    Ok(())
}
