//! How the tokens of a pass are shared out among prompts.

/// Gives each of the prompts, which have so many tokens `left`, a part of `budget` tokens: equal parts, and what short ones do
/// not need goes to the others. The first prompts get what cannot be divided.
pub(super) fn share(left: &[usize], budget: usize) -> Vec<usize> {
    let mut shares = vec![0; left.len()];
    let mut order: Vec<usize> = (0..left.len()).collect();
    // The shortest first: each takes at most its part of what is still there.
    order.sort_by_key(|&index| left[index]);
    let mut budget = budget;
    for (nth, &index) in order.iter().enumerate() {
        let part = budget.div_ceil(left.len() - nth);
        shares[index] = left[index].min(part);
        budget -= shares[index];
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_prompts_are_done_at_once() {
        assert_eq!(share(&[1000, 3, 1000], 103), [50, 3, 50]);
        assert_eq!(share(&[5, 5], 100), [5, 5]);
        assert_eq!(share(&[7, 9, 8], 1), [1, 0, 0]);
        assert_eq!(share(&[], 10), [0; 0]);
    }

    proptest! {
        #[test]
        fn nothing_is_wasted_and_nobody_is_robbed(left in prop::collection::vec(0usize..500, 1..9), budget in 0usize..2000) {
            let shares = share(&left, budget);
            prop_assert_eq!(shares.iter().sum::<usize>(), budget.min(left.iter().sum()));
            for (share, left) in shares.iter().zip(&left) {
                prop_assert!(share <= left);
                prop_assert!(*share == *left || *share >= budget / shares.len());
            }
        }
    }
}
