//! Files that are damaged or malicious: each is refused with an error that says what is wrong, and none makes the
//! program panic.

use std::fs::File;
use std::path::Path;

use proptest::prelude::*;
use sterna::format::{Checkpoint, FormatError};

use crate::builders::{
    Gguf, array_value, exercise, f16_bytes, f32_bytes, folder, gguf_string, gguf_tensor, open_folder, open_gguf,
    own_tensor, raw_value, safetensors, safetensors_of, strings_value, u32_value,
};
use crate::common::fixture;

const CONFIG: &str = r#"{"quantization_config": {"quant_method": "bitnet"}}"#;

/// Checks that a GGUF file is refused when it is opened, with a message that has `phrase` in it.
#[track_caller]
fn refused(file: &Gguf, phrase: &str) {
    refused_bytes(&file.build(), phrase);
}

#[track_caller]
fn refused_bytes(bytes: &[u8], phrase: &str) {
    let error = open_gguf(bytes).expect_err(phrase).to_string();
    assert!(error.contains(phrase), "`{error}` does not say `{phrase}`");
    assert!(error.contains("model.gguf"), "`{error}` does not name the file");
}

/// The same for a safetensors header, with 16 bytes of data.
#[track_caller]
fn refused_header(header: &str, phrase: &str) {
    let error = open_folder(CONFIG, &safetensors(header, &[0; 16])).expect_err(phrase).to_string();
    assert!(error.contains(phrase), "`{error}` does not say `{phrase}`");
}

/// A file with one tensor of 8 floats.
fn small() -> Gguf {
    Gguf::of(vec![gguf_tensor("w", &[4, 2], 0, &[0; 32])])
}

#[test]
fn tensors_of_tiles_are_checked() {
    for kind in ["T16", "T16x5"] {
        let tensor = |rows, cols, len: usize| Gguf::of_own("w", kind, rows, cols, &vec![0x55; len]);
        for (rows, cols) in [(4, 0), (16, 16), (-1, 16), (1 << 31, 1 << 31), (1 << 33, 1 << 33)] {
            refused(&tensor(rows, cols, 64), "tensor `w` of `sterna.tensors.names`");
        }
        refused(&Gguf::of_own("w", "T17", 16, 16, &[0x55; 128]), "the type \"T17\" is unknown");
        let mut file = tensor(16, 16, 128);
        file.pairs[1].1 = strings_value(&[b"v"]);
        refused(&file, "there is no such tensor");
        file.pairs[1].1 = strings_value(&[b"w", b"w"]);
        refused(&file, "1 types and 2 dimensions for 2 names");
        let mut file = tensor(16, 16, 128);
        (file.tensors[0].kind, file.tensors[0].dims) = (1, vec![64]);
        refused(&file, "128 bytes of F16 are no matrix of 16 x 16");
        // The codes are zeros, and so is the scale if the tail is.
        let mut file = tensor(16, 16, 128);
        file.tensors[0].data[64..].fill(0);
        let error = open_gguf(&file.build()).unwrap().ternary("w", 16, 16).unwrap_err().to_string();
        assert!(error.contains("the scale of tensor `w` is 0"), "{error}");
        let error = open_gguf(&file.build()).unwrap().ternary("w", 16, 17).unwrap_err().to_string();
        assert!(error.contains("should have shape [16, 17]"), "{error}");
    }
}

#[test]
fn the_beginning_of_a_gguf_file_is_checked() {
    open_gguf(&small().build()).unwrap();
    refused_bytes(b"", "expected a .gguf file or a Hugging Face folder");
    refused_bytes(b"GGM", "expected a .gguf file or a Hugging Face folder");
    refused_bytes(b"ggjt and so on", "does not begin with `GGUF`");
    refused_bytes(b"GGUF\x03", "the version needs 4 bytes where the file has 1");
    for version in [0, 1, 99] {
        refused(&Gguf { version: Some(version), ..small() }, &format!("GGUF version {version} is not supported"));
    }
    refused(&Gguf { version: Some(3u32.swap_bytes()), ..small() }, "big endian");
    for count in [u64::MAX, u64::MAX / 24 + 1, 1 << 40, 100] {
        refused(&Gguf { tensor_count: Some(count), ..small() }, &format!("{count} tensors needs"));
        refused(&Gguf { pair_count: Some(count), ..small() }, &format!("{count} key-value pairs needs"));
    }
}

