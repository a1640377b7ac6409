//! How fast a phase is, and how long it will take.
//!
//! The rate is that of the second half of the time so far. What went fast at the beginning, such as evaluations that
//! are replayed from a journal, is forgotten, and a change of speed is followed. Work that arrives in bursts, such as
//! the answers of a batch, leaves pauses without any. A pause no longer than the longest before it says nothing about
//! the speed: the time left counts down through it. Only what goes beyond makes the rate fall.

/// Least time between two marks, as a fraction of the time so far.
const SPACING: f64 = 1.0 / 64.0;

/// So much was done at that time.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Seconds, when the first unit since the mark before was done.
    first: f64,
    /// Seconds, when the last was.
    last: f64,
    done: u64,
}

/// Units of a phase that are done, and when. Times are in seconds from any moment before the phase.
#[derive(Debug)]
pub(super) struct Rate {
    begun: f64,
    done: u64,
    total: Option<u64>,
    /// At least one; their number grows with the logarithm of the time.
    marks: Vec<Mark>,
    /// When a unit was last done.
    last: f64,
    longest_pause: f64,
}

impl Rate {
    /// A phase that begins `now`.
    pub(super) fn begin(total: Option<u64>, now: f64) -> Rate {
        let marks = vec![Mark { first: now, last: now, done: 0 }];
        Rate { begun: now, done: 0, total, marks, last: now, longest_pause: 0.0 }
    }

    /// The phase has `more` units than announced.
    pub(super) fn extend(&mut self, more: u64) {
        self.total = self.total.map(|total| total.saturating_add(more));
    }

    /// `units` more are done.
    pub(super) fn advance(&mut self, units: u64, now: f64) {
        self.done = self.done.saturating_add(units);
        self.longest_pause = self.longest_pause.max(now - self.last);
        self.last = now;
        let spacing = (SPACING * (now - self.begun)).max(0.01);
        match self.marks.last_mut() {
            Some(mark) if mark.done > 0 && now - mark.first < spacing => (mark.last, mark.done) = (now, self.done),
            _ => self.marks.push(Mark { first: now, last: now, done: self.done }),
        }
    }

    /// When the phase began.
    pub(super) fn begun(&self) -> f64 {
        self.begun
    }

    /// Units done.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// All units, if known. Never less than are done.
    pub(super) fn total(&self) -> Option<u64> {
        self.total.map(|total| total.max(self.done))
    }

    /// The time up to which the rate is known: the last unit, or later in a pause longer than all before.
    fn known_until(&self, now: f64) -> f64 {
        self.last.max(now - self.longest_pause)
    }

    /// Units per second; `None` before the first.
    pub(super) fn per_second(&self, now: f64) -> Option<f64> {
        let until = self.known_until(now);
        let middle = self.begun + (until - self.begun) / 2.0;
        let mut before = self.marks.iter().rev().filter(|mark| mark.last <= middle && mark.done < self.done);
        let start = before.next().or(self.marks.first())?;
        let seconds = until - start.last;
        (self.done > start.done && seconds > 0.0).then(|| (self.done - start.done) as f64 / seconds)
    }

    /// Seconds left; `None` without a total, or before the first unit is done.
    pub(super) fn seconds_left(&self, now: f64) -> Option<f64> {
        let open = self.total()? - self.done;
        let left = open as f64 / self.per_second(now)? - (now - self.known_until(now));
        Some(left.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_phase_ends_when_it_says() {
        let mut rate = Rate::begin(Some(1000), 5.0);
        assert_eq!((rate.per_second(6.0), rate.seconds_left(6.0)), (None, None));
        for i in 1..=900 {
            let now = 5.0 + f64::from(i) / 10.0;
            rate.advance(1, now);
            let left = rate.seconds_left(now).unwrap();
            let expected = 100.0 - f64::from(i) / 10.0;
            assert!((left - expected).abs() <= 0.05 * expected + 1e-6, "{i}: {left} instead of {expected}");
        }
        rate.extend(100);
        assert_eq!((rate.done(), rate.total()), (900, Some(1100)));
        assert!((rate.seconds_left(95.0).unwrap() - 20.0).abs() < 1.0);
        assert!(rate.marks.len() < 500, "{} marks", rate.marks.len());
    }

    #[test]
    fn bursts_count_down_and_a_stall_counts_up() {
        // Batches of 10 answers every 20 seconds; 100 answers take 200 seconds.
        let mut rate = Rate::begin(Some(100), 0.0);
        let mut before = f64::INFINITY;
        for second in 1..=150 {
            let now = f64::from(second);
            if second % 20 == 0 {
                (0..10).for_each(|i| rate.advance(1, now + f64::from(i) * 1e-4));
            }
            if let Some(left) = rate.seconds_left(now + 0.5) {
                assert!(left < before, "{second}: {left} after {before}");
                let expected = 200.0 - now - 0.5;
                assert!((left - expected).abs() < 0.02 * expected + 0.1, "{second}: {left} instead of {expected}");
                before = left;
            }
        }
        // The batch due at 160 does not come.
        assert!(rate.seconds_left(159.0).unwrap() < before);
        let (soon, later) = (rate.seconds_left(170.0).unwrap(), rate.seconds_left(400.0).unwrap());
        assert!(later > soon + 20.0, "{soon}, then {later}");
    }

    #[test]
    fn what_was_replayed_says_nothing_about_the_speed() {
        // 300 evaluations from a journal at once, then one in ten seconds.
        let mut rate = Rate::begin(Some(360), 0.0);
        (0..300).for_each(|i| rate.advance(1, 0.001 + f64::from(i) * 1e-6));
        for i in 1..=30 {
            rate.advance(1, 10.0 * f64::from(i));
        }
        let left = rate.seconds_left(300.0).unwrap();
        assert!((left - 300.0).abs() < 5.0, "{left}");
        assert!((rate.per_second(300.0).unwrap() - 0.1).abs() < 0.002);
    }
}
