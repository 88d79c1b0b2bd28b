//! URLs, addresses and networks.
// upstream: apiserver pkg/cel/library, {urls,ip,cidr}.go
use super::{Builtin, no_overload, text};
use crate::eval::{Error, Outcome};
use crate::value::{Key, Map, Url, Value};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

pub(crate) fn find(name: &str) -> Option<Builtin> {
    let function: Builtin = match name {
        "url" => |args, _| {
            let text = text(args, 0)?;
            let wrong = || {
                Error::new(format!(
                    "URL parse error during conversion from string: parse {text:?}: invalid URI for request"
                ))
            };
            parse_url(text).map(|url| Value::Url(Arc::new(url))).ok_or_else(wrong)
        },
        "isURL" => |args, _| Ok(Value::Bool(parse_url(text(args, 0)?).is_some())),
        "getScheme" => |args, _| url_part(args, |url| url.scheme.clone()),
        "getHost" => |args, _| url_part(args, |url| url.host.clone()),
        "getHostname" => |args, _| url_part(args, |url| split_host(&url.host).0.to_owned()),
        "getPort" => |args, _| url_part(args, |url| split_host(&url.host).1.to_owned()),
        "getEscapedPath" => |args, _| url_part(args, |url| url.path.clone()),
        "getQuery" => |args, _| match args {
            [Value::Url(url)] => Ok(query(&url.query)),
            _ => no_overload(),
        },
        "ip" => |args, _| match args {
            [Value::Cidr(ip, _)] => Ok(Value::Ip(*ip)),
            _ => parse_ip(text(args, 0)?).map(Value::Ip),
        },
        "isIP" => |args, _| Ok(Value::Bool(parse_ip(text(args, 0)?).is_ok())),
        "ip.isCanonical" => |args, _| {
            let text = text(args, 0)?;
            parse_ip(text).map(|ip| Value::Bool(ip.to_string() == text))
        },
        "family" => |args, _| of_ip(args, |ip| Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => |args, _| of_ip(args, |ip| Value::Bool(ip.is_unspecified())),
        "isLoopback" => |args, _| of_ip(args, |ip| Value::Bool(ip.is_loopback())),
        "isLinkLocalMulticast" => |args, _| of_ip(args, |ip| Value::Bool(link_local_multicast(ip))),
        "isLinkLocalUnicast" => |args, _| of_ip(args, |ip| Value::Bool(link_local(ip))),
        "isGlobalUnicast" => |args, _| {
            of_ip(args, |ip| {
                let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
                let other = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local(ip) || broadcast;
                Value::Bool(!other)
            })
        },
        "cidr" => |args, _| parse_cidr(text(args, 0)?).map(|net| Value::Cidr(net.addr(), net.prefix_len())),
        "isCIDR" => |args, _| Ok(Value::Bool(parse_cidr(text(args, 0)?).is_ok())),
        "containsIP" => |args, _| {
            let net = net(args)?;
            let ip = match args.get(1) {
                Some(Value::Ip(ip)) => *ip,
                // Upstream does not say why.
                _ => parse_ip(text(args, 1)?).map_err(|_| Error::new("no such overload"))?,
            };
            Ok(Value::Bool(net.contains(&ip)))
        },
        "containsCIDR" => |args, _| {
            let outer = net(args)?;
            let inner = match args.get(1) {
                Some(Value::Cidr(ip, bits)) => IpNet::new(*ip, *bits).map_err(|error| Error::new(error.to_string()))?,
                _ => parse_cidr(text(args, 1)?)?,
            };
            Ok(Value::Bool(outer.contains(&inner.trunc())))
        },
        "masked" => |args, _| net(args).map(|net| Value::Cidr(net.network(), net.prefix_len())),
        "prefixLength" => |args, _| net(args).map(|net| Value::Int(net.prefix_len().into())),
        _ => return None,
    };
    Some(function)
}

fn url_part<'a>(args: &[Value<'a>], of: fn(&Url) -> String) -> Outcome<'a> {
    match args {
        [Value::Url(url)] => Ok(Value::text(of(url))),
        _ => no_overload(),
    }
}

