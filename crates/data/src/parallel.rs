//! Work over a large slice, on all cores.

use std::thread::{available_parallelism, scope};

/// Fewer items are not worth a thread.
const WORTH_A_THREAD: usize = 1 << 12;

/// What `work` makes of the parts of a slice, in their order. It must not depend on where the parts end.
pub(crate) fn in_parts<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&[T]) -> Vec<R> + Sync,
) -> Vec<R> {
    let most = items.len() / WORTH_A_THREAD;
    let threads = available_parallelism().map_or(1, usize::from).min(most);
    if threads < 2 {
        return work(items);
    }
    scope(|scope| {
        let parts = items.chunks(items.len().div_ceil(threads));
        let work = &work;
        let running: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let join = |part: std::thread::ScopedJoinHandle<'_, Vec<R>>| match part.join() {
            Ok(made) => made,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        running.into_iter().flat_map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_their_order() {
        let numbers: Vec<usize> = (0..5 * WORTH_A_THREAD + 7).collect();
        let doubled = in_parts(&numbers, |part| part.iter().map(|number| number * 2).collect());
        assert!(doubled.iter().copied().eq(numbers.iter().map(|number| number * 2)));
        assert!(in_parts(&[], |part: &[u8]| part.to_vec()).is_empty());
    }
}
