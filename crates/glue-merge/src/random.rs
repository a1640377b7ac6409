//! Random numbers that are a function of (seed, tensor name, input, element): Philox4x32-10.
//!
//! Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A counter is encrypted by a
//! key, so any element's number can be had at once, by any thread, in any order, on any device.

const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;
/// Counters that are encrypted side by side.
const WIDTH: usize = 64;

/// The random numbers of one input of one tensor: element `4c + k` takes word `k` of the block with counter
/// `(c mod 2³², c div 2³², input, 0)` under the key that (seed, tensor name) hash to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementRng {
    key: [u32; 2],
    input: u32,
}

impl ElementRng {
    /// The numbers of input `input` of tensor `tensor` under `seed`.
    pub fn new(seed: u64, tensor: &str, input: usize) -> Self {
        // FNV-1a over the name, then the finaliser of SplitMix64 over both.
        let name =
            tensor.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
        let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ name;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        Self { key: [z as u32, (z >> 32) as u32], input: input as u32 }
    }

    /// The keys of the ten rounds, for a device that draws the same numbers; the same for every input of a tensor.
    pub fn round_keys(&self) -> [[u32; 2]; 10] {
        let mut keys = [self.key; ROUNDS];
        for r in 1..ROUNDS {
            keys[r] = [keys[r - 1][0].wrapping_add(WEYL[0]), keys[r - 1][1].wrapping_add(WEYL[1])];
        }
        keys
    }

    /// The word of the counter that tells the inputs apart.
    pub fn input(&self) -> u32 {
        self.input
    }

    /// Fills `out` with the numbers, uniform over `u32`, of the elements from `offset` on.
    pub fn fill(&self, offset: usize, out: &mut [u32]) {
        let mut blocks = [[0; 4]; WIDTH];
        let mut rest = out;
        let mut at = offset;
        while !rest.is_empty() {
            let skip = at % 4;
            let n = rest.len().min(4 * WIDTH - skip);
            let blocks = &mut blocks[..(skip + n).div_ceil(4)];
            self.encrypt((at / 4) as u64, blocks);
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&blocks.as_flattened()[skip..skip + n]);
            rest = later;
            at += n;
        }
    }

    /// The words of the blocks from counter `first` on.
    fn encrypt(&self, first: u64, blocks: &mut [[u32; 4]]) {
        let keys = self.round_keys();
        // All rounds of one block, without a loop in the body: the shape that becomes SIMD over blocks.
        for (w, block) in blocks.iter_mut().enumerate() {
            let counter = first + w as u64;
            let x = [counter & LOW_HALF, counter >> 32, u64::from(self.input), 0];
            let x = round(x, keys[0]);
            let x = round(x, keys[1]);
            let x = round(x, keys[2]);
            let x = round(x, keys[3]);
            let x = round(x, keys[4]);
            let x = round(x, keys[5]);
            let x = round(x, keys[6]);
            let x = round(x, keys[7]);
            let x = round(x, keys[8]);
            let x = round(x, keys[9]);
            *block = x.map(|x| x as u32);
        }
    }
}

/// One round. Words of 32 bits are carried in 64, whose upper halves are cut off where they would matter: the products
/// are then SIMD multiplications of low halves.
#[inline(always)]
fn round(x: [u64; 4], key: [u32; 2]) -> [u64; 4] {
    let p0 = (x[0] & LOW_HALF) * MULTIPLIERS[0];
    let p1 = (x[2] & LOW_HALF) * MULTIPLIERS[1];
    [(p1 >> 32) ^ x[1] ^ u64::from(key[0]), p1, (p0 >> 32) ^ x[3] ^ u64::from(key[1]), p0]
}

const LOW_HALF: u64 = 0xFFFF_FFFF;

/// The bound below which a random word has probability `p`: an element is kept when `u64::from(word) < bound`.
/// `p` is taken into 0 ..= 1; 1 keeps every element and 0 none.
pub fn keep_threshold(p: f64) -> u64 {
    (p.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of the reference implementation of Philox4x32-10 (Random123, `kat_vectors`), for the counters
    /// that this generator can form.
    #[test]
    fn agrees_with_published_vectors() {
        let rng = ElementRng { key: [0, 0], input: 0 };
        let mut words = [0; 4];
        rng.fill(0, &mut words);
        assert_eq!(words, [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
    }

    #[test]
    fn any_cut_gives_the_same_numbers() {
        let rng = ElementRng::new(42, "model.layers.0.mlp.up_proj.weight", 1);
        let mut whole = vec![0; 1000];
        rng.fill(0, &mut whole);
        for length in [1, 3, 7, 64, 333] {
            let mut cut = vec![0; 1000];
            for (b, block) in cut.chunks_mut(length).enumerate() {
                rng.fill(b * length, block);
            }
            assert_eq!(cut, whole, "blocks of {length}");
        }
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let first = |seed, name, input| {
            let mut word = [0];
            ElementRng::new(seed, name, input).fill(5, &mut word);
            word[0]
        };
        let one = first(1, "a", 0);
        assert_eq!(one, first(1, "a", 0));
        for other in [first(2, "a", 0), first(1, "b", 0), first(1, "a", 1)] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn bounds_at_the_ends() {
        assert_eq!(keep_threshold(0.0), 0);
        assert_eq!(keep_threshold(0.5), 1 << 31);
        assert!(keep_threshold(1.0) > u64::from(u32::MAX));
    }
}
