//! What reclaim keeps of a segment: leases, recency, and the bound on write amplification. Pure arithmetic.
//!
//! Three reasons to keep a unit (a record, or the parts of one large blob), strongest first:
//! 1. *Floor*: touched within the lease floor. Always kept; a segment full of such is left alone.
//! 2. *Target*: touched within the lease. Where what is leased takes no more than half of the store ([`LeasedShare`]) it is
//!    kept whatever it costs: the store has room for the promise. In a fuller one only as far as the credit goes, and only
//!    in segments older than the lease (in a younger one what was never hit goes in the order it was written, which is the
//!    order of its last touch).
//! 3. *Recency*: hit since its segment's last turn.
//!
//! A segment of which most is wanted is spared: it stays as it is for another turn, which costs no write. Of the others
//! the wanted units are written again, last touched first, as far as [`RewriteCredit`] goes. It is earned by what is
//! appended, so that write amplification stays at [`RECENCY_EARNS`] for recency and at [`LEASES_EARN`] for leases. What is
//! dropped inside its lease is counted: the store is too small for the promise.

use std::collections::HashMap;

use cask_index::{EpochLength, Location};

use crate::config::Plan;

/// A segment of which more than this share is protected by the floor is not worth reclaiming, and one of which more is
/// wanted not either. A record takes up to a sixteenth of a segment, so as much of a segment's end may stay empty when the
/// next one does not fit: unless clearly more than that is left behind, records are moved for ever and nothing is gained.
const KEPT_SHARE_MAX: (u64, u64) = (7, 8);
/// A segment of which at least this share is wanted is spared.
const SPARED_SHARE_MIN: (u64, u64) = (3, 4);
/// Of the bytes appended, the share that recency may rewrite: write amplification 1.17.
const RECENCY_EARNS: (u64, u64) = (1, 6);
/// ... and the share that leases may, recency's included: 1.33.
const LEASES_EARN: (u64, u64) = (1, 3);

/// What of a segment stands or falls together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Whole periods since it was touched; `None`: longer than the ring knows.
    pub(crate) age_periods: Option<u8>,
    /// Touched since it was written, or since its segment was spared.
    pub(crate) hit: bool,
    /// Protected whatever its age says, for so many milliseconds yet: parts of an upload under way, and everything
    /// for a while after a crash.
    pub(crate) protected_for_ms: u64,
}

/// The promise, and what may be spent on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseTerms {
    pub(crate) lease_ms: u64,
    pub(crate) lease_floor_ms: u64,
    pub(crate) epochs: EpochLength,
    /// The segment was sealed longer ago than the lease.
    pub(crate) outlived_lease: bool,
    /// What is leased fits into the store with ease.
    pub(crate) roomy: bool,
    /// It must go even if all of it is wanted and has to be written again.
    pub(crate) whole: bool,
    pub(crate) budget: RewriteBudget,
    /// Recency keeps what ranks below this (see [`Window`]).
    pub(crate) window_ranks: u8,
}

/// Bytes of one segment that may be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RewriteBudget {
    /// Because they were hit.
    pub(crate) recent_bytes: u64,
    /// Because they are leased, those above included.
    pub(crate) leased_bytes: u64,
}

impl RewriteBudget {
    /// Only the floor counts.
    pub(crate) const NONE: Self = Self { recent_bytes: 0, leased_bytes: 0 };
}

/// Bytes that may be rewritten before write amplification exceeds its bounds, saved up to a limit, so that a store that was
/// quiet for long does not rewrite itself for hours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RewriteCredit {
    recent: Account,
    /// For leases alone, when the other is used up.
    leased: Account,
    bytes_max: u64,
    appended_seen: u64,
    rewritten_seen: u64,
}

/// In sixths of a byte, so that nothing is lost by division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Account {
    sixths: u64,
    /// Sixths earned by a byte appended.
    earns: u64,
}

const SIXTHS: u64 = 6;
const _: () = assert!(RECENCY_EARNS.1 == SIXTHS && SIXTHS.is_multiple_of(LEASES_EARN.1));

impl Account {
    fn earn(&mut self, appended_bytes: u64, bytes_max: u64) {
        self.sixths = (self.sixths + appended_bytes * self.earns).min(bytes_max * SIXTHS);
    }

