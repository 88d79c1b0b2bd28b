//! The queues of a priority level: who runs, who waits, who is turned away. Pure: time comes from outside. Start at
//! [`QueueSet`].
//!
//! Fairness between flows is start-time fair queueing: each queue has a virtual time at which its next request begins, which
//! grows by what its requests cost; the queue that is furthest behind goes first. What a request costs is guessed when it
//! starts and corrected when it ends.
// upstream: apiserver pkg/util/flowcontrol/fairqueuing/queueset, pkg/util/shufflesharding
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// What a request is taken to cost before that is known, in seconds. upstream: estimatedServiceDuration
const ESTIMATE: f64 = 0.003;
/// The largest hand. upstream: shufflesharding.MaxHashBits allows no more in practice
pub const MAX_HAND: usize = 10;

/// How requests that may not run at once are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    /// The number of queues; 0: requests are turned away.
    pub queues: usize,
    /// How many requests a queue holds.
    pub length: usize,
    /// How many queues a flow chooses from.
    pub hand: usize,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It runs, on account of this queue.
    Run(Slot),
    /// It waits.
    Wait(Ticket),
    /// It is turned away: there is no queue, or this flow's are full.
    Rejected(Rejection),
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The level queues nothing.
    ConcurrencyLimit,
    /// The queue has no room.
    QueueFull,
    /// It waited too long.
    TimeOut,
}

impl Rejection {
    /// As metrics name it.
    pub fn reason(self) -> &'static str {
        match self {
            Rejection::ConcurrencyLimit => "concurrency-limit",
            Rejection::QueueFull => "queue-full",
            Rejection::TimeOut => "time-out",
        }
    }
}

/// On whose account a request runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(Option<usize>);

/// A place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    queue: usize,
    id: u64,
}

impl Ticket {
    /// On whose account the request runs once it is let go.
    pub fn slot(self) -> Slot {
        Slot(Some(self.queue))
    }
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<(u64, T)>,
    executing: usize,
    /// The virtual time at which its next request begins.
    next: f64,
}

/// The queues of a level. `T` is what is needed to let a waiting request go.
#[derive(Debug)]
pub struct QueueSet<T> {
    queuing: Queuing,
    limit: usize,
    queues: Vec<Queue<T>>,
    executing: usize,
    waiting: usize,
    /// The virtual time of the request that began last.
    now: f64,
    robin: usize,
    arrivals: usize,
    next_id: u64,
    demand: Demand,
}

/// A queue as it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QueueState {
    /// How many requests wait in it.
    pub waiting: usize,
    /// How many run on its account.
    pub executing: usize,
    /// The virtual time of its next request.
    pub next: f64,
}

impl<T> QueueSet<T> {
    /// Queues of a level where `limit` requests run at the same time.
    pub fn new(queuing: Queuing, limit: usize, now: Instant) -> Self {
        let mut set = QueueSet {
            queuing: Queuing { queues: 0, length: 0, hand: 0 },
            limit,
            queues: Vec::new(),
            executing: 0,
            waiting: 0,
            now: 0.0,
            robin: 0,
            arrivals: 0,
            next_id: 0,
            demand: Demand::new(now),
        };
        set.set_queuing(queuing);
        set
    }

