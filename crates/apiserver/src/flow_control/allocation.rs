//! How the server's seats are divided among priority levels, and lent. Pure. Start at [`nominal`] and [`rebalance`].
// upstream: apiserver pkg/util/flowcontrol, finishQueueSetReconfigsLocked, updateBorrowingLocked, conc_alloc.go
use super::queue_set::Observed;

/// How slowly demand is forgotten. upstream: seatDemandSmoothingCoefficient
const SMOOTHING: f64 = 0.977;
/// Targets are at least this. upstream: MinTarget
const MIN_TARGET: f64 = 0.001;

/// What a level's configuration says about seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// `nominalConcurrencyShares`.
    pub nominal: u32,
    /// `lendablePercent`.
    pub lendable: u32,
    /// `borrowingLimitPercent`; none: unlimited.
    pub borrowing: Option<u32>,
}

/// The seats of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// By its shares.
    pub nominal: usize,
    /// What it keeps when it lends all it may.
    pub min: usize,
    /// What it has when it borrows all it may.
    pub max: usize,
}

impl Limits {
    /// What a level begins with.
    pub fn initial(&self) -> usize {
        self.nominal - (self.nominal - self.min) / 2
    }
}

/// The seats of each level, of `total`.
pub fn nominal(shares: &[Shares], total: usize) -> Vec<Limits> {
    let sum: f64 = shares.iter().map(|shares| f64::from(shares.nominal)).sum();
    let limits = shares.iter().map(|shares| {
        let nominal = if sum > 0.0 { (total as f64 * f64::from(shares.nominal) / sum).ceil() } else { 0.0 };
        let part = |percent: u32| (nominal * f64::from(percent) / 100.0).round() as usize;
        let nominal_seats = nominal as usize;
        Limits {
            nominal: nominal_seats,
            min: nominal_seats.saturating_sub(part(shares.lendable)),
            max: nominal_seats + shares.borrowing.map_or(total, part),
        }
    });
    limits.collect()
}

/// What a level wanted lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wanted {
    /// At most, over the last period.
    pub high: usize,
    /// On average.
    pub average: f64,
    /// Around it.
    pub deviation: f64,
    /// Average and deviation, which fall slowly.
    pub smoothed: f64,
}

impl Wanted {
    /// With what was observed in a period more.
    pub fn update(&mut self, observed: Observed) {
        self.high = observed.high.round() as usize;
        if observed.is_some {
            (self.average, self.deviation) = (observed.average, observed.deviation);
            let envelope = observed.average + observed.deviation;
            self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
        }
    }
}

/// A level that seats are to be given to.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// Whether its requests never wait.
    pub exempt: bool,
    /// What it may have.
    pub limits: Limits,
    /// What it wants.
    pub wanted: Wanted,
}

impl Level {
    /// What it needs at once of what is its own.
    fn needed(&self) -> usize {
        match self.exempt {
            true => self.limits.min.max(self.wanted.high),
            false => self.limits.min.max(self.limits.nominal.min(self.wanted.high)),
        }
    }
}

/// The seats that each level has for the next period.
pub fn rebalance(levels: &[Level]) -> Vec<usize> {
    let total: usize = levels.iter().map(|level| level.limits.nominal).sum();
    let exempt: usize = levels.iter().filter(|level| level.exempt).map(Level::needed).sum();
    let rest = total.saturating_sub(exempt);
    let limited = || levels.iter().filter(|level| !level.exempt);
    let kept: usize = limited().map(|level| level.limits.min).sum();
    let needed: usize = limited().map(Level::needed).sum();
    let give: Box<dyn Fn(&Level) -> usize> = if rest <= kept {
        Box::new(|level| level.limits.min)
    } else if rest <= needed {
        let part = (rest - kept) as f64 / (needed - kept) as f64;
        Box::new(move |level| level.limits.min + ((level.needed() - level.limits.min) as f64 * part).round() as usize)
    } else {
        let bounded: Vec<Bounded> = limited().map(Bounded::of).collect();
        let part = fair_part(&bounded, total as f64);
        Box::new(move |level| Bounded::of(level).at(part).round() as usize)
    };
    levels.iter().map(|level| if level.exempt { level.needed() } else { give(level) }).collect()
}

/// A level's target and the limits to what it may be given.
#[derive(Clone, Copy, Debug)]
struct Bounded {
    target: f64,
    lower: f64,
    upper: f64,
}

