//! Work on several cores.

use std::thread::{ScopedJoinHandle, available_parallelism, scope};

/// Fewer items are not worth a thread.
const WORTH_A_THREAD: usize = 1 << 12;

/// Threads that can run at once.
pub(crate) fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// What `work` makes of each part, in their order, with a thread for each.
pub(crate) fn side_by_side<P: Send, R: Send>(
    mut parts: impl ExactSizeIterator<Item = P>,
    work: impl Fn(P) -> R + Sync,
) -> Vec<R> {
    if parts.len() < 2 {
        return parts.next().map(work).into_iter().collect();
    }
    scope(|scope| {
        let work = &work;
        let running: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let join = |part: ScopedJoinHandle<'_, R>| match part.join() {
            Ok(made) => made,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        running.into_iter().map(join).collect()
    })
}

/// What `work` makes of the parts of a large slice, in their order. It must not depend on where the parts end.
pub(crate) fn in_parts<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&[T]) -> Vec<R> + Sync,
) -> Vec<R> {
    let threads = cores().min(items.len() / WORTH_A_THREAD).max(1);
    let parts = items.chunks(items.len().div_ceil(threads).max(1));
    side_by_side(parts, work).into_iter().flatten().collect()
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