    /// Takes what there is; returns what is left to pay.
    fn spend(&mut self, bytes: u64) -> u64 {
        let paid = (self.sixths / SIXTHS).min(bytes);
        self.sixths -= paid * SIXTHS;
        bytes - paid
    }

    fn bytes(self) -> u64 {
        self.sixths / SIXTHS
    }
}

impl RewriteCredit {
    /// Full at the start: what was hot before a restart may be moved at once.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self::full((plan.max_size_bytes / 64).max(u64::from(plan.geometry.segment_size_bytes)))
    }

    /// With so much saved up in each of the two accounts.
    fn full(bytes_max: u64) -> Self {
        let recent = RECENCY_EARNS.0;
        let leased = LEASES_EARN.0 * (SIXTHS / LEASES_EARN.1) - recent;
        let account = |earns| Account { sixths: bytes_max * SIXTHS, earns };
        Self { recent: account(recent), leased: account(leased), bytes_max, appended_seen: 0, rewritten_seen: 0 }
    }

    /// Brings it up to date with the counters and says what may be spent on a segment.
    ///
    /// Recency gets the share of the segment that its account is full to: a share that shrinks smoothly as the account
    /// empties treats one segment like the next, where spending all of it on the first would leave the others nothing.
    pub(crate) fn update(&mut self, appended_bytes: u64, rewritten_bytes: u64, segment_bytes: u64) -> RewriteBudget {
        let appended = appended_bytes - self.appended_seen;
        let rewritten = rewritten_bytes - self.rewritten_seen;
        self.recent.earn(appended, self.bytes_max);
        self.leased.earn(appended, self.bytes_max);
        let unpaid = self.recent.spend(rewritten);
        // What the floor took beyond this is not owed: it is kept whatever it costs.
        self.leased.spend(unpaid);
        self.appended_seen = appended_bytes;
        self.rewritten_seen = rewritten_bytes;
        let recent_bytes = self
            .recent
            .bytes()
            .min((u128::from(segment_bytes) * u128::from(self.recent.bytes()) / u128::from(self.bytes_max)) as u64);
        RewriteBudget { recent_bytes, leased_bytes: self.recent.bytes() + self.leased.bytes() }
    }
}

/// How little a unit is worth keeping for recency: its age weighs twice as much as its size.
///
/// A build misses an action whether its output is small or large, so keeping sixteen records of 4 KB serves more requests
/// than keeping one of 64 KB. In quarters of a doubling: twice the age is 4 more, twice the size 2.
fn rank(unit: &Unit) -> u8 {
    let age = unit.age_periods.unwrap_or(EpochLength::AGE_PERIODS_MAX + 1);
    let units_of_space = unit.bytes as f64 / f64::from(Location::UNIT_BYTES);
    ((4.0 * f64::from(age + 1).log2() + 2.0 * (units_of_space + 1.0).log2()) as u8).min(RANKS as u8 - 1)
}

const RANKS: usize = 80;

/// The recency window: up to which rank units are written again for it.
///
/// It is as wide as what is earned allows: what the segments that were reclaimed lately held, by rank, says how much a
/// window would have cost.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Bytes that were hit, by rank.
    hit_bytes: [f64; RANKS],
    /// Bytes of the segments they stood in.
    segment_bytes: f64,
}

/// What is known of a segment weighs so much less with each later one.
const FADES: f64 = 0.98;

impl Window {
    pub(crate) fn new() -> Self {
        Self { hit_bytes: [0.0; RANKS], segment_bytes: 0.0 }
    }

    /// A segment is reclaimed.
    pub(crate) fn note(&mut self, units: &[Unit], segment_bytes: u64) {
        self.hit_bytes.iter_mut().for_each(|bytes| *bytes *= FADES);
        self.segment_bytes = self.segment_bytes * FADES + segment_bytes as f64;
        for unit in units.iter().filter(|unit| unit.hit) {
            self.hit_bytes[usize::from(rank(unit))] += unit.bytes as f64;
        }
    }

    /// The widest window that rewrites no more than recency earns: ranks below this.
    pub(crate) fn ranks(&self) -> u8 {
        // Each byte written again is one that reclaim did not win.
        let share = RECENCY_EARNS.0 as f64 / (RECENCY_EARNS.0 + RECENCY_EARNS.1) as f64;
        let mut left = self.segment_bytes * share;
        let fits = |bytes: &&f64| {
            left -= **bytes;
            left >= 0.0
        };
        // The last one that does not fit whole is kept as far as the credit goes.
        self.hit_bytes.iter().take_while(fits).count() as u8 + 1
    }
}

