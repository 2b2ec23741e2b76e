//! Intervals hold every exact logit, candidates are the best of them, whatever rows and tokens look like.

use proptest::prelude::*;

use super::interval::Intervals;
use super::token::Tokens;
use super::{Best, Candidates, Finder, Head, Int8Rows};
use crate::dense::{DenseMatrix, DenseType, logits};
use crate::{AlignedBuf, Isa, Pool};

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Roughly Gaussian: the sum of 12 uniform numbers.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0
    }
}

/// What the numbers of a row or a token are like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Gaussian,
    /// A few channels hold nearly everything.
    Outliers,
    Zero,
    Huge,
    Subnormal,
    /// Repeats the row before, but for the last bit of one number.
    NearTie,
    Infinite,
}

const KINDS: [Kind; 7] =
    [Kind::Gaussian, Kind::Outliers, Kind::Zero, Kind::Huge, Kind::Subnormal, Kind::NearTie, Kind::Infinite];

fn fill(random: &mut Random, kind: Kind, before: &[f32], out: &mut [f32]) {
    let len = out.len() as u64;
    for (i, x) in out.iter_mut().enumerate() {
        *x = match kind {
            Kind::Gaussian => random.normal() * 0.05,
            Kind::Outliers => random.normal() * if i % 37 == 5 { 30.0 } else { 0.1 },
            Kind::Zero => 0.0,
            Kind::Huge => random.normal() * 1e18,
            Kind::Subnormal => random.normal() * 1e-39,
            Kind::NearTie => before.get(i).copied().unwrap_or(1.0),
            Kind::Infinite => random.normal(),
        };
    }
    let one = random.below(len) as usize;
    match kind {
        Kind::NearTie => out[one] = f32::from_bits(out[one].to_bits() ^ 1 << 16),
        Kind::Infinite => out[one] = if random.below(2) == 0 { f32::INFINITY } else { f32::NAN },
        _ => {}
    }
}

/// A matrix of mostly `main` rows, some of other kinds in between.
fn matrix(random: &mut Random, main: Kind, odd: &[Kind], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0f32; rows * cols];
    for row in 0..rows {
        let odd = (random.below(6) == 0 && !odd.is_empty()).then(|| odd[random.below(odd.len() as u64) as usize]);
        let (before, rest) = out.split_at_mut(row * cols);
        fill(random, odd.unwrap_or(main), &before[row.saturating_sub(1) * cols..], &mut rest[..cols]);
    }
    out
}

fn bytes_of(ty: DenseType, values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&v| match ty {
            DenseType::F32 => v.to_le_bytes().to_vec(),
            DenseType::F16 => half::f16::from_f32(v).to_le_bytes().to_vec(),
            _ => half::bf16::from_f32(v).to_le_bytes().to_vec(),
        })
        .collect()
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Checks everything for one matrix and some tokens; returns how many rows were multiplied exactly, on average.
fn check(
    ty: DenseType,
    rows: usize,
    cols: usize,
    values: &[f32],
    x: &[f32],
    wanted: &[Best<'_>],
) -> Vec<Option<usize>> {
    let bytes = bytes_of(ty, values);
    let matrix = DenseMatrix { ty, rows, cols, bytes: &bytes };
    let pool = Pool::new(2);
    let mut exact = vec![0.0f32; x.len() / cols * rows];
    logits(&pool, Isa::Scalar, matrix, x, &mut AlignedBuf::default(), &mut exact);
    let mut first: Option<(Intervals, Vec<Option<Candidates>>)> = None;
    for isa in isas() {
        let mut again = vec![0.0f32; exact.len()];
        logits(&pool, isa, matrix, x, &mut AlignedBuf::default(), &mut again);
        assert!(again.iter().zip(&exact).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()), "{isa}");
        let mut covered = 0;
        let copy = Int8Rows::pack(&pool, isa, matrix, |range| covered += range.len());
        assert_eq!(covered, bytes.len());
        let mut tokens = Tokens::default();
        tokens.set(isa, x.chunks_exact(cols), cols);
        let mut intervals = Intervals::default();
        intervals.set(&pool, isa, &copy, &tokens);
        for (token, exact) in exact.chunks_exact(rows).enumerate() {
            for (first, low, high) in intervals.parts(token) {
                for (i, (low, high)) in low.iter().zip(high).enumerate() {
                    let logit = exact[first + i];
                    let holds = low <= &logit && &logit <= high || logit.is_nan() && *high == f32::INFINITY;
                    assert!(holds, "{isa} {ty:?} row {} of {rows}x{cols}: {logit} in {low}..{high}", first + i);
                }
            }
        }
        let head = Head { pool: &pool, isa, matrix, copy: &copy };
        let mut finder = Finder::default();
        finder.bound(head, x.chunks_exact(cols));
        let mut found = Vec::new();
        for (token, (x, exact)) in x.chunks_exact(cols).zip(exact.chunks_exact(rows)).enumerate() {
            for wanted in wanted {
                let mut out = Candidates::default();
                let few = finder.best(head, token, x, wanted, &mut out);
                if few {
                    check_candidates(&out, exact, wanted);
                }
                found.push(few.then_some(out));
            }
        }
        match &first {
            None => first = Some((intervals, found)),
            Some((_, same)) => assert!(
                same.iter().zip(&found).all(|(a, b)| format!("{a:?}") == format!("{b:?}")),
                "{isa}: other candidates than the scalar kernels"
            ),
        }
    }
    first.map_or_else(Vec::new, |(_, found)| found.iter().map(|c| c.as_ref().map(|c| c.ids.len())).collect())
}

