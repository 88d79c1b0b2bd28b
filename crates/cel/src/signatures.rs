//! The functions' static types. Start at [`fitting`].
//!
//! A signature is written `name (argument,…)result`; a leading dot marks member functions, whose first argument is what
//! stands before the dot.
// upstream: cel-go common/stdlib, ext/{strings,lists,sets}; apiserver pkg/cel/library
use crate::types::{AUTHORIZER, Type};
use std::collections::HashMap;
use std::sync::LazyLock;

const TEXT: &str = "
!_ (bool)bool
-_ (int)int (double)double
_+_ (int,int)int (uint,uint)uint (double,double)double (string,string)string (bytes,bytes)bytes (list<A>,list<A>)list<A> (timestamp,duration)timestamp (duration,timestamp)timestamp (duration,duration)duration
_-_ (int,int)int (uint,uint)uint (double,double)double (timestamp,timestamp)duration (timestamp,duration)timestamp (duration,duration)duration
_*_ (int,int)int (uint,uint)uint (double,double)double
_/_ (int,int)int (uint,uint)uint (double,double)double
_%_ (int,int)int (uint,uint)uint
_==_ (A,A)bool
_!=_ (A,A)bool
@in (A,list<A>)bool (A,map<A,B>)bool
_[_] (list<A>,int)A (map<A,B>,A)B (optional<list<A>>,int)optional<A> (optional<map<A,B>>,A)optional<B>
_[?_] (list<A>,int)optional<A> (map<A,B>,A)optional<B> (optional<list<A>>,int)optional<A> (optional<map<A,B>>,A)optional<B>
size (string)int (bytes)int (list<A>)int (map<A,B>)int .(string)int .(bytes)int .(list<A>)int .(map<A,B>)int
type (A)type
dyn (A)dyn
bool (bool)bool (string)bool
int (int)int (uint)int (double)int (string)int (timestamp)int (duration)int
uint (uint)uint (int)uint (double)uint (string)uint
double (double)double (int)double (uint)double (string)double
string (string)string (bool)string (int)string (uint)string (double)string (bytes)string (timestamp)string (duration)string (ip)string (cidr)string
bytes (bytes)bytes (string)bytes
timestamp (timestamp)timestamp (string)timestamp (int)timestamp
duration (duration)duration (string)duration (int)duration
getFullYear .(timestamp)int .(timestamp,string)int
getMonth .(timestamp)int .(timestamp,string)int
getDayOfYear .(timestamp)int .(timestamp,string)int
getDayOfMonth .(timestamp)int .(timestamp,string)int
getDate .(timestamp)int .(timestamp,string)int
getDayOfWeek .(timestamp)int .(timestamp,string)int
getHours .(timestamp)int .(timestamp,string)int .(duration)int
getMinutes .(timestamp)int .(timestamp,string)int .(duration)int
getSeconds .(timestamp)int .(timestamp,string)int .(duration)int
getMilliseconds .(timestamp)int .(timestamp,string)int .(duration)int
contains .(string,string)bool
startsWith .(string,string)bool
endsWith .(string,string)bool
matches (string,string)bool .(string,string)bool
charAt .(string,int)string
indexOf .(string,string)int .(string,string,int)int .(list<A>,A)int
lastIndexOf .(string,string)int .(string,string,int)int .(list<A>,A)int
lowerAscii .(string)string
upperAscii .(string)string
replace .(string,string,string)string .(string,string,string,int)string
split .(string,string)list<string> .(string,string,int)list<string>
substring .(string,int)string .(string,int,int)string
trim .(string)string
format .(string,list<dyn>)string
strings.quote (string)string
join .(list<string>)string .(list<string>,string)string
find .(string,string)string
findAll .(string,string)list<string> .(string,string,int)list<string>
isSorted .(list<int>)bool .(list<uint>)bool .(list<double>)bool .(list<bool>)bool .(list<duration>)bool .(list<timestamp>)bool .(list<string>)bool .(list<bytes>)bool
sum .(list<int>)int .(list<uint>)uint .(list<double>)double .(list<duration>)duration
min .(list<int>)int .(list<uint>)uint .(list<double>)double .(list<bool>)bool .(list<duration>)duration .(list<timestamp>)timestamp .(list<string>)string .(list<bytes>)bytes
max .(list<int>)int .(list<uint>)uint .(list<double>)double .(list<bool>)bool .(list<duration>)duration .(list<timestamp>)timestamp .(list<string>)string .(list<bytes>)bytes
slice .(list<A>,int,int)list<A>
flatten .(list<list<A>>)list<A> .(list<dyn>,int)list<dyn>
sort .(list<int>)list<int> .(list<uint>)list<uint> .(list<double>)list<double> .(list<bool>)list<bool> .(list<duration>)list<duration> .(list<timestamp>)list<timestamp> .(list<string>)list<string> .(list<bytes>)list<bytes>
@sortByAssociatedKeys .(list<A>,list<int>)list<A> .(list<A>,list<uint>)list<A> .(list<A>,list<double>)list<A> .(list<A>,list<bool>)list<A> .(list<A>,list<duration>)list<A> .(list<A>,list<timestamp>)list<A> .(list<A>,list<string>)list<A> .(list<A>,list<bytes>)list<A>
distinct .(list<A>)list<A>
reverse .(list<A>)list<A>
first .(list<A>)optional<A>
last .(list<A>)optional<A>
lists.range (int)list<int>
sets.contains (list<A>,list<A>)bool
sets.equivalent (list<A>,list<A>)bool
sets.intersects (list<A>,list<A>)bool
optional.of (A)optional<A>
optional.ofNonZeroValue (A)optional<A>
optional.none ()optional<A>
hasValue .(optional<A>)bool
value .(optional<A>)A
or .(optional<A>,optional<A>)optional<A>
orValue .(optional<A>,A)A
optional.unwrap (list<optional<A>>)list<A>
unwrapOpt .(list<optional<A>>)list<A>
url (string)url
isURL (string)bool
getScheme .(url)string
getHost .(url)string
getHostname .(url)string
getPort .(url)string
getEscapedPath .(url)string
getQuery .(url)map<string,list<string>>
quantity (string)quantity
isQuantity (string)bool
sign (quantity)int
isGreaterThan .(quantity,quantity)bool .(semver,semver)bool
isLessThan .(quantity,quantity)bool .(semver,semver)bool
compareTo .(quantity,quantity)int .(semver,semver)int
asApproximateFloat .(quantity)double
asInteger .(quantity)int
isInteger .(quantity)bool
add .(quantity,quantity)quantity .(quantity,int)quantity
sub .(quantity,quantity)quantity .(quantity,int)quantity
ip (string)ip .(cidr)ip
ip.isCanonical (string)bool
isIP (string)bool
family .(ip)int
isUnspecified .(ip)bool
isLoopback .(ip)bool
isLinkLocalMulticast .(ip)bool
isLinkLocalUnicast .(ip)bool
isGlobalUnicast .(ip)bool
cidr (string)cidr
isCIDR (string)bool
containsIP .(cidr,string)bool .(cidr,ip)bool
containsCIDR .(cidr,string)bool .(cidr,cidr)bool
masked .(cidr)cidr
prefixLength .(cidr)int
semver (string)semver (string,bool)semver
isSemver (string)bool (string,bool)bool
major .(semver)int
minor .(semver)int
patch .(semver)int
format.named (string)optional<format>
format.dns1123Label ()format
format.dns1123Subdomain ()format
format.dns1035Label ()format
format.dns1123LabelPrefix ()format
format.dns1123SubdomainPrefix ()format
format.dns1035LabelPrefix ()format
format.qualifiedName ()format
format.labelValue ()format
format.uri ()format
format.uuid ()format
format.byte ()format
format.date ()format
format.datetime ()format
validate .(format,string)optional<list<string>>
jsonpatch.escapeKey (string)string
path .(authorizer,string)pathcheck
group .(authorizer,string)groupcheck
serviceAccount .(authorizer,string,string)authorizer
resource .(groupcheck,string)resourcecheck
subresource .(resourcecheck,string)resourcecheck
namespace .(resourcecheck,string)resourcecheck
name .(resourcecheck,string)resourcecheck
fieldSelector .(resourcecheck,string)resourcecheck
labelSelector .(resourcecheck,string)resourcecheck
check .(pathcheck,string)decision .(resourcecheck,string)decision
errored .(decision)bool
error .(decision)string
allowed .(decision)bool
reason .(decision)string
";

