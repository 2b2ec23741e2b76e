//! Names of models: short ones, and repositories of the hub with a file and a revision.

use std::fmt;
use std::str::FromStr;

use super::HubError;

/// Short names and what they stand for, as a [`Reference`] is written.
pub const KNOWN: &[(&str, &str)] = &[
    ("bitnet-2b", "microsoft/bitnet-b1.58-2B-4T-gguf"),
    ("bitnet-large", "1bitLLM/bitnet_b1_58-large"),
    ("bitnet-xl", "1bitLLM/bitnet_b1_58-xl"),
    ("bitnet-3b", "1bitLLM/bitnet_b1_58-3B"),
    ("llama3-8b-1.58", "HF1BitLLM/Llama3-8B-1.58-100B-tokens"),
    ("falcon3-1b-instruct", "tiiuae/Falcon3-1B-Instruct-1.58bit"),
    ("falcon3-3b", "tiiuae/Falcon3-3B-Base-1.58bit"),
    ("falcon3-3b-instruct", "tiiuae/Falcon3-3B-Instruct-1.58bit"),
    ("falcon3-7b", "tiiuae/Falcon3-7B-Base-1.58bit"),
    ("falcon3-7b-instruct", "tiiuae/Falcon3-7B-Instruct-1.58bit"),
    ("falcon3-10b", "tiiuae/Falcon3-10B-Base-1.58bit"),
    ("falcon3-10b-instruct", "tiiuae/Falcon3-10B-Instruct-1.58bit"),
    ("falcon-e-1b", "tiiuae/Falcon-E-1B-Base"),
    ("falcon-e-1b-instruct", "tiiuae/Falcon-E-1B-Instruct"),
    ("falcon-e-3b", "tiiuae/Falcon-E-3B-Base"),
    ("falcon-e-3b-instruct", "tiiuae/Falcon-E-3B-Instruct"),
    ("trilm-99m", "SpectraSuite/TriLM_99M_Unpacked"),
    ("trilm-190m", "SpectraSuite/TriLM_190M_Unpacked"),
    ("trilm-390m", "SpectraSuite/TriLM_390M_Unpacked"),
    ("trilm-560m", "SpectraSuite/TriLM_560M_Unpacked"),
    ("trilm-830m", "SpectraSuite/TriLM_830M_Unpacked"),
    ("trilm-1.1b", "SpectraSuite/TriLM_1.1B_Unpacked"),
    ("trilm-1.5b", "SpectraSuite/TriLM_1.5B_Unpacked"),
    ("trilm-2.4b", "SpectraSuite/TriLM_2.4B_Unpacked"),
    ("trilm-3.9b", "SpectraSuite/TriLM_3.9B_Unpacked"),
    ("bonsai-1.7b", "prism-ml/Ternary-Bonsai-1.7B-gguf"),
    ("bonsai-4b", "prism-ml/Ternary-Bonsai-4B-gguf"),
    ("bonsai-8b", "prism-ml/Ternary-Bonsai-8B-gguf"),
];

/// The branch that is meant when none is named.
const MAIN: &str = "main";

/// The longest name of an owner or a repository that the hub allows.
const MAX_NAME: usize = 96;

/// A model on the hub: a repository at a revision, and the file if one is named.
///
/// It is written `owner/repository[/file][@revision]`, or as one of the [`KNOWN`] names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    repository: String,
    file: Option<String>,
    revision: String,
}

impl Reference {
    /// `owner/repository`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The file in the repository, if one is named.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The same model at another revision.
    ///
    /// # Errors
    /// If `revision` can be none.
    pub fn at(self, revision: &str) -> Result<Reference, HubError> {
        if !is_safe_path(revision) {
            return Err(HubError::Name { name: revision.to_owned(), reason: "this is no branch, tag or commit" });
        }
        Ok(Reference { revision: revision.to_owned(), ..self })
    }

