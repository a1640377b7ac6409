//! Several requests under way at once.

use glue_eval::ModelError;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The results of `job` for 0 to `count` - 1, in this order, with up to `workers` under way. After an error no job
/// begins; the error is that of the first job that failed, which does not depend on the number of workers as long as a
/// job fails by itself.
pub(crate) fn run<T: Send>(
    count: usize,
    workers: usize,
    job: impl Fn(usize) -> Result<T, ModelError> + Sync,
) -> Result<Vec<T>, ModelError> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done: Mutex<Vec<(usize, Result<T, ModelError>)>> = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..workers.clamp(1, count.max(1)) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let result = job(number);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_the_first_error_wins() {
        for workers in [1, 3, 50] {
            assert_eq!(run(20, workers, |number| Ok(number * number)).unwrap()[..4], [0, 1, 4, 9]);
            let job = |number: usize| match number {
                7 | 9 => Err(ModelError::new(format!("{number}"))),
                _ => Ok(()),
            };
            assert_eq!(run(20, workers, job).unwrap_err().message, "7");
        }
        assert_eq!(run(0, 4, Ok).unwrap(), [0; 0]);
    }
}