impl Bounded {
    fn of(level: &Level) -> Self {
        let lower = level.needed() as f64;
        let target = lower.max(level.wanted.smoothed).max(MIN_TARGET);
        Bounded { target, lower, upper: (level.limits.max as f64).max(lower) }
    }

    fn at(&self, part: f64) -> f64 {
        (self.target * part).clamp(self.lower, self.upper)
    }
}

/// The multiple of the targets, within their limits, that sums up to `sum`.
fn fair_part(levels: &[Bounded], sum: f64) -> f64 {
    let given = |part: f64| levels.iter().map(|level| level.at(part)).sum::<f64>();
    // Between these points the sum grows evenly.
    let mut points: Vec<f64> =
        levels.iter().flat_map(|level| [level.lower / level.target, level.upper / level.target]).collect();
    points.sort_by(f64::total_cmp);
    let mut before = 0.0;
    for point in points {
        let (low, high) = (given(before), given(point));
        if high >= sum {
            return if high > low { before + (point - before) * (sum - low) / (high - low) } else { point };
        }
        before = point;
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggested() -> Vec<Shares> {
        // exempt, system, node-high, leader-election, workload-high, workload-low, global-default, catch-all
        let shares = [(0, 0), (30, 33), (40, 25), (10, 0), (40, 50), (100, 90), (20, 50), (5, 0)];
        shares
            .iter()
            .map(|(nominal, lendable)| Shares { nominal: *nominal, lendable: *lendable, borrowing: None })
            .collect()
    }

    fn levels(wanted: &[(usize, f64)]) -> Vec<Level> {
        let limits = nominal(&suggested(), 600);
        let level = |(i, limits): (usize, Limits)| {
            let (high, smoothed) = wanted.get(i).copied().unwrap_or_default();
            Level { exempt: i == 0, limits, wanted: Wanted { high, smoothed, ..Wanted::default() } }
        };
        limits.into_iter().enumerate().map(level).collect()
    }

    #[test]
    fn the_suggested_levels_have_upstreams_seats() {
        let limits = nominal(&suggested(), 600);
        let seats: Vec<_> = limits.iter().map(|limits| (limits.nominal, limits.min)).collect();
        assert_eq!(seats, [(0, 0), (74, 50), (98, 73), (25, 25), (98, 49), (245, 24), (49, 24), (13, 13)]);
        assert_eq!(limits[1].max, 674);
        let limits = nominal(&[Shares { nominal: 10, lendable: 50, borrowing: Some(20) }], 100);
        assert_eq!(limits, [Limits { nominal: 100, min: 50, max: 120 }]);
        assert_eq!(limits[0].initial(), 75);
    }

    #[test]
    fn a_level_that_is_asked_for_much_borrows_what_others_lend() {
        let seats = rebalance(&levels(&[(0, 0.0), (0, 0.0), (0, 0.0), (0, 0.0), (0, 0.0), (0, 0.0), (400, 400.0)]));
        let total: usize = seats.iter().sum();
        assert!((600..=606).contains(&total), "{seats:?}");
        assert!(seats[6] > 300, "{seats:?}");
        assert_eq!(seats[3], 25, "what is not lendable stays: {seats:?}");
    }

    #[test]
    fn who_needs_its_own_gets_it_back() {
        let mut wanted = vec![(0, 0.0); 8];
        (wanted[4], wanted[6]) = ((98, 98.0), (400, 400.0));
        let seats = rebalance(&levels(&wanted));
        assert!(seats[4] >= 98 && seats[6] > 200, "{seats:?}");
    }

    #[test]
    fn requests_that_never_wait_take_from_all() {
        let mut wanted = vec![(0, 0.0); 8];
        wanted[0] = (1000, 1000.0);
        let seats = rebalance(&levels(&wanted));
        assert_eq!(seats, [1000, 50, 73, 25, 49, 24, 24, 13]);
    }

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let mut wanted = Wanted::default();
        wanted.update(Observed { average: 10.0, deviation: 2.0, high: 15.0, is_some: true });
        assert_eq!((wanted.high, wanted.smoothed), (15, 12.0));
        wanted.update(Observed { average: 0.0, deviation: 0.0, high: 0.0, is_some: true });
        assert!((wanted.smoothed - 12.0 * SMOOTHING).abs() < 1e-9);
    }
}