    /// A file of the same repository and revision, if it can be one.
    pub(super) fn file_named(&self, file: &str) -> Option<Reference> {
        is_safe_path(file).then(|| Reference { file: Some(file.to_owned()), ..self.clone() })
    }

    /// The shortest text that stands for the same.
    pub fn shortest(&self) -> String {
        let text = self.to_string();
        let known = KNOWN.iter().find(|(_, target)| target.eq_ignore_ascii_case(&text));
        known.map_or(text, |&(name, _)| name.to_owned())
    }

    /// Whether `name` is one of the short names.
    pub fn is_short_name(name: &str) -> bool {
        KNOWN.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    }
}

impl FromStr for Reference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Reference, HubError> {
        let invalid = |reason| HubError::Name { name: text.to_owned(), reason };
        let (name, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let known = KNOWN.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let path = known.map_or(name, |&(_, path)| path);
        let mut parts = path.splitn(3, '/');
        let (Some(owner), Some(repository)) = (parts.next(), parts.next()) else {
            return Err(invalid("it is neither owner/repository nor one of the names that `sterna pull` lists"));
        };
        if !is_repository_name(owner) || !is_repository_name(repository) {
            return Err(invalid("names of owners and repositories have letters, digits, '-', '_' and '.' only"));
        }
        let file = parts.next().map(str::to_owned);
        if file.as_deref().is_some_and(|file| !is_safe_path(file)) {
            return Err(invalid("this is no file of a repository"));
        }
        Reference { repository: format!("{owner}/{repository}"), file, revision: MAIN.to_owned() }.at(revision)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision != MAIN { write!(f, "@{}", self.revision) } else { Ok(()) }
    }
}

/// Whether the hub allows the name of an owner or a repository. "--" stands for the slash in the names of folders.
pub(super) fn is_repository_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && !name.contains("--")
        && !name.contains("..")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Whether `path`, with slashes, stays in the folder that it is appended to, on every system.
pub(super) fn is_safe_path(path: &str) -> bool {
    path.len() <= 512
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !path.contains(|c: char| c.is_control() || "\\:*?\"<>|".contains(c))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Reference, HubError> {
        text.parse()
    }

    #[test]
    fn names_have_an_owner_a_repository_a_file_and_a_revision() {
        let plain = parse("microsoft/bitnet-b1.58-2B-4T-gguf").unwrap();
        assert_eq!(plain.repository(), "microsoft/bitnet-b1.58-2B-4T-gguf");
        assert_eq!((plain.file(), plain.revision()), (None, "main"));
        let full = parse("a/b/folder/model.gguf@refs/pr/1").unwrap();
        assert_eq!((full.repository(), full.file(), full.revision()), ("a/b", Some("folder/model.gguf"), "refs/pr/1"));
        assert_eq!(full.to_string(), "a/b/folder/model.gguf@refs/pr/1");
        assert_eq!(parse("BitNet-2b").unwrap(), plain);
        assert_eq!(parse("bitnet-2b@v1").unwrap(), plain.at("v1").unwrap());
    }

    #[test]
    fn names_that_leave_their_folder_are_refused() {
        for name in [
            "model", "", "/", "a/", "/b", "../b", "a/..", "a/b/", "a/b/../c", "a/b//c", "a/b/c\\d", "a/b/C:d", "a b/c",
            "a--b/c", ".a/b", "-a/b", "a/b@", "a/b@../c", "a/b/c\0", "a/b@x\n",
        ] {
            assert!(parse(name).is_err(), "{name:?}");
        }
        assert!(parse(&format!("a/{}", "b".repeat(MAX_NAME + 1))).is_err());
    }

    #[test]
    fn all_short_names_stand_for_repositories() {
        for (index, (name, target)) in KNOWN.iter().enumerate() {
            assert_eq!(parse(name).unwrap().to_string(), *target);
            assert!(KNOWN[..index].iter().all(|(other, _)| other != name), "{name} twice");
            assert_eq!(parse(target).unwrap().shortest(), *name);
        }
    }
}
