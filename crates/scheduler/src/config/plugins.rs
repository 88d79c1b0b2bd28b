//! Which plugins a profile has at which extension point.
use super::{Error, invalid};
use crate::algorithm::{FILTERS, Profile, SCORES};
use crate::framework::{DEFAULT_PLUGINS, Plugin};
use serde::Deserialize;

/// `plugins` of a profile.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginSets {
    pre_enqueue: PluginSet,
    queue_sort: PluginSet,
    pre_filter: PluginSet,
    filter: PluginSet,
    post_filter: PluginSet,
    pre_score: PluginSet,
    score: PluginSet,
    reserve: PluginSet,
    permit: PluginSet,
    pre_bind: PluginSet,
    bind: PluginSet,
    post_bind: PluginSet,
    multi_point: PluginSet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PluginSet {
    enabled: Vec<Named>,
    disabled: Vec<Named>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Named {
    name: String,
    weight: Option<i64>,
}

impl PluginSet {
    fn disables(&self, plugin: Plugin) -> bool {
        self.disabled.iter().any(|named| named.name == "*" || named.name == plugin.name())
    }

    /// Those named as enabled, with their weights.
    fn enables(&self) -> impl Iterator<Item = (Plugin, Option<i64>)> {
        self.enabled.iter().filter_map(|named| Some((Plugin::named(&named.name)?, named.weight.filter(|w| *w != 0))))
    }

    fn check(&self, field: &str) -> Result<(), Error> {
        for (list, names) in [("enabled", &self.enabled), ("disabled", &self.disabled)] {
            for (at, named) in names.iter().enumerate() {
                let known = Plugin::named(&named.name).is_some() || (list == "disabled" && named.name == "*");
                if !known && list == "enabled" {
                    let problem = format!("plugin \"{}\" does not exist", named.name);
                    return Err(invalid(format!("{field}.{list}[{at}]"), problem));
                }
            }
        }
        Ok(())
    }

    /// The plugins of an extension point at which `exists` do something: those of `multi_point` that it does not disable,
    /// then its own (upstream: `expandMultiPointPlugins`).
    fn expand(&self, multi_point: &[(Plugin, i64)], exists: &[Plugin]) -> Vec<(Plugin, i64)> {
        let own: Vec<_> = self.enables().filter(|(plugin, _)| exists.contains(plugin)).collect();
        let mut all: Vec<(Plugin, i64)> = multi_point
            .iter()
            .filter(|(plugin, _)| exists.contains(plugin) && !self.disables(*plugin))
            .map(|(plugin, weight)| {
                let replaced = own.iter().find(|(named, _)| named == plugin).and_then(|(_, weight)| *weight);
                (*plugin, replaced.unwrap_or(*weight))
            })
            .collect();
        for (plugin, weight) in own {
            if all.iter().all(|(known, _)| *known != plugin) {
                all.push((plugin, weight.unwrap_or(1)));
            }
        }
        all
    }
}

impl PluginSets {
    /// Gives `profile` its plugins.
    pub fn apply(&self, profile: &mut Profile, field: &str) -> Result<(), Error> {
        for (point, set) in [
            ("preEnqueue", &self.pre_enqueue),
            ("queueSort", &self.queue_sort),
            ("preFilter", &self.pre_filter),
            ("filter", &self.filter),
            ("postFilter", &self.post_filter),
            ("preScore", &self.pre_score),
            ("score", &self.score),
            ("reserve", &self.reserve),
            ("permit", &self.permit),
            ("preBind", &self.pre_bind),
            ("bind", &self.bind),
            ("postBind", &self.post_bind),
            ("multiPoint", &self.multi_point),
        ] {
            set.check(&format!("{field}.{point}"))?;
        }
        let multi_point = self.multi_points();
        let names = |plugins: Vec<(Plugin, i64)>| plugins.into_iter().map(|(plugin, _)| plugin).collect::<Vec<_>>();
        let at = |set: &PluginSet, exists: &[Plugin]| !set.expand(&multi_point, exists).is_empty();
        let prepared = names(self.pre_filter.expand(&multi_point, &FILTERS));
        // A filter without its preparation has nothing to say; these need none.
        let alone = [Plugin::NodeUnschedulable, Plugin::NodeName, Plugin::TaintToleration, Plugin::NodeAffinity];
        profile.filters = names(self.filter.expand(&multi_point, &FILTERS));
        profile.filters.retain(|plugin| prepared.contains(plugin) || alone.contains(plugin));
        profile.scores = self.score.expand(&multi_point, &SCORES);
        profile.gates = at(&self.pre_enqueue, &[Plugin::SchedulingGates]);
        profile.preempts = at(&self.post_filter, &[Plugin::DefaultPreemption]);
        if !at(&self.queue_sort, &[Plugin::PrioritySort]) {
            return Err(invalid(format!("{field}.queueSort"), "exactly one queue sort plugin is required"));
        }
        if !at(&self.bind, &[Plugin::DefaultBinder]) {
            return Err(invalid(format!("{field}.bind"), "at least one bind plugin is needed"));
        }
        Ok(())
    }

    /// The default plugins as `multiPoint` changes them (upstream: `mergePluginSet`).
    fn multi_points(&self) -> Vec<(Plugin, i64)> {
        let defaults = DEFAULT_PLUGINS.into_iter().map(|(plugin, weight)| (plugin, weight.max(1)));
        let own: Vec<_> = self.multi_point.enables().collect();
        let mut all: Vec<(Plugin, i64)> = defaults
            .filter(|(plugin, _)| !self.multi_point.disables(*plugin))
            .map(|(plugin, weight)| match own.iter().find(|(named, _)| *named == plugin) {
                Some((_, replaced)) => (plugin, replaced.unwrap_or(1)),
                None => (plugin, weight),
            })
            .collect();
        for (plugin, weight) in own {
            if all.iter().all(|(known, _)| *known != plugin) {
                all.push((plugin, weight.unwrap_or(1)));
            }
        }
        all
    }
}