/// What the authorizer is asked about a resource.
pub(crate) const RESOURCE_CHECK: Type = Type::Opaque("kubernetes.authorization.ResourceCheck");

/// One overload of a function.
#[derive(Debug)]
pub(crate) struct Signature {
    member: bool,
    /// The types of its parameters, the one before the dot first.
    pub args: Vec<Type>,
    result: Type,
}

/// An overload that a call may mean.
pub(crate) struct Fit {
    pub signature: &'static Signature,
    /// The type of its result.
    result: Type,
}

static TABLE: LazyLock<HashMap<&'static str, Vec<Signature>>> = LazyLock::new(|| {
    let mut table: HashMap<&'static str, Vec<Signature>> = HashMap::new();
    for line in TEXT.lines() {
        let mut words = line.split(' ');
        let Some(name) = words.next().filter(|name| !name.is_empty()) else { continue };
        table.insert(name, words.map(signature).collect());
    }
    let ordered = [Type::Bool, Type::String, Type::Bytes, Type::Timestamp, Type::Duration];
    let numbers = [Type::Int, Type::Uint, Type::Double];
    let pairs = ordered.iter().map(|t| (t, t)).chain(numbers.iter().flat_map(|a| numbers.iter().map(move |b| (a, b))));
    let pairs: Vec<_> = pairs.collect();
    for name in ["_<_", "_<=_", "_>_", "_>=_"] {
        let signature = |&(a, b): &(&Type, &Type)| Signature {
            member: false,
            args: vec![a.clone(), b.clone()],
            result: Type::Bool,
        };
        table.insert(name, pairs.iter().map(signature).collect());
    }
    table
});