/// How much of the store is leased: says whether it has room for its promise.
///
/// Segments that reclaim looked at are known; those that it has not come to yet are taken for what others were when it first
/// looked at them. (An average over looks would not do: what is spared is looked at again and again.)
#[derive(Clone, Debug, Default)]
pub(crate) struct LeasedShare {
    /// Leased bytes by segment.
    known: HashMap<u32, u64>,
    known_bytes: u64,
    /// Of first looks, fading.
    first_bytes: f64,
    first_count: f64,
    /// Steps in a row that took nothing for the sake of leases.
    passed_over: usize,
}

/// Up to this share the leased are kept whatever it costs: what is taken then wins half of itself on average, or more.
const ROOMY_SHARE_MAX: f64 = 0.5;

impl LeasedShare {
    /// A segment was looked at.
    pub(crate) fn note(&mut self, number: u32, leased_bytes: u64) {
        match self.known.insert(number, leased_bytes) {
            Some(before) => self.known_bytes -= before,
            None => {
                self.first_bytes = self.first_bytes * FADES + leased_bytes as f64;
                self.first_count = self.first_count * FADES + 1.0;
            }
        }
        self.known_bytes += leased_bytes;
    }

    /// A segment was reclaimed.
    pub(crate) fn forget(&mut self, number: u32) {
        self.known_bytes -= self.known.remove(&number).unwrap_or(0);
        self.passed_over = 0;
    }

    /// Nothing was taken because a lease would have been broken. False when that has gone on for a whole turn of the
    /// segments: then what there is must be taken.
    pub(crate) fn pass_over(&mut self, steps_max: usize) -> bool {
        self.passed_over += 1;
        self.passed_over <= steps_max
    }

    /// Whether what is leased fits with ease into `segment_count` sealed segments. Taken for granted until half of them
    /// were looked at: the oldest, which come first, say little about the others.
    pub(crate) fn is_roomy(&self, segment_count: usize, segment_bytes: u64) -> bool {
        if self.known.len() * 2 < segment_count {
            return true;
        }
        let first = self.first_bytes / self.first_count.max(1.0);
        let leased = self.known_bytes as f64 + first * segment_count.saturating_sub(self.known.len()) as f64;
        leased <= ROOMY_SHARE_MAX * segment_bytes as f64 * segment_count as f64
    }
}

/// What to do with a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may be reclaimed.
    Reclaim(Sentence),
    /// Too much is protected by the floor; worth a look again after this time.
    TooYoung { retry_after_ms: u64 },
}

/// What becomes of a segment if it is reclaimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sentence {
    /// By unit.
    pub(crate) fates: Vec<Fate>,
    /// Bytes of those that are kept.
    pub(crate) kept_bytes: u64,
    /// Most of it is wanted: better left as it is, if another segment can be taken.
    pub(crate) spare: bool,
}

impl Sentence {
    /// Something would go within its lease.
    pub(crate) fn breaks_lease(&self) -> bool {
        self.fates.iter().any(|fate| fate.leased && !fate.keep)
    }
}

/// What becomes of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) keep: bool,
    /// Protected by the floor.
    pub(crate) floor: bool,
    /// Touched within the lease.
    pub(crate) leased: bool,
    /// At least so long ago it was last touched; ages beyond the ring are its length.
    pub(crate) idle_ms_min: u64,
}

impl LeaseTerms {
    /// Milliseconds for which the floor still protects a unit. A touch `age` periods ago is at least `age - 1` whole
    /// periods old, so this errs on the side of protecting.
    fn floor_left_ms(&self, unit: &Unit) -> u64 {
        let by_age = match unit.age_periods {
            Some(_) => self.lease_floor_ms.saturating_sub(self.idle_ms_min(unit)),
            None => 0,
        };
        by_age.max(unit.protected_for_ms)
    }

    fn idle_ms_min(&self, unit: &Unit) -> u64 {
        let age = unit.age_periods.map_or(EpochLength::AGE_PERIODS_MAX, |age| age.saturating_sub(1));
        u64::from(age) * self.epochs.length_ms
    }

    /// Bytes of the leased units.
    pub(crate) fn leased_bytes(&self, units: &[Unit]) -> u64 {
        units.iter().filter(|unit| self.leased(unit)).map(|unit| unit.bytes).sum()
    }