#[test]
fn strings_and_arrays_are_no_longer_than_the_file() {
    for length in [u64::MAX, i64::MAX as u64, 1 << 32, 1000] {
        let string = raw_value(8, &length.to_le_bytes());
        refused(&small().with("k", string), &format!("the value of key `k` needs {length} bytes"));
        for kind in [0, 3, 4, 6, 7, 8, 10, 12] {
            refused(&small().with("k", array_value(kind, length, &[])), "the array under key `k` needs");
        }
    }
    let mut file = small().build();
    file[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    refused_bytes(&file, "key 0 needs 18446744073709551615 bytes");
}

#[test]
fn values_are_what_their_types_allow() {
    refused(&small().with("k", raw_value(7, &[2])), "2 is no boolean");
    refused(&small().with("k", raw_value(13, &[0; 8])), "value type 13 does not exist");
    refused(&small().with("k", array_value(u32::MAX, 1, &[0; 8])), "value type 4294967295 does not exist");
    refused(&small().with("k", array_value(9, 1, &[0; 12])), "arrays of arrays are not supported");
    refused(&small().with("k", array_value(10, 1, &u64::MAX.to_le_bytes())), "exceeds 2^63 - 1");
    refused(&small().with("k", u32_value(1)).with("k", u32_value(1)), "the key `k` appears twice");
    refused(&small().with("k", raw_value(8, &gguf_string(b"\xff"))), "the value of key `k` is not valid UTF-8");
    let tokens = strings_value(&[b"a", b"\xc3\x28"]);
    refused(&small().with("tokenizer.ggml.tokens", tokens), "string 1 of key `tokenizer.ggml.tokens` is not valid");
    refused(&small().with("split.count", u32_value(2)), "llama-gguf-split --merge");
    for alignment in [0, 3, 48, u32::MAX] {
        refused(&small().with("general.alignment", u32_value(alignment)), "no power of two");
    }
    refused(&small().with("general.alignment", raw_value(6, &[0; 4])), "no power of two");
}

#[test]
fn values_of_every_type_are_read() {
    let file = small()
        .with("bools", array_value(7, 2, &[1, 0]))
        .with("i8s", array_value(1, 2, &[255, 1]))
        .with("f64s", array_value(12, 1, &0.5f64.to_le_bytes()))
        .with("strings", strings_value(&[b"", "ß".as_bytes()]))
        .with("i64", raw_value(11, &(-5i64).to_le_bytes()))
        .with("bool", raw_value(7, &[1]))
        .with("general.alignment", u32_value(64));
    // Padding to the other alignment moves the data.
    let mut bytes = file.build();
    bytes.extend([0; 64]);
    let checkpoint = open_gguf(&bytes).unwrap();
    let sterna::format::Description::Gguf { metadata, .. } = checkpoint.description() else { unreachable!() };
    assert_eq!(metadata.ints("bools"), Some(&[1, 0][..]));
    assert_eq!(metadata.ints("i8s"), Some(&[-1, 1][..]));
    assert_eq!(metadata.floats("f64s"), Some(&[0.5][..]));
    assert_eq!(metadata.strings("strings"), Some(&[String::new(), "ß".to_owned()][..]));
    assert_eq!(metadata.f64("i64"), Some(-5.0));
    assert_eq!(metadata.bool("bool"), Some(true));
    assert_eq!(metadata.u64("general.alignment"), Some(64));
}

#[test]
fn tensor_records_are_checked() {
    let with = |dims: &[u64], kind, offset| {
        let mut file = small();
        file.tensors[0] = gguf_tensor("w", dims, kind, &[0; 32]);
        file.tensors[0].offset = offset;
        file
    };
    refused(&with(&[1; 5], 0, None), "it has 5 dimensions");
    refused(&with(&[u64::MAX, 2], 0, None), "its dimensions overflow");
    refused(&with(&[1 << 32, 1 << 32], 0, None), "its dimensions overflow");
    refused(&with(&[1 << 62], 0, None), "is not possible for type F32");
    refused(&with(&[1 << 61], 36, None), "tensor `w` at offset");
    refused(&with(&[9], 0, None), "tensor `w` at offset");
    refused(&with(&[255, 1], 35, None), "shape [1, 255] is not possible for type TQ2_0");
    refused(&with(&[31, 1], 8, None), "shape [1, 31] is not possible for type Q8_0");
    refused(&with(&[3, 1], 36, None), "shape [1, 3] is not possible for type I2_S");
    refused(&with(&[8], 0, Some(1)), "its offset 1 is not a multiple of the alignment 32");
    refused(&with(&[8], 0, Some(32)), "tensor `w` at offset");
    refused(&with(&[8], 0, Some(u64::MAX - 31)), "its offset overflows");
    refused(&with(&[1], 200, Some(1 << 40)), "tensor `w` at offset");

    let tensor = || gguf_tensor("w", &[8], 0, &[0; 32]);
    refused(&Gguf::of(vec![tensor(), tensor()]), "the tensor `w` appears twice");
    let mut overlapping = Gguf::of(vec![tensor(), gguf_tensor("v", &[8], 0, &[0; 32])]);
    overlapping.tensors[1].offset = Some(0);
    refused(&overlapping, "its bytes overlap those of tensor `v`");
    let mut named = small();
    named.tensors[0].name = vec![0xff];
    refused(&named, "the name of tensor 0 is not valid UTF-8");
}

#[test]
fn tensors_of_unknown_types_are_listed_but_not_usable() {
    let tensors = vec![gguf_tensor("a", &[64, 2], 39, &[0; 68]), gguf_tensor("b", &[64, 2], 4711, &[0; 64])];
    let checkpoint = open_gguf(&Gguf::of(tensors).build()).unwrap();
    let listed: Vec<_> = checkpoint.tensors().map(|tensor| (tensor.dtype.to_string(), tensor.nbytes)).collect();
    assert_eq!(listed, [("39 (MXFP4 or TL2)".to_owned(), 96), ("4711 (unknown)".to_owned(), 64)]);
    assert_eq!(checkpoint.data("b").unwrap().len(), 64);
    for (name, expected) in [("a", "39 (MXFP4 or TL2)"), ("b", "4711 (unknown)")] {
        for error in [
            checkpoint.ternary(name, 2, 64).unwrap_err().to_string(),
            checkpoint.dense(name, 2, 64).unwrap_err().to_string(),
        ] {
            assert!(error.contains(&format!("tensor `{name}` has type {expected}")), "{error}");
            assert!(error.contains("convert the model"), "{error}");
        }
    }
}

#[test]
fn contents_of_tensors_are_checked() {
    let tensors = vec![
        gguf_tensor("i2_s_long", &[128, 1], 36, &[0; 128]),
        gguf_tensor("i2_s_odd", &[64, 1], 36, &[0; 48]),
        gguf_tensor("i2_s_nan", &[128, 1], 36, &f32_bytes(&[f32::NAN; 16])),
        gguf_tensor("i2_s_zero", &[128, 1], 36, &[0; 64]),
        gguf_tensor("tq2_0_infinite", &[256, 1], 35, &[&[0x55; 64][..], &f16_bytes(&[f32::INFINITY])].concat()),
        gguf_tensor("tq2_0_negative", &[256, 1], 35, &[&[0x55; 64][..], &f16_bytes(&[-1.0])].concat()),
        gguf_tensor("norm", &[3], 0, &f32_bytes(&[0.0, f32::NEG_INFINITY, 0.0])),
        gguf_tensor("ints", &[4], 26, &[0; 16]),
    ];
    let checkpoint = open_gguf(&Gguf::of(tensors).build()).unwrap();
    let ternary = |name, cols, phrase: &str| {
        let error = checkpoint.ternary(name, 1, cols).unwrap_err().to_string();
        assert!(error.contains(phrase) && error.contains(name), "`{error}` does not say `{phrase}`");
    };
    ternary("i2_s_long", 128, "should take 64 bytes but takes 128");
    ternary("i2_s_odd", 64, "not a multiple of 128");
    ternary("i2_s_nan", 128, "scale of tensor `i2_s_nan` is NaN");
    ternary("i2_s_zero", 128, "is 0; a scale must be positive and finite");
    ternary("tq2_0_infinite", 256, "is inf");
    ternary("tq2_0_negative", 256, "is -1");
    ternary("norm", 128, "should have shape [1, 128] but has [3]");
    let error = checkpoint.vector("norm", 3).unwrap_err();
    assert!(matches!(error, FormatError::NotFinite { index: 1, .. }), "{error}");
    let error = checkpoint.vector("ints", 4).unwrap_err().to_string();
    assert!(error.contains("tensor `ints` has type I32, expected F32, F16 or BF16"), "{error}");
    let error = checkpoint.vector("norms", 3).unwrap_err().to_string();
    assert!(error.contains("there is no tensor `norms` (similar names: `norm`)"), "{error}");
}

#[test]
fn safetensors_headers_are_checked() {
    let w = |rest: &str| format!(r#"{{"w":{{"dtype":"F32","shape":[4],{rest}}}}}"#);
    let good = w(r#""data_offsets":[0,16]"#);
    open_folder(CONFIG, &safetensors(&good, &[0; 16])).unwrap();
    refused_header("", "the JSON is not valid");
    refused_header("[]", "the JSON is not valid");
    refused_header(&"[".repeat(100_000), "the JSON is not valid");
    refused_header(r#"{"w":1}"#, "the JSON is not valid");
    refused_header(r#"{"w":{}}"#, "the JSON is not valid");
    refused_header(&w(r#""data_offsets":[16,0]"#), "it ends before it begins");
    refused_header(&w(r#""data_offsets":[0,8]"#), "should take 16 bytes but takes 8");
    refused_header(&w(r#""data_offsets":[4,20]"#), "tensor `w` at offset");
    refused_header(&w(r#""data_offsets":[-1,15]"#), "the JSON is not valid");
    refused_header(&w(r#""data_offsets":[0,16,32]"#), "the JSON is not valid");
    refused_header(&w(r#""data_offsets":[18446744073709551615,18446744073709551615]"#), "its offset overflows");
    refused_header(&good.replace("[4]", "[1,1,1,1,1,1,1,1,4]"), "the JSON is not valid");
    refused_header(&good.replace("[4]", "[4294967296,4294967296,4]"), "its dimensions overflow");
    refused_header(&good.replace("[4]", "[9223372036854775807]"), "should take 18446744073709551615 bytes");
    refused_header(&good.replace("F32", "Q4"), "type `Q4` does not exist");
    let twice =
        r#"{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#;
    refused_header(twice, "the tensor `w` appears twice");
    let overlapping =
        r#"{"v":{"dtype":"U8","shape":[9],"data_offsets":[0,9]},"w":{"dtype":"U8","shape":[9],"data_offsets":[7,16]}}"#;
    refused_header(overlapping, "its bytes overlap those of tensor `w`");

    for (length, phrase) in [(u64::MAX, "exceeds 100000000"), (99_999_999, "needs 99999999 bytes")] {
        let mut file = safetensors(&good, &[0; 16]);
        file[..8].copy_from_slice(&length.to_le_bytes());
        let error = open_folder(CONFIG, &file).unwrap_err().to_string();
        assert!(error.contains(phrase), "{error}");
    }
    let error = open_folder(CONFIG, b"1234567").unwrap_err().to_string();
    assert!(error.contains("needs 8 bytes where the file has 7"), "{error}");
}

/// Checks that a folder of these files is refused with a message that has `phrase` in it.
#[track_caller]
fn refused_folder(files: &[(&str, &[u8])], phrase: &str) {
    let folder = folder(files);
    let error = Checkpoint::open(folder.path()).expect_err(phrase).to_string();
    assert!(error.contains(phrase), "`{error}` does not say `{phrase}`");
}

#[test]
fn folders_that_are_no_checkpoints_say_what_is_missing() {
    let config = ("config.json", CONFIG.as_bytes());
    let weights = safetensors_of(&[("w", "F32", &[1], &[0; 4])]);
    refused_folder(&[], "the folder is empty; expected a .gguf file or a Hugging Face folder");
    refused_folder(&[("model.safetensors", &weights)], "the folder has no config.json; expected");
    refused_folder(&[("a.gguf", b""), ("b.gguf", b"")], "give the path of one of its files: a.gguf, b.gguf");
    refused_folder(&[config], "the folder has no weights");
    refused_folder(&[config, ("pytorch_model.bin", b"")], "convert them to safetensors");
    refused_folder(&[config, ("a.safetensors", &weights), ("b.safetensors", &weights)], "name one file");
    refused_folder(&[("config.json", b"{"), ("model.safetensors", &weights)], "the JSON is not valid");
    let long = [b' '; (1 << 20) + 1];
    refused_folder(&[("config.json", &long), ("model.safetensors", &weights)], "exceed the limit of 1048576");

    let missing = Checkpoint::open(Path::new("no/such/model.gguf")).unwrap_err();
    assert!(matches!(missing, FormatError::Io { .. }), "{missing}");
    if cfg!(unix) {
        let error = Checkpoint::open(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(error.contains("expected a .gguf file"), "{error}");
    }
}

#[test]
fn shards_are_read_in_their_folder_only() {
    let config = ("config.json", CONFIG.as_bytes());
    let index = |map: &str| format!(r#"{{"metadata": {{"total_size": 8}}, "weight_map": {{{map}}}}}"#);
    let first = safetensors_of(&[("a", "F32", &[1], &f32_bytes(&[1.0]))]);
    let second = safetensors_of(&[("b", "F32", &[1], &f32_bytes(&[2.0]))]);
    let with = |map: &str| -> Result<Checkpoint, FormatError> {
        let index = index(map);
        let folder = folder(&[
            config,
            ("model.safetensors.index.json", index.as_bytes()),
            ("1.safetensors", &first),
            ("2.safetensors", &second),
        ]);
        Checkpoint::open(folder.path())
    };
    let good = with(r#""b": "2.safetensors", "a": "1.safetensors""#).unwrap();
    assert_eq!((good.vector("a", 1).unwrap(), good.vector("b", 1).unwrap()), (vec![1.0], vec![2.0]));
    for (map, phrase) in [
        ("", "it is empty"),
        (r#""a": "../1.safetensors""#, "a file outside of the folder"),
        (r#""a": "/etc/passwd""#, "a file outside of the folder"),
        (r#""a": "..""#, "a file outside of the folder"),
        (r#""a": "sub\\1.safetensors""#, "a file outside of the folder"),
        (r#""a": "1.safetensors", "b": "1.safetensors""#, "tensor `b`: it is not in `1.safetensors`"),
        (r#""a": "3.safetensors""#, "the weights file `3.safetensors` is missing"),
    ] {
        let error = with(map).expect_err(phrase).to_string();
        assert!(error.contains(phrase), "`{error}` does not say `{phrase}`");
    }
    let error = good.file("../config.json").unwrap_err().to_string();
    assert!(error.contains("this is no file name"), "{error}");

    let index = index(r#""a": "1.safetensors", "a": "2.safetensors""#);
    let folder = folder(&[
        config,
        ("model.safetensors.index.json", index.as_bytes()),
        ("1.safetensors", &first),
        ("2.safetensors", &first),
    ]);
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("the tensor `a` appears twice"), "{error}");
    // A file that the user names explicitly, and that is not one of the model's.
    std::fs::write(folder.path().join("other.safetensors"), &second).unwrap();
    let other = Checkpoint::open(&folder.path().join("other.safetensors")).unwrap();
    assert_eq!(other.tensors().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn embedded_files_are_opened_without_a_folder() {
    let weights: &'static [u8] = Box::leak(safetensors_of(&[("a", "F32", &[1], &[0; 4])]).into_boxed_slice());
    let files: [(&str, &'static [u8]); 3] =
        [("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", weights)];
    let checkpoint = Checkpoint::from_static("demo", &files).unwrap();
    assert_eq!(checkpoint.vector("a", 1).unwrap(), [0.0]);
    assert_eq!(&*checkpoint.file("tokenizer.json").unwrap().unwrap(), b"{}");
    assert!(checkpoint.file("other.json").unwrap().is_none());
    let error = Checkpoint::from_static("demo", &files[..1]).unwrap_err().to_string();
    assert!(error.contains("demo: the folder has no weights"), "{error}");
}

#[test]
fn files_cut_short_are_refused() {
    for (model, name) in [("llama_a", "model-tq1_0.gguf"), ("bitnet_a", "model.safetensors")] {
        let whole = std::fs::read(fixture(model).join(name)).unwrap();
        let folder = folder(&[("config.json", CONFIG.as_bytes()), (name, &whole)]);
        let path = folder.path().join(name);
        let file = File::options().write(true).open(&path).unwrap();
        // The file only ever shrinks: by a hundredth each time, by one byte below 200.
        let mut length = whole.len();
        while length > 0 {
            length -= (length / 100).max(1);
            file.set_len(length as u64).unwrap();
            let error = Checkpoint::open(&path).unwrap_err();
            assert!(matches!(error, FormatError::Truncated { .. } | FormatError::NotACheckpoint { .. }), "{error}");
        }
    }
}

/// A GGUF file with a tensor of every type that is read.
fn all_types() -> Vec<u8> {
    let (t16, keys) = own_tensor("t16", "T16", 16, 16, &[&[0x55; 64][..], &f32_bytes(&[1.0; 16])].concat());
    let tensors = vec![
        gguf_tensor("f32", &[4, 2], 0, &f32_bytes(&[0.5; 8])),
        gguf_tensor("f16", &[4, 2], 1, &f16_bytes(&[0.5; 8])),
        gguf_tensor("q4_0", &[32, 1], 2, &[0; 18]),
        gguf_tensor("q5_0", &[32, 1], 6, &[0; 22]),
        gguf_tensor("q8_0", &[32, 1], 8, &[0; 34]),
        gguf_tensor("q6_k", &[256, 1], 14, &[0; 210]),
        gguf_tensor("tq1_0", &[256, 1], 34, &[1; 54]),
        gguf_tensor("tq2_0", &[256, 1], 35, &[1; 66]),
        gguf_tensor("i2_s", &[64, 2], 36, &[&[0; 32][..], &f32_bytes(&[1.0; 8])].concat()),
        gguf_tensor("q2_0", &[64, 1], 42, &[0x15; 18]),
        gguf_tensor("pq2_0", &[128, 1], 142, &[0x15; 34]),
        gguf_tensor("ptq1_0", &[128, 1], 143, &[1; 28]),
        t16,
        gguf_tensor("tl1", &[1536, 1], 38, &[0; 384]),
        gguf_tensor("tl1_scale", &[], 0, &f32_bytes(&[1.0])),
        gguf_tensor("tl2", &[256, 1], 39, &[0; 64]),
        gguf_tensor("tl2_scale", &[], 0, &f32_bytes(&[1.0])),
    ];
    let file = Gguf::of(tensors).with("tokens", strings_value(&[b"a", b"bc"])).with("ints", array_value(5, 2, &[0; 8]));
    keys.into_iter().fold(file, |file, (key, value)| file.with(key, value)).build()
}

proptest! {
    #[test]
    fn flipped_bytes_of_gguf_do_not_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = all_types();
        for (index, value) in flips {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if let Ok(checkpoint) = open_gguf(&bytes) {
            exercise(&checkpoint);
        }
    }

    #[test]
    fn flipped_bytes_of_safetensors_do_not_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let scale = f32_bytes(&[1.0]);
        let mut bytes = safetensors_of(&[
            ("w", "U8", &[1, 8], &[0x55; 8]),
            ("w_scale", "F32", &[1], &scale),
            ("v", "BF16", &[2, 2], &[0; 8]),
        ]);
        for (index, value) in flips {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if let Ok(checkpoint) = open_folder(CONFIG, &bytes) {
            exercise(&checkpoint);
        }
    }

    #[test]
    fn noise_after_the_magic_does_not_panic(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(checkpoint) = open_gguf(&[b"GGUF\x03\0\0\0", &noise[..]].concat()) {
            exercise(&checkpoint);
        }
        if let Ok(checkpoint) = open_folder(CONFIG, &noise) {
            exercise(&checkpoint);
        }
    }
}