fn check_candidates(found: &Candidates, exact: &[f32], wanted: &Best<'_>) {
    assert!(found.ids.is_sorted_by(|a, b| a < b) && found.ids.len() == found.logits.len());
    let mut others: Vec<f32> = Vec::new();
    for (row, &logit) in exact.iter().enumerate() {
        match found.ids.binary_search(&(row as u32)) {
            Ok(i) => assert!(found.logits[i].to_bits() == logit.to_bits() || logit.is_nan()),
            Err(_) => {
                assert!(logit < found.rest, "row {row}: {logit}, the rest is below {}", found.rest);
                others.push(logit);
            }
        }
    }
    assert!(wanted.also.iter().all(|id| found.ids.contains(id)));
    let mut ranked: Vec<f32> =
        exact.iter().enumerate().filter(|(i, _)| !wanted.also.contains(&(*i as u32))).map(|(_, &l)| l).collect();
    ranked.retain(|logit| !logit.is_nan());
    ranked.sort_unstable_by(|a, b| b.total_cmp(a));
    assert!(found.rest <= ranked[wanted.count - 1] && found.rest <= ranked[0] - wanted.margin);
    if let (Some(temperature), Some((least, most))) = (wanted.temperature, found.mass) {
        let mass: f64 = others.iter().map(|&l| (f64::from(l - found.rest) / f64::from(temperature)).exp()).sum();
        assert!(least <= mass && mass <= most, "{least} {mass} {most}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_bound_is_violated(
        rows in 1usize..300,
        cols in 1usize..200,
        tokens in 1usize..10,
        ty in prop::sample::select(vec![DenseType::F16, DenseType::Bf16, DenseType::F32]),
        main in prop::sample::select(KINDS.to_vec()),
        odd in prop::collection::vec(prop::sample::select(KINDS.to_vec()), 0..4),
        kind in prop::sample::select(KINDS.to_vec()),
        count in 1usize..40,
        temperature in 0.1f32..3.0,
        seed: u64,
    ) {
        let mut random = Random(seed);
        let values = matrix(&mut random, main, &odd, rows, cols);
        let x = matrix(&mut random, kind, &[Kind::Gaussian, Kind::Zero], tokens, cols);
        let also: Vec<u32> = (0..random.below(20)).map(|_| random.below(rows as u64) as u32).collect();
        let wanted = [
            Best { count: 1, margin: 0.0, also: &[], temperature: None },
            Best { count, margin: 0.0, also: &also, temperature: None },
            Best { count: 1, margin: 2.0 * temperature, also: &also, temperature: None },
            Best { count: 1, margin: 0.0, also: &also, temperature: Some(temperature) },
        ];
        check(ty, rows, cols, &values, &x, &wanted);
    }
}

#[test]
fn outlier_channels_leave_few_candidates() {
    // As in trained models: a few channels of the activation are a hundred times the others.
    let (rows, cols, tokens) = (4096, 640, 3);
    let mut random = Random(3);
    let values = matrix(&mut random, Kind::Gaussian, &[Kind::NearTie], rows, cols);
    let mut x = matrix(&mut random, Kind::Gaussian, &[], tokens, cols);
    for token in 0..tokens {
        for channel in [7, 100, 333] {
            x[token * cols + channel] *= 100.0;
        }
    }
    let wanted = [
        Best { count: 1, margin: 0.0, also: &[], temperature: None },
        Best { count: 40, margin: 0.0, also: &[1, 2, 3], temperature: None },
    ];
    for count in check(DenseType::Bf16, rows, cols, &values, &x, &wanted).chunks_exact(2) {
        println!("{count:?} rows multiplied");
        assert!(count[0].is_some_and(|n| n < 40) && count[1].is_some_and(|n| n < 300), "{count:?}");
    }
}

#[test]
fn equal_rows_are_all_candidates() {
    let (rows, cols) = (512, 96);
    let mut random = Random(4);
    let mut values = matrix(&mut random, Kind::Gaussian, &[], rows, cols);
    let x = matrix(&mut random, Kind::Gaussian, &[], 1, cols);
    // The best possible row, three times, the first of them in the middle.
    for row in [200, 300, 511] {
        values[row * cols..][..cols].copy_from_slice(&x);
    }
    let bytes = bytes_of(DenseType::F16, &values);
    let matrix = DenseMatrix { ty: DenseType::F16, rows, cols, bytes: &bytes };
    let (pool, mut finder, mut out) = (Pool::new(2), Finder::default(), Candidates::default());
    let copy = Int8Rows::pack(&pool, Isa::detect(), matrix, |_| ());
    let head = Head { pool: &pool, isa: Isa::detect(), matrix, copy: &copy };
    finder.bound(head, x.chunks_exact(cols));
    assert!(finder.best(head, 0, &x, &Best { count: 1, margin: 0.0, also: &[], temperature: None }, &mut out));
    assert!([200, 300, 511].iter().all(|id| out.ids.contains(id)), "{:?}", out.ids);
}
