//! The objects that configure flow control, and what is made of them. Start at [`Objects::digest`].
// upstream: apiserver pkg/util/flowcontrol, lockAndDigestConfigObjects
use super::allocation::{Shares, nominal, rebalance};
use super::level::Level;
use super::queue_set::Queuing;
use super::report::Counters;
use super::schema::FlowSchema;
use super::status::Condition;
use crate::request_info::RequestInfo;
use crate::value::Read;
use http::HeaderValue;
use pintle_api::meta::ObjectExt;
use pintle_api::user::UserInfo;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// What requests are matched with.
#[derive(Debug, Default)]
pub(super) struct Config {
    /// In the order in which they are asked.
    pub schemas: Vec<Arc<Schema>>,
    /// By name.
    pub levels: Vec<Arc<Level>>,
}

/// A schema and its level.
#[derive(Debug)]
pub(super) struct Schema {
    pub rules: FlowSchema,
    pub uid: HeaderValue,
    pub level: Arc<Level>,
    pub level_uid: HeaderValue,
    pub counters: Arc<Counters>,
}

impl Config {
    /// The schema of a request: the first that matches, or the last one.
    pub(super) fn classify(&self, user: &UserInfo, info: &RequestInfo) -> Option<Arc<Schema>> {
        let found = self.schemas.iter().find(|schema| schema.rules.matches(user, info));
        found.or(self.schemas.last()).cloned()
    }
}

/// A level's object, read once.
#[derive(Clone, Debug)]
struct LevelSpec {
    uid: String,
    exempt: bool,
    shares: Shares,
    queuing: Queuing,
}

impl LevelSpec {
    fn of(object: &Value) -> Self {
        let spec = object.field("spec");
        let exempt = spec.text("type") == "Exempt";
        let part = spec.field(if exempt { "exempt" } else { "limited" });
        let count = |value: &Value, field: &str| usize::try_from(value.int(field)).unwrap_or(0);
        let percent = |field: &str| u32::try_from(part.int(field)).unwrap_or(0);
        let response = part.field("limitResponse");
        let queues = response.field("queuing");
        let queuing = match response.text("type") {
            "Queue" => Queuing {
                queues: count(queues, "queues").max(1),
                length: count(queues, "queueLengthLimit"),
                hand: count(queues, "handSize"),
            },
            _ => Queuing { queues: 0, length: 0, hand: 0 },
        };
        let otherwise = if exempt { 0 } else { 30 };
        let nominal =
            if part.has("nominalConcurrencyShares") { percent("nominalConcurrencyShares") } else { otherwise };
        let borrowing = (!exempt && part.has("borrowingLimitPercent")).then(|| percent("borrowingLimitPercent"));
        let shares = Shares { nominal, lendable: percent("lendablePercent").min(100), borrowing };
        LevelSpec { uid: object.uid().to_owned(), exempt, shares, queuing }
    }
}

/// The objects as they are, and what lives on when they change.
#[derive(Debug)]
pub(super) struct Objects {
    seats: usize,
    level_specs: BTreeMap<String, LevelSpec>,
    schemas: BTreeMap<String, (FlowSchema, Option<Condition>)>,
    /// What must always be there, if there is no object.
    mandatory_levels: Vec<(String, LevelSpec)>,
    mandatory_schemas: Vec<FlowSchema>,
    levels: BTreeMap<String, Arc<Level>>,
    counters: BTreeMap<(String, String), Arc<Counters>>,
}

impl Objects {
    /// No objects; `built_in` are those that every cluster has from the start.
    pub(super) fn new(seats: usize, built_in: &[Value]) -> Self {
        let mandatory = |kind: &str| {
            let is = |object: &&Value| object.kind() == kind && matches!(object.name(), "exempt" | "catch-all");
            built_in.iter().filter(is).collect::<Vec<_>>()
        };
        let level = |object: &Value| (object.name().to_owned(), LevelSpec::of(object));
        Objects {
            seats,
            mandatory_levels: mandatory("PriorityLevelConfiguration").into_iter().map(level).collect(),
            mandatory_schemas: mandatory("FlowSchema").into_iter().map(FlowSchema::of).collect(),
            level_specs: BTreeMap::new(),
            schemas: BTreeMap::new(),
            levels: BTreeMap::new(),
            counters: BTreeMap::new(),
        }
    }