    /// How many requests run.
    pub fn executing(&self) -> usize {
        self.executing
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// What the queues are now.
    pub fn states(&self) -> impl Iterator<Item = QueueState> {
        self.queues.iter().map(|queue| QueueState {
            waiting: queue.waiting.len(),
            executing: queue.executing,
            next: queue.next,
        })
    }

    /// Who waits: queue and position.
    pub fn waiters(&self) -> impl Iterator<Item = (usize, usize, &T)> {
        let of = |(index, queue): (usize, &'_ Queue<T>)| (index, queue.waiting.len());
        let all: Vec<_> = self.queues.iter().enumerate().map(of).collect();
        all.into_iter()
            .flat_map(move |(queue, length)| (0..length).map(move |at| (queue, at, &self.queues[queue].waiting[at].1)))
    }

    /// Other queues; those that are too many are used up.
    pub fn set_queuing(&mut self, mut queuing: Queuing) {
        queuing.hand = queuing.hand.clamp(1, MAX_HAND).min(queuing.queues.max(1));
        self.queuing = queuing;
        while self.queues.len() < queuing.queues {
            self.queues.push(Queue { waiting: VecDeque::new(), executing: 0, next: self.now });
        }
    }

    /// Another limit; `start` lets go whom it now allows.
    pub fn set_limit(&mut self, limit: usize, now: Instant, start: impl FnMut(T) -> bool) {
        self.limit = limit;
        self.dispatch(start);
        self.note(now);
    }

    /// A request of the flow `hash` comes; `waiter` is only made if it has to wait.
    pub fn arrive(&mut self, hash: u64, now: Instant, waiter: impl FnOnce() -> T) -> Arrival {
        let free = self.executing < self.limit;
        if self.queuing.queues == 0 {
            if !free {
                return Arrival::Rejected(Rejection::ConcurrencyLimit);
            }
            self.executing += 1;
            self.note(now);
            return Arrival::Run(Slot(None));
        }
        let index = self.choose(hash);
        if free && self.waiting == 0 {
            self.start(index);
            self.note(now);
            return Arrival::Run(Slot(Some(index)));
        }
        let queue = &mut self.queues[index];
        if !free && queue.waiting.len() >= self.queuing.length {
            return Arrival::Rejected(Rejection::QueueFull);
        }
        let id = self.next_id;
        self.next_id += 1;
        queue.waiting.push_back((id, waiter()));
        self.waiting += 1;
        self.note(now);
        Arrival::Wait(Ticket { queue: index, id })
    }

    /// A request ends that ran for `took`; `start` lets go whom that gives room to, and says whether there still was somebody.
    pub fn finish(&mut self, slot: Slot, took: Duration, now: Instant, start: impl FnMut(T) -> bool) {
        self.executing = self.executing.saturating_sub(1);
        if let Some(queue) = slot.0.and_then(|index| self.queues.get_mut(index)) {
            queue.executing = queue.executing.saturating_sub(1);
            queue.next += took.as_secs_f64() - ESTIMATE;
        }
        self.dispatch(start);
        self.note(now);
    }

    /// Takes a waiting request away; false if it was let go meanwhile.
    pub fn cancel(&mut self, ticket: Ticket, now: Instant) -> bool {
        let Some(queue) = self.queues.get_mut(ticket.queue) else { return false };
        let Some(at) = queue.waiting.iter().position(|(id, _)| *id == ticket.id) else { return false };
        queue.waiting.remove(at);
        self.waiting -= 1;
        self.note(now);
        true
    }

    /// What was asked for since the last time.
    pub fn take_demand(&mut self, now: Instant) -> Observed {
        self.demand.take(now)
    }

    fn note(&mut self, now: Instant) {
        self.demand.set((self.executing + self.waiting) as f64, now);
    }

    /// The shortest queue of the flow's hand; among equals, each in its turn.
    fn choose(&mut self, hash: u64) -> usize {
        let mut hand = [0; MAX_HAND];
        let hand = deal(hash, self.queuing.queues, &mut hand[..self.queuing.hand]);
        let offset = self.arrivals % hand.len();
        self.arrivals = self.arrivals.wrapping_add(1);
        let turn = (0..hand.len()).map(|i| hand[(offset + i) % hand.len()]);
        turn.min_by_key(|index| self.queues[*index].waiting.len()).unwrap_or(0)
    }

    /// Counts a request that begins on account of a queue.
    fn start(&mut self, index: usize) {
        let queue = &mut self.queues[index];
        // A queue that was idle has saved nothing up.
        if queue.executing == 0 && queue.waiting.is_empty() {
            queue.next = queue.next.max(self.now);
        }
        self.now = self.now.max(queue.next);
        queue.next += ESTIMATE;
        queue.executing += 1;
        self.executing += 1;
    }

    fn dispatch(&mut self, mut start: impl FnMut(T) -> bool) {
        while self.waiting > 0 && self.executing < self.limit {
            let count = self.queues.len();
            let turn = (1..=count).map(|i| (self.robin + i) % count);
            let behind = turn
                .filter(|index| !self.queues[*index].waiting.is_empty())
                .min_by(|one, other| self.queues[*one].next.total_cmp(&self.queues[*other].next));
            let Some(index) = behind else { return };
            self.robin = index;
            let queue = &mut self.queues[index];
            if queue.executing == 0 {
                queue.next = queue.next.max(self.now);
            }
            let Some((_, waiter)) = queue.waiting.pop_front() else { return };
            self.waiting -= 1;
            if start(waiter) {
                self.start(index);
            }
        }
    }
}

/// Deals a hand of different queues out of `deck` by `hash`.
fn deal(hash: u64, deck: usize, hand: &mut [usize]) -> &[usize] {
    let mut left = hash;
    for i in 0..hand.len() {
        let choices = (deck - i) as u64;
        // Among the cards that are left, counted past those that were dealt.
        let mut card = usize::try_from(left % choices).unwrap_or(0);
        left /= choices;
        let dealt = &mut hand[..=i];
        let mut at = 0;
        while at < i && card >= dealt[at] {
            card += 1;
            at += 1;
        }
        dealt[at..].rotate_right(1);
        dealt[at] = card;
    }
    hand
}

/// How many seats are asked for, over time.
#[derive(Debug)]
struct Demand {
    value: f64,
    since: Instant,
    begin: Instant,
    sum: f64,
    squares: f64,
    high: f64,
}

/// What a [`Demand`] was over a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    /// The mean.
    pub average: f64,
    /// The standard deviation.
    pub deviation: f64,
    /// The largest value.
    pub high: f64,
    /// Whether any time passed.
    pub is_some: bool,
}

impl Demand {
    fn new(now: Instant) -> Self {
        Demand { value: 0.0, since: now, begin: now, sum: 0.0, squares: 0.0, high: 0.0 }
    }

