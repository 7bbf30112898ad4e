//! A look at a GGUF file before llama.cpp sees it: what is missing, cut short or something else is told in words, and
//! does not reach a parser that could end the process.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Reads the header only, never the weights.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Bytes that the shortest entry and the shortest description of a tensor take in a header.
const LEAST_ENTRY: u64 = 8 + 1 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// No name in a header is longer than this many bytes; values may be.
const LONGEST_NAME: u64 = 1 << 16;
/// Characters of a name that an error shows.
const SHOWN_NAME: usize = 100;
/// Arrays within arrays in a header.
const DEEPEST_ARRAY: usize = 4;
/// Dimensions of a tensor (GGML_MAX_DIMS).
const MOST_DIMENSIONS: u32 = 4;

/// Checks that the file is a GGUF file of a model that generates text, and as long as its tensors need. Gives the
/// architecture it names.
///
/// # Errors
/// The file, what was found, and what to do, in one text.
pub(super) fn check(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let broken =
        |error: io::Error| format!("the model {shown} cannot be read: {error}. The path must name a GGUF file.");
    let file = File::open(path).map_err(broken)?;
    let facts = file.metadata().map_err(broken)?;
    if !facts.is_file() {
        return Err(format!("the model {shown} is not a file. The path must name a GGUF file."));
    }
    let length = facts.len();
    Header { reader: BufReader::new(file), read: 0, length }
        .check()
        .map_err(|reason| format!("the model {shown} ({length} bytes) cannot be used: {reason}"))
}

/// The end of the file came before the end of the header, or reading failed.
fn cut(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut short within its header. Fetch it again.".to_owned(),
        _ => format!("it cannot be read: {error}."),
    }
}

fn damaged(what: impl std::fmt::Display) -> String {
    format!("its header is damaged: {what}. Fetch it again.")
}

/// A name of the file as an error shows it.
fn shown(name: &str) -> String {
    name.chars().take(SHOWN_NAME).collect()
}

/// More is claimed than the file has, be it that the file was longer once or that the claim is wrong.
fn too_short(what: impl std::fmt::Display) -> String {
    format!("it is cut short or damaged: it claims {what}, more than it can hold. Fetch it again.")
}

struct Header<R> {
    reader: R,
    /// Bytes read so far.
    read: u64,
    /// Bytes of the file.
    length: u64,
}

impl<R: Read> Header<R> {
    fn check(mut self) -> Result<String, String> {
        let mut start = [0; 16];
        let mut have = 0;
        while have < start.len() {
            match self.reader.read(&mut start[have..]).map_err(cut)? {
                0 => break,
                more => have += more,
            }
        }
        let start = &start[..have];
        let Some(rest) = start.strip_prefix(b"GGUF") else {
            let kind = kind_of(start);
            return Err(format!("it is not a GGUF file but {kind}. Fetch the model's GGUF file, or correct the path."));
        };
        // The rest of what was read belongs to the header.
        let mut header = Header { reader: rest.chain(self.reader), read: 4, length: self.length };
        let version = header.u32()?;
        if version.swap_bytes() < 16 && version != 0 {
            return Err("it is a GGUF file for big-endian machines. Fetch the little-endian one.".to_owned());
        }
        if !(2..=3).contains(&version) {
            return Err(format!(
                "it is of GGUF version {version}; 2 and 3 can be read. Fetch a newer file of the model."
            ));
        }
        let (tensors, entries) = (header.u64()?, header.u64()?);
        let least = entries.saturating_mul(LEAST_ENTRY).saturating_add(tensors.saturating_mul(LEAST_TENSOR));
        if least > header.left() {
            return Err(too_short(format!("{tensors} tensors and {entries} entries")));
        }
        if tensors == 0 {
            return Err("it has no tensors: it is a vocabulary only. Fetch the model's whole file.".to_owned());
        }
        let (architecture, alignment) = header.entries(entries)?;
        let end = header.tensors(tensors, alignment)?;
        let needed = header.read.next_multiple_of(alignment).saturating_add(end);
        if header.length < needed {
            return Err(format!("it is cut short: its tensors need {needed} bytes. Fetch it again."));
        }
        Ok(architecture)
    }

