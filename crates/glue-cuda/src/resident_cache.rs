//! Operands that stay in device memory from one merge to the next.
//!
//! A search merges the same tensors again and again, in much the same order. Where the cache cannot hold all of them,
//! the first ones stay: a least-recently-used cache would evict each operand just before it is needed again. An operand
//! that was not requested during several rounds, as after the end of a search, is evicted.

use glue_merge::device::{Float, Identity};
use glue_merge::gram::Vectors;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Inner products of the operands of a tensor.
pub(crate) type Products = Mutex<HashMap<Vectors, Vec<f64>>>;

/// Whose inner products: whether the first is the base, and all operands.
pub(crate) type Operands = (bool, Vec<Identity>);

/// Which elements, and the type they have on the device.
pub(crate) type Key = (Identity, Float);

/// Rounds without a request after which an operand may be evicted. A round is one request for each
/// operand in the cache.
const ROUNDS: u64 = 8;
/// Maximum number of tensors whose inner products are remembered.
const MAX_PRODUCTS: usize = 1 << 16;

/// Operands in device memory, and inner products of operands.
pub(crate) struct ResidentCache<M> {
    operands: HashMap<Key, Entry<M>>,
    bytes: usize,
    requests: u64,
    products: HashMap<Operands, Arc<Products>>,
}

struct Entry<M> {
    memory: Arc<M>,
    bytes: usize,
    /// Number of the last request for it.
    last_request: u64,
}

impl<M> Default for ResidentCache<M> {
    fn default() -> Self {
        Self { operands: HashMap::new(), bytes: 0, requests: 0, products: HashMap::new() }
    }
}

impl<M> ResidentCache<M> {
    /// Bytes of the operands in the cache.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Requests an operand; `None` if it is not in the cache.
    pub(crate) fn get(&mut self, key: Key) -> Option<Arc<M>> {
        self.requests += 1;
        let entry = self.operands.get_mut(&key)?;
        entry.last_request = self.requests;
        Some(Arc::clone(&entry.memory))
    }

    /// Adds an operand if the cache then holds at most `limit` bytes, and returns what was evicted for it.
    pub(crate) fn add(&mut self, key: Key, memory: &Arc<M>, bytes: usize, limit: usize) -> Vec<Arc<M>> {
        let mut evicted = Vec::new();
        // Another thread may have added the same one.
        if bytes > limit || self.operands.contains_key(&key) {
            return evicted;
        }
        while self.bytes + bytes > limit {
            let idle = |entry: &Entry<M>| self.requests - entry.last_request > ROUNDS * self.operands.len() as u64;
            let oldest = self.operands.iter().min_by_key(|(_, entry)| entry.last_request);
            let Some(key) = oldest.filter(|(_, entry)| idle(entry)).map(|(key, _)| *key) else {
                return evicted;
            };
            evicted.extend(self.remove(key));
        }
        self.bytes += bytes;
        self.operands.insert(key, Entry { memory: Arc::clone(memory), bytes, last_request: self.requests });
        evicted
    }

    /// Evicts every operand that nobody uses at the moment.
    pub(crate) fn evict_unused(&mut self) -> Vec<Arc<M>> {
        let unused = |entry: &Entry<M>| Arc::strong_count(&entry.memory) == 1;
        let keys: Vec<Key> = self.operands.iter().filter(|(_, entry)| unused(entry)).map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// The inner products that are known of these operands.
    pub(crate) fn products(&mut self, of: Operands) -> Arc<Products> {
        if self.products.len() >= MAX_PRODUCTS && !self.products.contains_key(&of) {
            self.products.clear();
        }
        Arc::clone(self.products.entry(of).or_default())
    }

    fn remove(&mut self, key: Key) -> Option<Arc<M>> {
        let entry = self.operands.remove(&key)?;
        self.bytes -= entry.bytes;
        Some(entry.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u64) -> Key {
        (Identity { container: 0, index }, Float::F32)
    }

    /// Requests an operand, adds it if it is not in the cache, and says whether it was.
    fn request(cache: &mut ResidentCache<u64>, index: u64, limit: usize) -> bool {
        let found = cache.get(key(index)).is_some();
        if !found {
            cache.add(key(index), &Arc::new(index), 10, limit);
        }
        assert!(cache.bytes() <= limit);
        found
    }

    #[test]
    fn rounds_over_more_than_fits_find_the_first_operands() {
        let mut cache = ResidentCache::default();
        let mut round = || (0..10).filter(|index| request(&mut cache, *index, 45)).count();
        assert_eq!(round(), 0);
        assert!((0..50).all(|_| round() == 4));
    }

    #[test]
    fn what_is_no_longer_requested_is_evicted() {
        let mut cache = ResidentCache::default();
        let mut round = |from| (from..from + 4).filter(|index| request(&mut cache, *index, 40)).count();
        assert_eq!((round(0), round(0)), (0, 4));
        let first = (0..100).find(|_| round(10) == 4).expect("the new operands are cached in the end");
        assert!((4..=10).contains(&first), "after {first} rounds");
    }

    #[test]
    fn only_unused_operands_are_evicted() {
        let mut cache = ResidentCache::default();
        for index in 0..3 {
            request(&mut cache, index, 100);
        }
        let used = cache.get(key(1));
        assert_eq!(cache.evict_unused().len(), 2);
        assert_eq!((cache.bytes(), used.map(|memory| *memory)), (10, Some(1)));
        assert!(cache.add(key(7), &Arc::new(7), 101, 100).is_empty());
        assert!(cache.get(key(7)).is_none(), "it is larger than the whole cache");
    }

    #[test]
    fn the_number_of_products_is_bounded() {
        let mut cache = ResidentCache::<u64>::default();
        let of = |index| (false, vec![Identity { container: 0, index }]);
        let first = cache.products(of(0));
        assert!(Arc::ptr_eq(&first, &cache.products(of(0))));
        // The same operand as a base has other products with what follows.
        assert!(!Arc::ptr_eq(&first, &cache.products((true, of(0).1))));
        (0..2 * MAX_PRODUCTS as u64).for_each(|index| drop(cache.products(of(index))));
        assert!(cache.products.len() <= MAX_PRODUCTS);
    }
}
