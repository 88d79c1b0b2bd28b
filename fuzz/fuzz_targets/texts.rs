//! Texts with a grammar of their own are read or refused: JSON paths, schedules, durations, YAML.
#![no_main]
use jiff::{Timestamp, tz::TimeZone};
use libfuzzer_sys::fuzz_target;
use pintle_api::{cron::Schedule, duration, json_path::JsonPath};
use serde_json::json;

fuzz_target!(|text: &str| {
    if let Ok(path) = JsonPath::parse(text) {
        let _found = path.find(&json!({"a": [{"b": 1}, {"b": "x"}], "c": {"d": null}}));
    }
    if let Ok(schedule) = Schedule::parse(text, TimeZone::UTC) {
        let after = Timestamp::from_second(1_700_000_000).expect("a time");
        assert!(schedule.next(after).is_none_or(|next| next > after));
    }
    let _duration = duration::parse(text);
    let _yaml = pintle_apiserver::codec::decode("application/yaml", text.as_bytes());
});