    /// Reads the key-value entries. Gives the architecture, and what the tensors' data is aligned to.
    fn entries(&mut self, entries: u64) -> Result<(String, u64), String> {
        let mut alignment = 32;
        let mut architecture = None;
        for _ in 0..entries {
            let key = self.name()?;
            match (key.as_str(), self.u32()?) {
                ("general.architecture", 8) => architecture = Some(self.name()?),
                ("general.alignment", 4) => alignment = u64::from(self.u32()?),
                (_, kind) => self.skip_value(&key, kind, 0)?,
            }
        }
        if !alignment.is_power_of_two() {
            return Err(damaged(format!("its tensors are aligned to {alignment}, which is no power of two")));
        }
        let Some(architecture) = architecture else {
            return Err(damaged("it does not name the model's architecture"));
        };
        if architecture.contains("bert") || ["t5", "t5encoder", "clip"].contains(&architecture.as_str()) {
            return Err(format!(
                "it is a model of the architecture {}, which does not generate text from a prompt. Choose a \
                 chat model.",
                shown(&architecture)
            ));
        }
        Ok((architecture, alignment))
    }

    /// Reads the tensors' descriptions. Gives where the last one's data ends, counted from where the first's begins.
    fn tensors(&mut self, tensors: u64, alignment: u64) -> Result<u64, String> {
        let mut end = 0;
        for _ in 0..tensors {
            let name = shown(&self.name()?);
            let dimensions = self.u32()?;
            if dimensions > MOST_DIMENSIONS {
                return Err(damaged(format!("its tensor {name} has {dimensions} dimensions")));
            }
            let mut elements = 1u64;
            for _ in 0..dimensions {
                let product = elements.checked_mul(self.u64()?);
                elements = product.ok_or_else(|| damaged(format!("its tensor {name} is impossibly large")))?;
            }
            let kind = self.u32()?;
            let offset = self.u64()?;
            if offset % alignment != 0 {
                return Err(damaged(format!(
                    "its tensor {name} is at {offset}, which is not a multiple of {alignment}"
                )));
            }
            end = end.max(offset.saturating_add(data_bytes(kind, elements)));
        }
        Ok(end)
    }

    fn skip_value(&mut self, key: &str, kind: u32, depth: usize) -> Result<(), String> {
        let bytes = match kind {
            // u8, i8, bool; u16, i16; u32, i32, f32; u64, i64, f64
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => self.u64()?,
            9 if depth < DEEPEST_ARRAY => {
                let (element, count) = (self.u32()?, self.u64()?);
                if count > self.left() {
                    return Err(too_short(format!("{count} elements in its entry {}", shown(key))));
                }
                for _ in 0..count {
                    self.skip_value(key, element, depth + 1)?;
                }
                return Ok(());
            }
            _ => return Err(damaged(format!("its entry {} has a value of the unknown kind {kind}", shown(key)))),
        };
        if bytes > self.left() {
            return Err(too_short(format!("{bytes} bytes in its entry {}", shown(key))));
        }
        let skipped = io::copy(&mut self.reader.by_ref().take(bytes), &mut io::sink()).map_err(cut)?;
        self.read += skipped;
        if skipped < bytes { Err(cut(io::ErrorKind::UnexpectedEof.into())) } else { Ok(()) }
    }

    /// Bytes of the file that are not read yet.
    fn left(&self) -> u64 {
        self.length.saturating_sub(self.read)
    }

