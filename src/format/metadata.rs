//! Key-value metadata of a GGUF file, with typed access.

use std::collections::BTreeMap;

/// Names of the matrices whose scale is kept exactly in [`EXACT_SCALES`], for encodings whose blocks have it in `f16`.
pub(crate) const EXACT_SCALE_NAMES: &str = "sterna.scale.names";
/// The scales of [`EXACT_SCALE_NAMES`], in their order.
pub(crate) const EXACT_SCALES: &str = "sterna.scale.values";

/// A metadata value. Integers of every width are widened; arrays are kept by element type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    U64(u64),
    /// Any signed integer.
    I64(i64),
    /// `f32` or `f64`.
    F64(f64),
    /// A boolean.
    Bool(bool),
    /// A UTF-8 string.
    String(String),
    /// An array of strings.
    Strings(Vec<String>),
    /// An array of floats.
    Floats(Vec<f32>),
    /// An array of integers or booleans.
    Ints(Vec<i64>),
}

/// All key-value pairs of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// The pairs, by key.
    pub entries: BTreeMap<String, Value>,
}

impl Metadata {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// The string under `key`.
    pub fn str(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// The non-negative integer under `key`.
    pub fn u64(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::U64(v) => Some(*v),
            Value::I64(v) => u64::try_from(*v).ok(),
            _ => None,
        }
    }

    /// The number under `key`.
    pub fn f64(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Value::F64(v) => Some(*v),
            Value::U64(v) => Some(*v as f64),
            Value::I64(v) => Some(*v as f64),
            _ => None,
        }
    }

    /// The boolean under `key`.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// The array of strings under `key`.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.get(key)? {
            Value::Strings(v) => Some(v),
            _ => None,
        }
    }

    /// The array of integers under `key`.
    pub fn ints(&self, key: &str) -> Option<&[i64]> {
        match self.get(key)? {
            Value::Ints(v) => Some(v),
            _ => None,
        }
    }

    /// The array of floats under `key`.
    pub fn floats(&self, key: &str) -> Option<&[f32]> {
        match self.get(key)? {
            Value::Floats(v) => Some(v),
            _ => None,
        }
    }
}

/// The scale of tensor `name`, of whose blocks it is `stored` in `f16`: more exactly, where the file says so. What does not
/// round to the scale of the blocks belongs to other blocks, of before the file was changed.
pub(super) fn exact_scale(metadata: &Metadata, name: &str, stored: f32) -> f32 {
    let names = metadata.strings(EXACT_SCALE_NAMES).unwrap_or_default();
    let index = names.iter().position(|known| known == name);
    let exact = index.and_then(|index| metadata.floats(EXACT_SCALES)?.get(index).copied());
    exact.filter(|&exact| half::f16::from_f32(exact).to_f32() == stored).unwrap_or(stored)
}
