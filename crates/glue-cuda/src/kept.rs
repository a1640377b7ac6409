//! Operands that stay on the device from one merge to the next, for as long as there is room.
//!
//! A search merges the same tensors again and again, in much the same order. Where not all of them have room, the ones
//! that came first stay: to make room for the newest would mean that none is there when its turn comes again. Only what
//! was not asked for during several rounds, as the models of a search that has ended, gives way.

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

/// An operand gives way when so many times as many were asked for, since it was, as are kept.
const ROUNDS: u64 = 8;
/// Tensors whose inner products are remembered, at most.
const MOST_PRODUCTS: usize = 1 << 16;

/// What is on the device.
pub(crate) struct Kept<M> {
    operands: HashMap<Key, Entry<M>>,
    bytes: usize,
    asked: u64,
    products: HashMap<Operands, Arc<Products>>,
}

struct Entry<M> {
    memory: Arc<M>,
    bytes: usize,
    asked: u64,
}

impl<M> Default for Kept<M> {
    fn default() -> Self {
        Self { operands: HashMap::new(), bytes: 0, asked: 0, products: HashMap::new() }
    }
}

impl<M> Kept<M> {
    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// An operand, if it is there.
    pub(crate) fn get(&mut self, key: Key) -> Option<Arc<M>> {
        self.asked += 1;
        let entry = self.operands.get_mut(&key)?;
        entry.asked = self.asked;
        Some(Arc::clone(&entry.memory))
    }

    /// Keeps an operand if it has room among `limit` bytes, and returns what has to go for it.
    pub(crate) fn add(&mut self, key: Key, memory: &Arc<M>, bytes: usize, limit: usize) -> Vec<Arc<M>> {
        let mut gone = Vec::new();
        // Another thread may have brought the same one.
        if bytes > limit || self.operands.contains_key(&key) {
            return gone;
        }
        while self.bytes + bytes > limit {
            let idle = |entry: &Entry<M>| self.asked - entry.asked > ROUNDS * self.operands.len() as u64;
            let oldest = self.operands.iter().min_by_key(|(_, entry)| entry.asked);
            let Some(key) = oldest.filter(|(_, entry)| idle(entry)).map(|(key, _)| *key) else {
                return gone;
            };
            gone.extend(self.remove(key));
        }
        self.bytes += bytes;
        self.operands.insert(key, Entry { memory: Arc::clone(memory), bytes, asked: self.asked });
        gone
    }

    /// Gives up everything that nobody uses at the moment.
    pub(crate) fn give_up(&mut self) -> Vec<Arc<M>> {
        let idle = |entry: &Entry<M>| Arc::strong_count(&entry.memory) == 1;
        let keys: Vec<Key> = self.operands.iter().filter(|(_, entry)| idle(entry)).map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// The inner products that are known of these operands.
    pub(crate) fn products(&mut self, of: Operands) -> Arc<Products> {
        if self.products.len() >= MOST_PRODUCTS && !self.products.contains_key(&of) {
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

    /// Asks for an operand, brings it if it is not there, and says whether it was.
    fn ask(kept: &mut Kept<u64>, index: u64, limit: usize) -> bool {
        let found = kept.get(key(index)).is_some();
        if !found {
            kept.add(key(index), &Arc::new(index), 10, limit);
        }
        assert!(kept.bytes() <= limit);
        found
    }

    #[test]
    fn rounds_over_more_than_has_room_find_what_came_first() {
        let mut kept = Kept::default();
        let mut round = || (0..10).filter(|index| ask(&mut kept, *index, 45)).count();
        assert_eq!(round(), 0);
        assert!((0..50).all(|_| round() == 4));
    }

    #[test]
    fn what_is_not_asked_for_any_more_gives_way() {
        let mut kept = Kept::default();
        let mut round = |from| (from..from + 4).filter(|index| ask(&mut kept, *index, 40)).count();
        assert_eq!((round(0), round(0)), (0, 4));
        let first = (0..100).find(|_| round(10) == 4).expect("the others are kept in the end");
        assert!((4..=10).contains(&first), "after {first} rounds");
    }

    #[test]
    fn only_what_nobody_uses_is_given_up() {
        let mut kept = Kept::default();
        for index in 0..3 {
            ask(&mut kept, index, 100);
        }
        let used = kept.get(key(1));
        assert_eq!(kept.give_up().len(), 2);
        assert_eq!((kept.bytes(), used.map(|memory| *memory)), (10, Some(1)));
        assert!(kept.add(key(7), &Arc::new(7), 101, 100).is_empty());
        assert!(kept.get(key(7)).is_none(), "it is longer than all the room");
    }

    #[test]
    fn the_number_of_products_is_bounded() {
        let mut kept = Kept::<u64>::default();
        let of = |index| (false, vec![Identity { container: 0, index }]);
        let first = kept.products(of(0));
        assert!(Arc::ptr_eq(&first, &kept.products(of(0))));
        // The same operand as a base has other products with what follows.
        assert!(!Arc::ptr_eq(&first, &kept.products((true, of(0).1))));
        (0..2 * MOST_PRODUCTS as u64).for_each(|index| drop(kept.products(of(index))));
        assert!(kept.products.len() <= MOST_PRODUCTS);
    }
}
