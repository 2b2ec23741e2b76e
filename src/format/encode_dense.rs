//! Floats to the encodings of matrices that are not ternary: the embedding and the head.

use half::{bf16, f16};

use super::dtype::DType;

/// An encoding of dense matrices that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseEncoding {
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8.5 bits: blocks of 32 with an f16 scale.
    Q8_0,
    /// 6.6 bits: blocks of 256 with 16 scales of 8 bits and one of f16.
    Q6K,
}

impl DenseEncoding {
    /// The type of a tensor in this encoding.
    pub fn dtype(self) -> DType {
        match self {
            DenseEncoding::F16 => DType::F16,
            DenseEncoding::Bf16 => DType::Bf16,
            DenseEncoding::Q8_0 => DType::Q8_0,
            DenseEncoding::Q6K => DType::Q6K,
        }
    }

    /// Numbers in a block; rows must be multiples of it.
    pub fn block_len(self) -> usize {
        match self {
            DenseEncoding::F16 | DenseEncoding::Bf16 => 1,
            DenseEncoding::Q8_0 => 32,
            DenseEncoding::Q6K => 256,
        }
    }

    /// Appends the bytes of whole blocks, rounded as ggml does.
    ///
    /// # Errors
    /// The index of a number that the encoding cannot hold: one that is not finite, or beyond half precision.
    ///
    /// # Panics
    /// If the numbers are not whole blocks.
    pub fn encode(self, numbers: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
        assert!(numbers.len().is_multiple_of(self.block_len()), "encode: whole blocks");
        let refused = |x: &f32| !x.is_finite() || (self == DenseEncoding::F16 && f16::from_f32(*x).is_infinite());
        if let Some(index) = numbers.iter().position(refused) {
            return Err(index);
        }
        match self {
            DenseEncoding::F16 => numbers.iter().for_each(|&x| out.extend(f16::from_f32(x).to_le_bytes())),
            DenseEncoding::Bf16 => numbers.iter().for_each(|&x| out.extend(bf16::from_f32(x).to_le_bytes())),
            DenseEncoding::Q8_0 => numbers.as_chunks().0.iter().for_each(|block| q8_0(block, out)),
            DenseEncoding::Q6K => numbers.as_chunks().0.iter().for_each(|block| q6_k(block, out)),
        }
        Ok(())
    }
}

/// One block of Q8_0: scale, 32 signed bytes.
fn q8_0(block: &[f32; 32], out: &mut Vec<u8>) {
    let scale = block.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    out.extend(f16::from_f32(scale).to_le_bytes());
    out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
}

/// Blocks whose scales are all smaller are zero.
const SMALL: f32 = 1e-15;

/// One block of Q6_K: low four bits, high two bits, 16 scales, scale of the scales.
fn q6_k(block: &[f32; 256], out: &mut Vec<u8>) {
    let (parts, _) = block.as_chunks::<16>();
    let scales: [f32; 16] = std::array::from_fn(|part| q6_scale(&parts[part]));
    let largest = scales.iter().fold(0.0f32, |most, &scale| if scale.abs() > most.abs() { scale } else { most });
    if largest.abs() < SMALL {
        out.resize(out.len() + 210, 0);
        return;
    }
    let inverse = -128.0 / largest;
    let scale = f16::from_f32(1.0 / inverse);
    let steps: [i8; 16] = scales.map(|scale| (inverse * scale).round_ties_even().min(127.0) as i8);
    let mut codes = [32u8; 256];
    for ((part, codes), step) in parts.iter().zip(codes.as_chunks_mut::<16>().0).zip(steps) {
        let step = scale.to_f32() * f32::from(step);
        if step != 0.0 {
            *codes = part.map(|x| ((x / step).round_ties_even().clamp(-32.0, 31.0) + 32.0) as u8);
        }
    }
    let (halves, _) = codes.as_chunks::<128>();
    for half in halves {
        let run = |run: usize, l: usize| half[32 * run + l];
        out.extend((0..32).map(|l| run(0, l) & 15 | run(2, l) << 4));
        out.extend((0..32).map(|l| run(1, l) & 15 | run(3, l) << 4));
    }
    for half in halves {
        let high = |run: usize, l: usize| half[32 * run + l] >> 4;
        out.extend((0..32).map(|l| high(0, l) | high(1, l) << 2 | high(2, l) << 4 | high(3, l) << 6));
    }
    out.extend(steps.map(|step| step as u8));
    out.extend(scale.to_le_bytes());
}