    fn leased(&self, unit: &Unit) -> bool {
        unit.age_periods.is_some() && self.idle_ms_min(unit) < self.lease_ms
    }
}

/// Decides over the live units of a segment of `segment_bytes`.
pub(crate) fn judge(units: &[Unit], segment_bytes: u64, terms: &LeaseTerms) -> Verdict {
    let mut floor_left: Vec<(u64, u64)> =
        units.iter().map(|unit| (terms.floor_left_ms(unit), unit.bytes)).filter(|(left_ms, _)| *left_ms > 0).collect();
    let floor_bytes: u64 = floor_left.iter().map(|(_, bytes)| bytes).sum();
    let kept_bytes_max = if terms.whole { u64::MAX } else { segment_bytes * KEPT_SHARE_MAX.0 / KEPT_SHARE_MAX.1 };
    if floor_bytes > kept_bytes_max {
        floor_left.sort_unstable();
        let mut excess = floor_bytes - kept_bytes_max;
        let last = floor_left.iter().find(|(_, bytes)| {
            let enough = *bytes >= excess;
            excess = excess.saturating_sub(*bytes);
            enough
        });
        return Verdict::TooYoung { retry_after_ms: last.map_or(1, |(left_ms, _)| *left_ms).max(1) };
    }

    let fate = |unit: &Unit| {
        let floor = terms.floor_left_ms(unit) > 0;
        Fate { keep: floor, floor, leased: terms.leased(unit), idle_ms_min: terms.idle_ms_min(unit) }
    };
    let mut fates: Vec<Fate> = units.iter().map(fate).collect();
    let mut kept_bytes = floor_bytes;

    let wanted = |position: &usize| {
        let (unit, fate) = (&units[*position], &fates[*position]);
        !fate.floor && (unit.hit || (fate.leased && (terms.outlived_lease || terms.roomy)))
    };
    let mut rest: Vec<usize> = (0..units.len()).filter(wanted).collect();
    let wanted_bytes: u64 = floor_bytes + rest.iter().map(|position| units[*position].bytes).sum::<u64>();
    // Leases first, last touched first; then by rank. The log's order decides between equals, for determinism.
    rest.sort_by_key(|position| {
        let (unit, fate) = (&units[*position], &fates[*position]);
        let order = if fate.leased { unit.age_periods.unwrap_or(u8::MAX) } else { rank(unit) };
        (!fate.leased, order, *position)
    });
    for position in rest {
        let inside = rank(&units[position]) < terms.window_ranks;
        let recent_bytes = if inside { terms.budget.recent_bytes } else { 0 };
        let budget = match fates[position].leased {
            true if terms.roomy || terms.whole => u64::MAX,
            true => terms.budget.leased_bytes,
            false => recent_bytes,
        };
        let budget = budget.min(kept_bytes_max);
        if kept_bytes + units[position].bytes <= budget {
            kept_bytes += units[position].bytes;
            fates[position].keep = true;
        }
    }
    let spare = !terms.whole && wanted_bytes * SPARED_SHARE_MIN.1 >= segment_bytes * SPARED_SHARE_MIN.0;
    Verdict::Reclaim(Sentence { fates, kept_bytes, spare })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    /// No bound on rewriting and no window: what is wanted is kept.
    const PLENTY: RewriteBudget = RewriteBudget { recent_bytes: u64::MAX, leased_bytes: u64::MAX };

    fn terms(lease_min: u64, floor_min: u64, outlived_lease: bool) -> LeaseTerms {
        LeaseTerms {
            lease_ms: lease_min * MINUTE,
            lease_floor_ms: floor_min * MINUTE,
            epochs: EpochLength { length_ms: 5 * MINUTE },
            outlived_lease,
            roomy: false,
            whole: false,
            budget: RewriteBudget { recent_bytes: 250, leased_bytes: 250 },
            window_ranks: u8::MAX,
        }
    }

    fn unit(bytes: u64, age_periods: Option<u8>, hit: bool) -> Unit {
        Unit { bytes, age_periods, hit, protected_for_ms: 0 }
    }

    fn sentence(units: &[Unit], terms: &LeaseTerms) -> Sentence {
        match judge(units, 1000, terms) {
            Verdict::Reclaim(sentence) => sentence,
            Verdict::TooYoung { .. } => panic!("too young"),
        }
    }

    fn kept(units: &[Unit], terms: &LeaseTerms) -> Vec<bool> {
        sentence(units, terms).fates.iter().map(|fate| fate.keep).collect()
    }

    fn leases_broken(units: &[Unit], terms: &LeaseTerms) -> usize {
        sentence(units, terms).fates.iter().filter(|fate| fate.leased && !fate.keep).count()
    }

    #[test]
    fn old_and_never_hit_is_dropped() {
        assert_eq!(kept(&[unit(900, None, false)], &terms(240, 10, true)), [false]);
    }

    #[test]
    fn what_the_floor_protects_is_kept_whatever_it_costs() {
        let units = [unit(600, Some(0), false), unit(250, Some(2), false), unit(150, Some(9), false)];
        let mut terms = terms(240, 10, false);
        for budget in [RewriteBudget::NONE, PLENTY] {
            terms.budget = budget;
            assert_eq!(kept(&units, &terms), [true, true, false]);
        }
        let floor: Vec<bool> = sentence(&units, &terms).fates.iter().map(|fate| fate.floor).collect();
        assert_eq!(floor, [true, true, false]);
    }

    #[test]
    fn a_segment_full_of_floor_is_left_alone_until_enough_of_it_ages() {
        let units = [unit(500, Some(0), false), unit(150, Some(2), false), unit(350, Some(1), false)];
        // Age 2 is at least 5 min old: 5 of the 10 min are left.
        assert_eq!(judge(&units, 1000, &terms(240, 10, false)), Verdict::TooYoung { retry_after_ms: 5 * MINUTE });
    }

    /// Actions are taken in order: one segment of them that is wanted throughout must not stop the others.
    #[test]
    fn what_must_go_is_kept_whole_and_never_left_alone() {
        let units = [unit(500, Some(0), false), unit(500, Some(0), true)];
        let mut terms = terms(240, 10, false);
        terms.whole = true;
        assert_eq!(kept(&units, &terms), [true, true]);
        assert!(!sentence(&units, &terms).spare);
    }

    #[test]
    fn a_lease_is_kept_on_credit_last_touched_first_and_counted_when_it_is_not() {
        let units = [unit(400, Some(20), false), unit(400, Some(10), false), unit(200, None, false)];
        let mut terms = terms(240, 10, true);
        terms.budget = PLENTY;
        assert_eq!(kept(&units, &terms), [true, true, false]);
        terms.budget = RewriteBudget { recent_bytes: 0, leased_bytes: 500 };
        assert_eq!(kept(&units, &terms), [false, true, false]);
        assert_eq!(leases_broken(&units, &terms), 1);
        assert_eq!(sentence(&units, &terms).kept_bytes, 400);
    }

    #[test]
    fn a_store_that_turns_over_too_fast_keeps_what_was_hit_and_counts_the_rest() {
        let units =
            [unit(200, Some(9), false), unit(200, Some(4), false), unit(200, Some(8), true), unit(40, Some(30), true)];
        let terms = terms(240, 10, false);
        assert_eq!(kept(&units, &terms), [false, false, true, true]);
        assert_eq!(leases_broken(&units, &terms), 2);
    }

    #[test]
    fn without_leases_what_was_hit_is_kept_as_far_as_the_budget_goes() {
        let units =
            [unit(200, Some(3), true), unit(200, Some(1), true), unit(200, Some(0), false), unit(50, None, true)];
        assert_eq!(kept(&units, &terms(0, 0, true)), [false, true, false, true]);
    }

    /// A promise that the store has room for is kept whatever it costs, and in young segments too: a record that was moved is
    /// older than the segment it stands in.
    #[test]
    fn where_there_is_room_for_the_leased_they_are_kept_without_credit() {
        let units = [unit(300, Some(9), false), unit(300, Some(20), false), unit(300, None, false)];
        let mut terms = terms(240, 10, false);
        terms.budget = RewriteBudget { recent_bytes: 0, leased_bytes: 0 };
        assert_eq!(kept(&units, &terms), [false, false, false]);
        terms.roomy = true;
        assert_eq!(kept(&units, &terms), [true, true, false]);
        assert_eq!(terms.leased_bytes(&units), 600);
    }

    #[test]
    fn what_is_spared_and_seen_often_does_not_make_a_store_look_full() {
        let mut share = LeasedShare::default();
        assert!(share.is_roomy(10, 1000), "nothing is known yet");
        for _ in 0..100 {
            share.note(1, 900);
        }
        share.note(2, 100);
        share.note(3, 200);
        assert!(share.is_roomy(6, 1000), "1200 are known, and three more are taken for 400 each");
        share.note(2, 900);
        share.note(3, 900);
        assert!(!share.is_roomy(3, 1000));
        share.forget(2);
        assert!(share.is_roomy(10, 1000));
    }

    /// Of equal age the small go first: sixteen of them serve more requests than one of the same bytes.
    #[test]
    fn the_window_is_longer_for_the_small() {
        let units = [unit(64 << 10, Some(4), true), unit(4 << 10, Some(18), true), unit(4 << 10, Some(19), true)];
        let mut terms = terms(0, 0, true);
        terms.budget = PLENTY;
        let window_for = |unit: &Unit| rank(unit) + 1;
        terms.window_ranks = window_for(&units[1]);
        let Verdict::Reclaim(sentence) = judge(&units, 1 << 20, &terms) else { panic!() };
        assert_eq!(sentence.fates.iter().map(|fate| fate.keep).collect::<Vec<_>>(), [true, true, true]);
        terms.window_ranks = window_for(&unit(4 << 10, Some(4), true));
        let Verdict::Reclaim(sentence) = judge(&units, 1 << 20, &terms) else { panic!() };
        assert_eq!(sentence.fates.iter().map(|fate| fate.keep).collect::<Vec<_>>(), [false, false, false]);
    }

    /// Tools uploaded together fill whole segments: such a segment stays where it is.
    #[test]
    fn a_segment_that_is_hot_throughout_is_spared() {
        let hot = |count: usize| -> Vec<Unit> { (0..10).map(|number| unit(100, Some(0), number < count)).collect() };
        assert!(sentence(&hot(10), &terms(0, 0, true)).spare);
        assert!(sentence(&hot(8), &terms(0, 0, true)).spare);
        assert!(!sentence(&hot(7), &terms(0, 0, true)).spare);
        let mut terms = terms(0, 0, true);
        terms.budget = PLENTY;
        assert_eq!(sentence(&hot(10), &terms).kept_bytes, 800, "reclaim frees something, if it must be taken");
    }

    #[test]
    fn protection_after_a_crash_counts_as_floor() {
        let mut fresh = unit(100, None, false);
        fresh.protected_for_ms = 10;
        assert_eq!(kept(&[fresh], &terms(240, 10, true)), [true]);
    }

    #[test]
    fn credit_is_earned_by_appends_and_saved_up_to_a_limit() {
        let mut credit = RewriteCredit::full(100);
        let budget = |recent_bytes, leased_bytes| RewriteBudget { recent_bytes, leased_bytes };
        assert_eq!(credit.update(0, 0, 1000), budget(100, 200));
        assert_eq!(credit.update(0, 70, 1000), budget(30, 130), "recency pays first");
        assert_eq!(credit.update(0, 130, 1000), budget(0, 70), "what it cannot pay is paid for leases");
        assert_eq!(credit.update(0, 900, 1000), budget(0, 0), "what the floor took is not owed");
        assert_eq!(credit.update(7, 900, 1000), budget(1, 2), "a sixth for each");
        assert_eq!(credit.update(12, 900, 1000), budget(2, 4), "sixths are not lost");
        assert_eq!(credit.update(9012, 900, 1000), budget(100, 200));
        assert_eq!(credit.update(9012, 940, 50), budget(30, 160), "of a segment, the share that is saved");
    }

    /// Whatever the mix, the window rewrites about what recency earns.
    #[test]
    fn the_window_is_as_wide_as_what_is_earned() {
        for hit_share in [1, 3, 6, 9] {
            let mut window = Window::new();
            let units: Vec<Unit> =
                (0..100).map(|number| unit(640, Some(number % 48), number % 10 < hit_share)).collect();
            (0..200).for_each(|_| window.note(&units, 64_000));
            let ranks = window.ranks();
            let cost = |below: u8| -> u64 {
                units.iter().filter(|unit| unit.hit && rank(unit) < below).map(|unit| unit.bytes).sum()
            };
            let earned = 64_000 / 7;
            assert!(cost(ranks - 1) <= earned, "{hit_share}");
            assert!(cost(ranks) > earned || cost(u8::MAX) <= earned, "{hit_share}: it could be wider");
        }
    }
}