    fn set(&mut self, value: f64, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        self.sum += self.value * seconds;
        self.squares += self.value * self.value * seconds;
        (self.value, self.since) = (value, now);
        self.high = self.high.max(value);
    }

    fn take(&mut self, now: Instant) -> Observed {
        self.set(self.value, now);
        let seconds = now.saturating_duration_since(self.begin).as_secs_f64();
        let observed = match seconds > 0.0 {
            true => {
                let average = self.sum / seconds;
                let deviation = (self.squares / seconds - average * average).max(0.0).sqrt();
                Observed { average, deviation, high: self.high, is_some: true }
            }
            false => Observed { high: self.high, ..Observed::default() },
        };
        *self = Demand { value: self.value, high: self.value, ..Demand::new(now) };
        observed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(queues: usize, length: usize, hand: usize, limit: usize) -> QueueSet<u32> {
        QueueSet::new(Queuing { queues, length, hand }, limit, Instant::now())
    }

    fn run(set: &mut QueueSet<u32>, hash: u64, name: u32) -> Arrival {
        set.arrive(hash, Instant::now(), || name)
    }

    #[tokio::test(start_paused = true)]
    async fn hands_hold_different_queues_and_depend_on_the_flow_only() {
        let mut seen = std::collections::BTreeSet::new();
        for hash in 0..20_000_u64 {
            let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (mut one, mut other) = ([0; 8], [0; 8]);
            let cards = deal(hash, 64, &mut one).to_vec();
            assert_eq!(cards, deal(hash, 64, &mut other));
            assert!(cards.iter().all(|card| *card < 64));
            assert!(cards.windows(2).all(|pair| pair[0] < pair[1]), "{cards:?}");
            seen.insert(cards);
        }
        assert!(seen.len() > 19_900, "{}", seen.len());
        let mut all = [0; 8];
        assert_eq!(deal(12_345, 8, &mut all), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_queues_the_limit_turns_away() {
        let mut set = set(0, 0, 0, 2);
        let Arrival::Run(slot) = run(&mut set, 0, 1) else { panic!("runs") };
        assert!(matches!(run(&mut set, 0, 2), Arrival::Run(_)));
        assert_eq!(run(&mut set, 0, 3), Arrival::Rejected(Rejection::ConcurrencyLimit));
        set.finish(slot, Duration::ZERO, Instant::now(), |_| true);
        assert!(matches!(run(&mut set, 0, 4), Arrival::Run(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_turns_away_and_an_ended_request_lets_the_next_go() {
        let mut set = set(1, 2, 1, 1);
        let Arrival::Run(slot) = run(&mut set, 7, 0) else { panic!("runs") };
        assert!(matches!(run(&mut set, 7, 1), Arrival::Wait(_)));
        let Arrival::Wait(second) = run(&mut set, 7, 2) else { panic!("waits") };
        assert_eq!(run(&mut set, 7, 3), Arrival::Rejected(Rejection::QueueFull));
        assert!(set.cancel(second, Instant::now()));
        assert!(!set.cancel(second, Instant::now()));
        let mut started = Vec::new();
        set.finish(slot, Duration::from_millis(1), Instant::now(), |name| {
            started.push(name);
            true
        });
        assert_eq!((started, set.executing(), set.waiting()), (vec![1], 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_left_without_a_word_gives_way() {
        let mut set = set(1, 5, 1, 1);
        let Arrival::Run(slot) = run(&mut set, 7, 0) else { panic!("runs") };
        run(&mut set, 7, 1);
        run(&mut set, 7, 2);
        let mut asked = Vec::new();
        set.finish(slot, Duration::ZERO, Instant::now(), |name| {
            asked.push(name);
            name == 2
        });
        assert_eq!((asked, set.executing(), set.waiting()), (vec![1, 2], 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_elephant_does_not_starve_a_mouse() {
        // Two queues, a flow for each: one has sent 50 requests before the other sends 5.
        let mut set = set(2, 100, 1, 1);
        let Arrival::Run(mut slot) = run(&mut set, 0, 0) else { panic!("runs") };
        for _ in 0..50 {
            run(&mut set, 0, 100);
        }
        for _ in 0..5 {
            run(&mut set, 1, 200);
        }
        let mut order = Vec::new();
        for _ in 0..10 {
            let mut next = None;
            set.finish(slot, Duration::from_millis(3), Instant::now(), |name| {
                next = Some(name);
                true
            });
            order.push(next.unwrap());
            slot = Slot(Some(usize::from(next == Some(200))));
        }
        let mice = order.iter().filter(|name| **name == 200).count();
        assert_eq!(mice, 5, "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_whose_requests_take_longer_gets_fewer_of_them() {
        let mut set = set(2, 1000, 1, 1);
        let Arrival::Run(mut slot) = run(&mut set, 0, 100) else { panic!("runs") };
        for _ in 0..200 {
            run(&mut set, 0, 100);
            run(&mut set, 1, 200);
        }
        let (mut long, mut short, mut current) = (0, 0, 100);
        for _ in 0..110 {
            let took = Duration::from_millis(if current == 100 { 30 } else { 3 });
            set.finish(slot, took, Instant::now(), |name| {
                current = name;
                true
            });
            slot = Slot(Some(usize::from(current == 200)));
            *(if current == 100 { &mut long } else { &mut short }) += 1;
        }
        assert!((8..=12).contains(&long), "{long} long, {short} short");
    }

    #[tokio::test(start_paused = true)]
    async fn a_higher_limit_lets_go_and_fewer_queues_are_used_up() {
        let mut set = set(4, 10, 2, 1);
        run(&mut set, 0, 0);
        for hash in 0..4 {
            run(&mut set, hash, 1);
        }
        set.set_queuing(Queuing { queues: 1, length: 10, hand: 2 });
        let mut started = 0;
        set.set_limit(3, Instant::now(), |_| {
            started += 1;
            true
        });
        assert_eq!((started, set.executing(), set.waiting()), (2, 3, 2));
        assert_eq!(set.queuing.hand, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn demand_is_averaged_over_time() {
        let mut demand = Demand::new(Instant::now());
        demand.set(4.0, Instant::now());
        tokio::time::advance(Duration::from_secs(5)).await;
        demand.set(0.0, Instant::now());
        tokio::time::advance(Duration::from_secs(5)).await;
        let observed = demand.take(Instant::now());
        assert_eq!(observed, Observed { average: 2.0, deviation: 2.0, high: 4.0, is_some: true });
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(demand.take(Instant::now()).high, 0.0);
    }
}
