//! Python's `random.Random`: the generator, and drawing a sample without replacement.
//!
//! The generator is MT19937 (Matsumoto and Nishimura, "Mersenne Twister: a 623-dimensionally equidistributed uniform
//! pseudo-random number generator", 1998), seeded by an array of words as their reference implementation of 2002 does.

const N: usize = 624;
const M: usize = 397;

/// A generator in the state that `random.Random(seed)` begins with.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: Box<[u32; N]>,
    next: usize,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        let mut state = Box::new([0u32; N]);
        let mut previous = 19_650_218u32;
        for (i, word) in state.iter_mut().enumerate() {
            if i > 0 {
                previous = (previous ^ (previous >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
            }
            *word = previous;
        }
        // The key is the seed in words of 32 bits without leading zeros, at least one.
        let words = [seed as u32, (seed >> 32) as u32];
        let key = if words[1] == 0 { &words[..1] } else { &words[..] };
        let mut i = 1;
        for j in 0..N {
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_664_525);
            let k = j % key.len();
            state[i] = (state[i] ^ mixed).wrapping_add(key[k]).wrapping_add(k as u32);
            i = advance(&mut state, i);
        }
        for _ in 1..N {
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_566_083_941);
            state[i] = (state[i] ^ mixed).wrapping_sub(i as u32);
            i = advance(&mut state, i);
        }
        state[0] = 0x8000_0000;
        Random { state, next: N }
    }

    fn word(&mut self) -> u32 {
        if self.next == N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// A number below `bound`, which must not be 0 and fits 32 bits.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bits = usize::BITS - bound.leading_zeros();
        loop {
            let drawn = (self.word() >> (32 - bits)) as usize;
            if drawn < bound {
                return drawn;
            }
        }
    }

    /// `random.sample(range(population), count)`. `count` must not be above `population`.
    pub(crate) fn sample(&mut self, population: usize, count: usize) -> Vec<usize> {
        debug_assert!(count <= population && population < 1 << 31);
        // Python takes whichever needs less memory: a list of the whole population, or a set of what was drawn.
        let mut set_size = 21.0;
        if count > 5 {
            set_size += 4f64.powf((((count * 3) as f64).ln() / 4f64.ln()).ceil());
        }
        if population as f64 <= set_size {
            let mut pool: Vec<usize> = (0..population).collect();
            (0..count)
                .map(|i| {
                    let j = self.below(population - i);
                    let drawn = pool[j];
                    pool[j] = pool[population - i - 1];
                    drawn
                })
                .collect()
        } else {
            let mut drawn = Vec::with_capacity(count);
            while drawn.len() < count {
                let j = self.below(population);
                if !drawn.contains(&j) {
                    drawn.push(j);
                }
            }
            drawn
        }
    }
}

/// The next index of the seeding loops, which carry the last word round to the first.
fn advance(state: &mut [u32; N], i: usize) -> usize {
    if i + 1 < N {
        return i + 1;
    }
    state[0] = state[N - 1];
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_those_of_python() {
        // python3 -c "import random; r = random.Random(SEED); print(r.sample(range(P), K), r.sample(range(P), K))"
        for (seed, population, count, first, second) in [
            (1234, 320, 3, vec![225, 59, 3], vec![46, 298, 17]),
            (1234, 10, 5, vec![7, 1, 0, 9, 4], vec![0, 1, 8, 6, 2]),
            (0, 1000, 8, vec![864, 394, 776, 911, 430, 41, 265, 988], vec![523, 497, 414, 940, 802, 849, 310, 991]),
            (
                1099511627783,
                30,
                10,
                vec![19, 23, 26, 20, 18, 22, 15, 8, 29, 4],
                vec![16, 12, 29, 23, 11, 28, 14, 26, 25, 7],
            ),
            (
                1234,
                100,
                20,
                vec![99, 56, 14, 0, 11, 74, 4, 85, 88, 10, 12, 98, 45, 30, 2, 3, 44, 82, 79, 61],
                vec![78, 59, 19, 11, 23, 91, 14, 1, 64, 62, 31, 8, 85, 69, 76, 86, 65, 74, 5, 34],
            ),
        ] {
            let mut random = Random::new(seed);
            assert_eq!(random.sample(population, count), first);
            assert_eq!(random.sample(population, count), second);
        }
    }
}