fn signature(text: &'static str) -> Signature {
    let (member, text) = text.strip_prefix('.').map_or((false, text), |rest| (true, rest));
    let (args, result) = text.trim_start_matches('(').split_once(')').unwrap_or_default();
    let mut parsed = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (i, c) in args.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                parsed.push(named(&args[start..i]));
                start = i + 1;
            }
            _ => {}
        }
    }
    if !args.is_empty() {
        parsed.push(named(&args[start..]));
    }
    Signature { member, args: parsed, result: named(result) }
}

fn named(text: &'static str) -> Type {
    if let Some((outer, inner)) = text.strip_suffix('>').and_then(|text| text.split_once('<')) {
        return match outer {
            "list" => Type::list(named(inner)),
            "optional" => Type::optional(named(inner)),
            // Keys are simple types or parameters: the first comma separates.
            _ => inner.split_once(',').map_or(Type::Dyn, |(key, value)| Type::map(named(key), named(value))),
        };
    }
    match text {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        "quantity" => Type::Opaque("kubernetes.Quantity"),
        "url" => Type::Opaque("kubernetes.URL"),
        "ip" => Type::Opaque("net.IP"),
        "cidr" => Type::Opaque("net.CIDR"),
        "semver" => Type::Opaque("kubernetes.Semver"),
        "format" => Type::Opaque("kubernetes.NamedFormat"),
        "authorizer" => AUTHORIZER,
        "resourcecheck" => RESOURCE_CHECK,
        "groupcheck" => Type::Opaque("kubernetes.authorization.GroupCheck"),
        "pathcheck" => Type::Opaque("kubernetes.authorization.PathCheck"),
        "decision" => Type::Opaque("kubernetes.authorization.Decision"),
        text if text.len() == 1 => Type::Param(text.chars().next().unwrap_or('A')),
        _ => Type::Dyn,
    }
}

/// Whether functions are named `name.…`.
pub(crate) fn is_namespaced(name: &str) -> bool {
    matches!(name, "sets" | "optional" | "format" | "ip" | "lists" | "strings")
}

/// Whether there is a function of this name.
pub(crate) fn is_known(name: &str) -> bool {
    TABLE.contains_key(name)
}

/// The overloads that a call may mean.
pub(crate) fn fitting(name: &str, member: bool, args: &[Type]) -> Vec<Fit> {
    let overloads = TABLE.get(name).map_or(&[][..], Vec::as_slice);
    let fitting = overloads.iter().filter(|s| s.member == member && s.args.len() == args.len());
    let fit = |signature: &'static Signature| {
        let mut bound = HashMap::new();
        let fits = signature.args.iter().zip(args).all(|(wanted, given)| unify(wanted, given, &mut bound));
        fits.then(|| Fit { signature, result: substitute(&signature.result, &bound) })
    };
    let fits = fitting.filter_map(fit);
    // What is not known yet becomes what the first overload wants.
    if args.iter().any(is_open) { fits.take(1).collect() } else { fits.collect() }
}

/// Whether the type leaves something open, as that of an empty list does.
fn is_open(ty: &Type) -> bool {
    match ty {
        Type::Unknown => true,
        Type::List(of) => is_open(&of.element),
        Type::Map(of) => is_open(&of.0) || is_open(&of.1),
        Type::Optional(of) => is_open(of),
        _ => false,
    }
}

/// The type of a call's result; `None` if no overload fits.
pub(crate) fn result(fits: &[Fit]) -> Option<Type> {
    // Several overloads fit only where the arguments are dynamic.
    let (first, rest) = fits.split_first()?;
    let same = rest.iter().all(|other| other.result == first.result);
    Some(if same { first.result.clone() } else { Type::Dyn })
}

fn unify(wanted: &Type, given: &Type, bound: &mut HashMap<char, Type>) -> bool {
    match (wanted, given) {
        (Type::Param(name), given) => match bound.get(name) {
            None => {
                bound.insert(*name, given.clone());
                true
            }
            Some(held) => match held.join(given) {
                Some(joined) => {
                    bound.insert(*name, joined);
                    true
                }
                None => false,
            },
        },
        (Type::List(wanted), Type::List(given)) => unify(&wanted.element, &given.element, bound),
        (Type::Map(wanted), Type::Map(given)) => unify(&wanted.0, &given.0, bound) && unify(&wanted.1, &given.1, bound),
        (Type::Optional(wanted), Type::Optional(given)) => unify(wanted, given, bound),
        (wanted, given) => wanted.accepts(given),
    }
}

fn substitute(ty: &Type, bound: &HashMap<char, Type>) -> Type {
    match ty {
        Type::Param(name) => bound.get(name).cloned().unwrap_or(Type::Dyn),
        Type::List(of) => Type::list(substitute(&of.element, bound)),
        Type::Map(of) => Type::map(substitute(&of.0, bound), substitute(&of.1, bound)),
        Type::Optional(of) => Type::optional(substitute(of, bound)),
        other => other.clone(),
    }
}
