//! Numbers that are collected one by one, and order statistics of them.

/// Numbers in chunks: nothing is copied while it grows, and little memory is unused.
#[derive(Debug, Default)]
pub(super) struct Pile {
    full: Vec<Vec<u64>>,
    open: Vec<u64>,
}

/// Numbers in a chunk: 64 KiB.
const CHUNK: usize = 1 << 13;

/// Bits by which [`Pile::nth`] sorts at once.
const DIGIT: u32 = 11;

impl Pile {
    /// Adds a number.
    #[inline]
    pub(super) fn push(&mut self, x: u64) {
        if self.open.len() == self.open.capacity() {
            self.grow();
        }
        self.open.push(x);
    }

    #[cold]
    fn grow(&mut self) {
        if self.open.len() >= CHUNK {
            self.full.push(std::mem::take(&mut self.open));
        }
        // From a few numbers to a chunk by doubling, then chunk by chunk.
        let capacity = if self.full.is_empty() { (2 * self.open.len()).clamp(64, CHUNK) } else { CHUNK };
        self.open.reserve_exact(capacity - self.open.len());
    }

    /// Adds all numbers of another pile.
    pub(super) fn append(&mut self, other: Self) {
        self.full.extend(other.full);
        self.full.push(other.open);
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        self.full.iter().chain([&self.open]).flatten().copied()
    }

    /// How many numbers are below `x`.
    pub(super) fn count_below(&self, x: u64) -> usize {
        self.iter().map(|y| usize::from(y < x)).sum()
    }

    /// The number of which so many are smaller, or equal and counted before it; `None` if there are not so many.
    ///
    /// Digit by digit from the top: a histogram says which digit the number has, and what has another is left out.
    pub(super) fn nth(&self, place: usize) -> Option<u64> {
        if place >= self.full.iter().chain([&self.open]).map(Vec::len).sum() {
            return None;
        }
        let (least, largest) = (self.iter().min()?, self.iter().max()?);
        let mut left = place;
        let (mut prefix, mut known) = (least, (least ^ largest).leading_zeros());
        let fixed = |known: u32| u64::MAX.checked_shl(64 - known).unwrap_or(0);
        loop {
            prefix &= fixed(known);
            if known == 64 {
                return Some(prefix);
            }
            let shift = (64 - known).saturating_sub(DIGIT);
            let mask = (1_u64 << (64 - known - shift)) - 1;
            let mut bins = vec![0_usize; mask as usize + 1];
            for x in self.iter().filter(|x| x & fixed(known) == prefix) {
                bins[(x >> shift & mask) as usize] += 1;
            }
            let digit = bins.iter().position(|n| {
                let here = left < *n;
                if !here {
                    left -= n;
                }
                here
            })?;
            prefix |= (digit as u64) << shift;
            known = 64 - shift;
            // The rest is few enough for a list.
            if bins[digit] <= CHUNK {
                let mut rest: Vec<u64> = self.iter().filter(|x| x & fixed(known) == prefix & fixed(known)).collect();
                return Some(*rest.select_nth_unstable(left).1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_statistics_are_those_of_a_sort() {
        type Kind = fn(u64, u64) -> u64;
        let mix = |i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let kinds: [(&str, Kind); 4] = [
            ("any", |x, _| x),
            ("near", |x, _| u64::MAX / 3 + x % 50_000),
            ("few", |x, _| x % 3),
            ("rising", |_, i| 7 << 40 | i),
        ];
        for (what, kind) in kinds {
            for n in [0_u64, 1, 5, 100, 30_000] {
                let (mut pile, mut other) = (Pile::default(), Pile::default());
                let mut all: Vec<u64> = (0..n).map(|i| kind(mix(i), i)).collect();
                for (i, x) in all.iter().enumerate() {
                    if i % 5 == 0 { other.push(*x) } else { pile.push(*x) }
                }
                pile.append(other);
                all.sort_unstable();
                for place in [0, 1, 4, 50, 12_345, 29_999, 30_000] {
                    assert_eq!(pile.nth(place), all.get(place).copied(), "{what}: {place} of {n}");
                }
                if let Some(middle) = all.get(all.len() / 2) {
                    assert_eq!(pile.count_below(*middle), all.partition_point(|x| x < middle), "{what}");
                }
            }
        }
    }
}