    /// A PriorityLevelConfiguration changed, or is gone.
    pub(super) fn set_level(&mut self, name: &str, object: Option<Value>) {
        match object {
            Some(object) => self.level_specs.insert(name.to_owned(), LevelSpec::of(&object)),
            None => self.level_specs.remove(name),
        };
    }

    /// A FlowSchema changed, or is gone.
    pub(super) fn set_schema(&mut self, name: &str, object: Option<Value>) {
        match object {
            Some(object) => {
                let held = (FlowSchema::of(&object), Condition::of(&object));
                self.schemas.insert(name.to_owned(), held);
            }
            None => {
                self.schemas.remove(name);
            }
        }
    }

    /// What requests are to be matched with, and the conditions that objects do not yet have.
    pub(super) fn digest(&mut self, now: Instant) -> (Config, Vec<(String, Condition)>) {
        let mut specs = self.level_specs.clone();
        for (name, spec) in &self.mandatory_levels {
            specs.entry(name.clone()).or_insert_with(|| spec.clone());
        }
        let shares: Vec<Shares> = specs.values().map(|spec| spec.shares).collect();
        let mut levels = BTreeMap::new();
        for ((name, spec), limits) in specs.iter().zip(nominal(&shares, self.seats)) {
            let held = self.levels.remove(name).filter(|level| level.exempt == spec.exempt);
            let level = match held {
                Some(level) => {
                    level.configure(spec.queuing, limits);
                    level
                }
                None => Arc::new(Level::new(name, spec.exempt, spec.queuing, limits, now)),
            };
            levels.insert(name.clone(), level);
        }
        self.levels = levels;
        let config_levels: Vec<Arc<Level>> = self.levels.values().cloned().collect();
        let asked: Vec<_> = config_levels.iter().map(|level| level.wanted(now)).collect();
        for (level, seats) in config_levels.iter().zip(rebalance(&asked)) {
            level.set_seats(seats, now);
        }
        let conditions = self.conditions();
        let schemas = self.ordered().into_iter().filter_map(|rules| self.schema(rules, &specs)).collect();
        (Config { schemas, levels: config_levels }, conditions)
    }

    /// The schemas in the order in which they are asked.
    fn ordered(&self) -> Vec<FlowSchema> {
        let mut all: Vec<FlowSchema> = self.schemas.values().map(|(schema, _)| schema.clone()).collect();
        all.extend(self.mandatory_schemas.iter().filter(|schema| !self.schemas.contains_key(&schema.name)).cloned());
        all.sort_by(|one, other| (one.precedence, &one.name).cmp(&(other.precedence, &other.name)));
        all
    }

    fn schema(&mut self, rules: FlowSchema, specs: &BTreeMap<String, LevelSpec>) -> Option<Arc<Schema>> {
        let level = self.levels.get(&rules.level)?.clone();
        let header = |text: &str| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        let key = (rules.name.clone(), rules.level.clone());
        let counters = self.counters.entry(key).or_default().clone();
        Some(Arc::new(Schema {
            uid: header(&rules.uid),
            level_uid: header(&specs.get(&rules.level)?.uid),
            rules,
            level,
            counters,
        }))
    }

    /// The conditions that objects should have and do not.
    fn conditions(&self) -> Vec<(String, Condition)> {
        let wanted = self.schemas.iter().filter_map(|(name, (schema, held))| {
            let condition =
                Condition { dangling: !self.levels.contains_key(&schema.level), level: schema.level.clone() };
            (held.as_ref() != Some(&condition)).then(|| (name.clone(), condition))
        });
        wanted.collect()
    }
}