/// An absolute URL or a path, as Go's `url.ParseRequestURI` takes them.
fn parse_url(text: &str) -> Option<Url> {
    if text.is_empty() || text.chars().any(|c| c.is_control() || c == ' ') {
        return None;
    }
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) if !scheme.contains('/') => {
            let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            if !valid {
                return None;
            }
            (scheme.to_ascii_lowercase(), rest)
        }
        _ => (String::new(), text),
    };
    if scheme.is_empty() && !rest.starts_with('/') {
        return None;
    }
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = match rest.strip_prefix("//") {
        Some(authority) if !scheme.is_empty() || !rest.starts_with("///") => {
            let end = authority.find('/').unwrap_or(authority.len());
            let host = authority[..end].rsplit('@').next().unwrap_or_default();
            (host.to_owned(), &authority[end..])
        }
        _ => (String::new(), rest),
    };
    let (_, port) = split_host(&host);
    let host_ok = host.matches('[').count() == host.matches(']').count()
        && !host.contains(['<', '>', '"', '\\', '^', '`', '{', '|', '}', ' ']);
    if !port.chars().all(|c| c.is_ascii_digit()) || !host_ok {
        return None;
    }
    Some(Url { text: text.to_owned(), scheme, host, path: path.to_owned(), query: query.to_owned() })
}

fn split_host(host: &str) -> (&str, &str) {
    if let Some(rest) = host.strip_prefix('[') {
        let (name, port) = rest.split_once(']').unwrap_or((rest, ""));
        return (name, port.strip_prefix(':').unwrap_or_default());
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

fn query<'a>(text: &str) -> Value<'a> {
    let mut map: BTreeMap<Key, Vec<Value<'a>>> = BTreeMap::new();
    for part in text.split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        map.entry(Key::String(unescape(key))).or_default().push(Value::text(unescape(value)));
    }
    let lists = map.into_iter().map(|(key, values)| (key, Value::list(values))).collect();
    Value::Map(Map::Made(Arc::new(lists), None))
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(i) {
        let code = bytes.get(i + 1..i + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, code.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                i += 2;
            }
            (b'+', _) => out.push(b' '),
            (other, _) => out.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn parse_ip(text: &str) -> Result<IpAddr, Error> {
    let ip: IpAddr = text.parse().map_err(|_| {
        Error::new(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        ))
    })?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(Error::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        ip => Ok(ip),
    }
}

/// What Go says of a text that is no network.
fn cidr_error(text: &str) -> String {
    let why = match text.rsplit_once('/') {
        None => "no '/'".to_owned(),
        Some((ip, _)) if ip.parse::<IpAddr>().is_err() => format!("ParseAddr({ip:?}): unable to parse IP"),
        Some((_, bits)) if bits.parse::<u32>().is_err() => format!("bad bits after slash: {bits:?}"),
        Some(_) => "prefix length out of range".to_owned(),
    };
    let twice = "network address parse error during conversion from string: ".repeat(2);
    format!("{twice}netip.ParsePrefix({text:?}): {why}")
}

fn parse_cidr(text: &str) -> Result<IpNet, Error> {
    let net: IpNet = text.parse().map_err(|_| Error::new(cidr_error(text)))?;
    match net.addr() {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(Error::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        _ => Ok(net),
    }
}

fn net(args: &[Value<'_>]) -> Result<IpNet, Error> {
    match args.first() {
        Some(Value::Cidr(ip, bits)) => IpNet::new(*ip, *bits).map_err(|error| Error::new(error.to_string())),
        _ => Err(Error::new("no such overload")),
    }
}

fn of_ip<'a>(args: &[Value<'a>], of: impl Fn(&IpAddr) -> Value<'a>) -> Outcome<'a> {
    match args {
        [Value::Ip(ip)] => Ok(of(ip)),
        _ => no_overload(),
    }
}

fn link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => Ipv6Addr::segments(ip)[0] & 0xff0f == 0xff02,
    }
}