    fn name(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        if length > LONGEST_NAME {
            return Err(damaged(format!("a name of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| damaged("a name that is no text"))
    }

    fn u32(&mut self) -> Result<u32, String> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, String> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.reader.read_exact(bytes).map_err(cut)?;
        self.read += bytes.len() as u64;
        Ok(())
    }
}

/// What a file that is no GGUF file is, by its first bytes.
fn kind_of(start: &[u8]) -> String {
    let text = String::from_utf8_lossy(start).trim_start().to_ascii_lowercase();
    let kind = if start.is_empty() {
        "empty"
    } else if b"GGUF".starts_with(start) {
        "cut short after its first bytes"
    } else if start.get(8) == Some(&b'{') {
        "a safetensors file"
    } else if text.starts_with("<!doc") || text.starts_with("<html") {
        "a page of HTML, most likely an error of the server it was fetched from"
    } else if text.starts_with("version https") {
        "a Git LFS pointer, which stands for the file"
    } else if start.starts_with(b"PK\x03\x04") {
        "a ZIP archive (a PyTorch file is one, too)"
    } else if [b"tjgg", b"lmgg", b"fmgg"].iter().any(|old| start.starts_with(*old)) {
        "an older GGML file"
    } else {
        return format!("a file that begins with {:?}", start.escape_ascii().to_string());
    };
    kind.to_owned()
}

/// Bytes of a tensor's data: elements in blocks of a kind (`type_traits` in ggml.c). 0 for kinds not known here, so
/// that of these only the offset is checked.
fn data_bytes(kind: u32, elements: u64) -> u64 {
    let (block, bytes) = match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        39 => (32, 17),
        10 => (256, 84),
        11 | 21 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 | 35 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        22 => (256, 82),
        23 => (256, 136),
        29 => (256, 56),
        34 => (256, 54),
        _ => return 0,
    };
    (elements / block).saturating_mul(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    /// A small whole file: three entries, one tensor of 64 numbers of 4 bytes.
    fn whole(architecture: &str) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend(1u64.to_le_bytes());
        file.extend(3u64.to_le_bytes());
        file.extend([text("general.architecture"), 8u32.to_le_bytes().to_vec(), text(architecture)].concat());
        file.extend([text("general.alignment"), 4u32.to_le_bytes().to_vec(), 64u32.to_le_bytes().to_vec()].concat());
        file.extend([text("tokens"), 9u32.to_le_bytes().to_vec(), 8u32.to_le_bytes().to_vec()].concat());
        file.extend([2u64.to_le_bytes().to_vec(), text("a"), text("bc")].concat());
        file.extend([text("weights"), 2u32.to_le_bytes().to_vec()].concat());
        file.extend([16u64.to_le_bytes(), 4u64.to_le_bytes()].concat());
        file.extend([0u32.to_le_bytes().to_vec(), 0u64.to_le_bytes().to_vec()].concat());
        file.resize(file.len().next_multiple_of(64) + 256, 0);
        file
    }

    fn check(bytes: &[u8]) -> Result<String, String> {
        Header { reader: bytes, read: 0, length: bytes.len() as u64 }.check()
    }

    #[test]
    fn a_whole_file_gives_its_architecture() {
        assert_eq!(check(&whole("llama")), Ok("llama".to_owned()));
    }

    #[test]
    fn a_file_cut_short_anywhere_is_seen() {
        let whole = whole("llama");
        for length in 0..whole.len() {
            let reason = check(&whole[..length]).expect_err("a part of a file passed");
            assert!(reason.contains("Fetch"), "{length}: {reason}");
        }
    }

    #[test]
    fn other_kinds_of_file_are_named() {
        for (start, kind) in [
            (&b""[..], "empty"),
            (b"\x40\0\0\0\0\0\0\0{\"__metadata__\"", "safetensors"),
            (b"<!DOCTYPE html><html>", "HTML"),
            (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
            (b"PK\x03\x04rest of it", "ZIP"),
            (b"plain words of a text", "plain words of"),
        ] {
            let reason = check(start).unwrap_err();
            assert!(reason.contains(kind), "{reason}");
        }
    }

    #[test]
    fn absurd_counts_are_refused_without_reading_on() {
        for at in [8, 16] {
            for count in [u64::MAX, 1 << 40, 1000] {
                let mut file = whole("llama");
                file[at..at + 8].copy_from_slice(&count.to_le_bytes());
                let reason = check(&file).unwrap_err();
                assert!(reason.contains(&count.to_string()), "{reason}");
            }
        }
    }

    #[test]
    fn another_version_and_another_byte_order_are_told() {
        let with = |version: [u8; 4]| {
            let mut file = whole("llama");
            file[4..8].copy_from_slice(&version);
            check(&file).unwrap_err()
        };
        assert!(with(1u32.to_le_bytes()).contains("version 1"));
        assert!(with(9u32.to_le_bytes()).contains("version 9"));
        assert!(with(3u32.to_be_bytes()).contains("big-endian"));
    }

    #[test]
    fn a_model_that_generates_no_text_is_refused() {
        assert!(check(&whole("nomic-bert")).unwrap_err().contains("nomic-bert"));
        assert!(check(&whole(&"bert".repeat(10_000))).unwrap_err().len() < 1000);
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_panic_or_run_on(at in 0usize..300, bytes: [u8; 8]) {
            let mut file = whole("llama");
            let at = at.min(file.len() - 8);
            file[at..at + 8].copy_from_slice(&bytes);
            let _ = check(&file);
        }
    }
}
