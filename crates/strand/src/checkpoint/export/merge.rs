//! What LoRA adds to a weight.

/// Adds `scale · B A` to a weight `[out, in]`: `a` is `[rank, in]`, `b` `[out, rank]`. A row of the result is a sum of
/// rows of `a`, so that all memory is passed through in its order.
pub fn add_product(weight: &mut [f32], a: &[f32], b: &[f32], rank: usize, scale: f64) {
    let width = a.len() / rank.max(1);
    if width == 0 {
        return;
    }
    for (row, factors) in weight.chunks_exact_mut(width).zip(b.chunks_exact(rank)) {
        let mut sum = vec![0.0; width];
        for (&factor, row_of_a) in factors.iter().zip(a.chunks_exact(width)) {
            sum.iter_mut().zip(row_of_a).for_each(|(sum, a)| *sum += factor * a);
        }
        row.iter_mut().zip(&sum).for_each(|(weight, sum)| *weight += scale as f32 * sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_added() {
        let mut weight = [1.0; 6];
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.5, -1.0]);
        add_product(&mut weight, &a, &b, 2, 2.0);
        // B A is [[1, 2, 3], [-3.5, -4, -4.5]].
        assert_eq!(weight, [3.0, 5.0, 7.0, -6.0, -7.0, -8.0]);
    }
}