/// The scale of 16 numbers whose codes from -32 to 31 come nearest to them, larger numbers counting more: the best of 19
/// around that which makes the largest number -32.
fn q6_scale(part: &[f32; 16]) -> f32 {
    const LEVELS: f32 = 32.0;
    let largest = part.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
    if largest.abs() < SMALL {
        return 0.0;
    }
    // The products of numbers and codes, and of codes, weighted by the squares of the numbers.
    let sums = |levels: f32| {
        let inverse = -levels / largest;
        part.iter().fold((0.0f32, 0.0f32), |(with_numbers, squares), &x| {
            let code = (inverse * x).round_ties_even().clamp(-LEVELS, LEVELS - 1.0);
            (with_numbers + x * x * x * code, squares + x * x * code * code)
        })
    };
    let (with_numbers, squares) = sums(LEVELS);
    let mut scale = if squares > 0.0 { with_numbers / squares } else { 0.0 };
    let mut best = scale * with_numbers;
    for change in (-9i8..=9).filter(|&change| change != 0) {
        let (with_numbers, squares) = sums(LEVELS + 0.1 * f32::from(change));
        if squares > 0.0 && with_numbers * with_numbers > best * squares {
            scale = with_numbers / squares;
            best = scale * with_numbers;
        }
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use sterna_cpu::Isa;
    use sterna_cpu::dense::{DenseType, dequantize_row};

    #[test]
    fn numbers_come_back_as_near_as_the_encoding_can() {
        let numbers: Vec<f32> = (0..1024u32).map(|i| ((i * 7919 % 2003) as f32 - 1001.0) / 700.0).collect();
        // Steps of the encodings, for numbers up to 1.43.
        for (encoding, ty, most) in [
            (DenseEncoding::F16, DenseType::F16, 1.43 / 2048.0),
            (DenseEncoding::Bf16, DenseType::Bf16, 1.43 / 256.0),
            (DenseEncoding::Q8_0, DenseType::Q8_0, 1.43 / 127.0 * 0.55),
            (DenseEncoding::Q6K, DenseType::Q6K, 1.43 / 31.0 * 0.8),
        ] {
            let (mut bytes, mut read) = (Vec::new(), vec![0.0; numbers.len()]);
            encoding.encode(&numbers, &mut bytes).expect("finite numbers");
            assert_eq!(Some(bytes.len() as u64), encoding.dtype().bytes(1024, 1024));
            dequantize_row(Isa::Scalar, ty, &bytes, &mut read);
            let worst = numbers.iter().zip(&read).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= most && worst > 0.0, "{encoding:?}: {worst}");
            // What has been encoded is encoded the same again (but for Q6_K, whose scales are searched).
            if encoding != DenseEncoding::Q6K {
                let mut again = Vec::new();
                encoding.encode(&read, &mut again).expect("finite numbers");
                assert_eq!(again, bytes, "{encoding:?}");
            }
        }
    }

    #[test]
    fn zeros_are_zeros_and_what_does_not_fit_is_refused() {
        for encoding in [DenseEncoding::F16, DenseEncoding::Bf16, DenseEncoding::Q8_0, DenseEncoding::Q6K] {
            let mut bytes = Vec::new();
            encoding.encode(&[0.0; 256], &mut bytes).expect("zeros");
            assert!(bytes.iter().all(|&byte| byte == 0));
            let mut numbers = [0.0; 256];
            numbers[7] = f32::NAN;
            assert_eq!(encoding.encode(&numbers, &mut bytes), Err(7));
        }
        assert_eq!(DenseEncoding::F16.encode(&[1.0, 70_000.0], &mut Vec::new()), Err(1));
    }
}
