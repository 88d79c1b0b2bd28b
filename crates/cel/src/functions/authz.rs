//! What expressions ask of `authorizer`.
// upstream: apiserver pkg/cel/library/authz.go
use super::{Builtin, no_overload, text};
use crate::authorizer::{Authorizer, Check, Decision};
use crate::eval::{Error, Outcome};
use crate::value::{Authz, Value};
use std::sync::Arc;

const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";

pub(crate) fn find(name: &str) -> Option<Builtin> {
    let function: Builtin = match name {
        "path" => |args, _| step(args, AUTHORIZER, PATH_CHECK, |check, path| check.path = path),
        "group" => |args, _| step(args, AUTHORIZER, GROUP_CHECK, |check, group| check.group = group),
        "resource" => |args, _| step(args, GROUP_CHECK, RESOURCE_CHECK, |check, resource| check.resource = resource),
        "subresource" => |args, _| step(args, RESOURCE_CHECK, RESOURCE_CHECK, |check, sub| check.subresource = sub),
        "namespace" => |args, _| step(args, RESOURCE_CHECK, RESOURCE_CHECK, |check, ns| check.namespace = ns),
        "name" => |args, _| step(args, RESOURCE_CHECK, RESOURCE_CHECK, |check, name| check.name = name),
        "fieldSelector" => {
            |args, _| step(args, RESOURCE_CHECK, RESOURCE_CHECK, |check, selector| check.field_selector = selector)
        }
        "labelSelector" => {
            |args, _| step(args, RESOURCE_CHECK, RESOURCE_CHECK, |check, selector| check.label_selector = selector)
        }
        "serviceAccount" => |args, _| {
            let (namespace, name) = (text(args, 1)?.to_owned(), text(args, 2)?.to_owned());
            let (by, mut check) = asking(args, AUTHORIZER)?;
            check.service_account = Some((namespace, name));
            Ok(Value::Authorizer(Arc::new(Authz::Asking(AUTHORIZER, by, check))))
        },
        "check" => |args, _| {
            let verb = text(args, 1)?.to_owned();
            let (by, mut check) = asking(args, RESOURCE_CHECK).or_else(|_| asking(args, PATH_CHECK))?;
            check.verb = verb;
            Ok(Value::Authorizer(Arc::new(Authz::Decided(by.authorize(&check)))))
        },
        "errored" => |args, _| decision(args).map(|decision| Value::Bool(!decision.error.is_empty())),
        "error" => |args, _| decision(args).map(|decision| Value::text(decision.error)),
        "allowed" => |args, _| decision(args).map(|decision| Value::Bool(decision.allowed)),
        "reason" => |args, _| decision(args).map(|decision| Value::text(decision.reason)),
        _ => return None,
    };
    Some(function)
}

fn asking<'a>(args: &[Value<'a>], stage: &str) -> Result<(&'a dyn Authorizer, Box<Check>), Error> {
    if let Some(Value::Authorizer(authz)) = args.first()
        && let Authz::Asking(at, by, check) = &**authz
        && *at == stage
    {
        return Ok((*by, check.clone()));
    }
    Err(Error::new("no such overload"))
}

fn step<'a>(args: &[Value<'a>], from: &str, to: &'static str, set: fn(&mut Check, String)) -> Outcome<'a> {
    let given = text(args, 1)?.to_owned();
    let (by, mut check) = asking(args, from)?;
    set(&mut check, given);
    Ok(Value::Authorizer(Arc::new(Authz::Asking(to, by, check))))
}

fn decision(args: &[Value<'_>]) -> Result<Decision, Error> {
    match args.first() {
        Some(Value::Authorizer(authz)) => match &**authz {
            Authz::Decided(decision) => Ok(decision.clone()),
            Authz::Asking(..) => no_overload().map(|_| Decision::default()),
        },
        _ => Err(Error::new("no such overload")),
    }
}
