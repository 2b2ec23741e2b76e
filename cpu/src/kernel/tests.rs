use super::verify::Case;
use super::*;
use proptest::prelude::*;

/// Runs every kernel over weights and activations, and compares with the definition.
fn compare(groups: usize, cols: usize, tokens: usize, weight: impl Fn(usize) -> i8, q: impl Fn(usize) -> i8) {
    let weights: Vec<i8> = (0..groups * GROUP * cols).map(weight).collect();
    let q: Vec<i8> = (0..tokens * cols).map(q).collect();
    for layout in Layout::ALL {
        let case = Case::new(layout, cols, &weights, &q);
        for kernels in Kernels::all().filter(|kernels| kernels.layout() == layout) {
            if tokens > kernels.at_once(tokens) {
                continue;
            }
            for operand in case.operands(&kernels) {
                let good = case.sums(&kernels, operand.get(&case)) == case.want;
                assert!(good, "{}: {groups} groups, {cols} columns, {tokens} tokens", kernels.name());
            }
        }
    }
}

proptest! {
    #[test]
    fn random_blocks_agree(groups in 1usize..6, cols in 1usize..300, tokens in 1usize..=MAX_TOKENS, seed: u64) {
        let random = |i: usize| (i as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        compare(groups, cols, tokens, |i| (random(i) % 3) as i8 - 1, |i| random(i + 7) as i8);
    }

    #[test]
    fn random_blocks_of_many_tokens_agree(
        groups in 1usize..4, cols in 1usize..1800, tokens in MAX_TOKENS + 1..=MANY_TOKENS, seed: u64,
    ) {
        let random = |i: usize| (i as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        compare(groups, cols, tokens, |i| (random(i) % 3) as i8 - 1, |i| random(i + 7) as i8);
    }
}

#[test]
fn extremes_do_not_overflow() {
    for cols in [16, 240, 256, 8640, 28672] {
        for tokens in [1, 2, 4, 5, 8, 12, 33] {
            for q in [127i8, -128] {
                for weight in [-1, 0, 1] {
                    compare(1, cols, tokens, |_| weight, |_| q);
                }
            }
            let alternating = |i: usize| if i.is_multiple_of(2) { 127 } else { -128 };
            compare(1, cols, tokens, |i| (i % 3) as i8 - 1, alternating);
            // Weights and signs that go together: the largest partial sums.
            compare(1, cols, tokens, |i| if i.is_multiple_of(2) { 1 } else { -1 }, alternating);
            compare(1, cols, tokens, |i| if (i / 4).is_multiple_of(2) { 1 } else { -1 }, alternating);
        }
    }
}

/// Kernels that look up add bytes: the sums of all runs of a tile that have the largest low or high bytes, either sign.
#[test]
fn planes_of_tables_do_not_overflow() {
    let cols = 30 * 24 * 2;
    for run in [2, 3, 5] {
        for sum in [15i8, 16, 20, 21, -15, -16, -20, -21] {
            for weight in [-1, 1] {
                compare(1, cols, 2, |_| weight, |i| if (i % cols).is_multiple_of(run) { sum } else { 0 });
            }
        }
    }
}

#[test]
fn every_kernel_verifies_quickly() {
    for kernels in Kernels::all() {
        let start = std::time::Instant::now();
        assert_eq!(kernels.verify(), Ok(()));
        println!("{}: {:?}", kernels.name(), start.elapsed());
    }
}

#[test]
fn every_layout_has_kernels_for_every_isa() {
    for isa in Isa::ALL {
        for layout in Layout::ALL {
            let kernels = Kernels::with(isa, layout);
            assert_eq!(kernels.layout(), layout);
            assert!(kernels.entry.isa <= kernels.isa() && kernels.isa().is_available());
        }
    }
}
