//! A look at a GGUF file before llama.cpp sees it: what is missing, cut short or something else is told in words, and
//! never reaches a parser that may end the process.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

/// More than any real model has: what claims more is garbage.
const MOST_ENTRIES: u64 = 1 << 20;
const LONGEST_STRING: u64 = 1 << 26;
const LONGEST_ARRAY: u64 = 1 << 26;

/// Checks the header and that the file is as long as its tensors need.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| {
        format!("cannot open the model {shown}: {error}. `make setup` fetches the default one; see [models.chat] path.")
    })?;
    let length = file.metadata().map_err(|error| format!("cannot read the model {shown}: {error}"))?.len();
    if !path.is_file() {
        return Err(format!("the model {shown} is not a file. [models.chat] path names a GGUF file."));
    }
    let mut reader = Header { file: BufReader::new(file), length };
    reader.check().map_err(|reason| {
        format!("the model {shown} ({length} bytes) cannot be used: {reason}. Fetch it again, or see [models.chat] path.")
    })
}

struct Header {
    file: BufReader<File>,
    length: u64,
}

impl Header {
    fn check(&mut self) -> Result<(), String> {
        let mut magic = [0; 4];
        self.file.read_exact(&mut magic).map_err(|_| "it is too short to be a GGUF file".to_owned())?;
        if &magic != b"GGUF" {
            return Err(format!("it is not a GGUF file: it begins with {:?}", String::from_utf8_lossy(&magic)));
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("its GGUF version is {version}; 2 and 3 are known"));
        }
        let (tensors, entries) = (self.u64()?, self.u64()?);
        if tensors > MOST_ENTRIES || entries > MOST_ENTRIES {
            return Err(format!("its header is damaged: it claims {tensors} tensors and {entries} entries"));
        }
        let mut alignment = 32;
        let mut architecture = false;
        for _ in 0..entries {
            let key = self.string()?;
            architecture |= key == "general.architecture";
            let kind = self.u32()?;
            if key == "general.alignment" && kind == 4 {
                alignment = u64::from(self.u32()?).max(1);
            } else {
                self.skip_value(kind, 0)?;
            }
        }
        if !architecture {
            return Err("it does not name an architecture".to_owned());
        }
        let mut end = 0u64;
        for _ in 0..tensors {
            let name = self.string()?;
            let dimensions = self.u32()?;
            if dimensions > 8 {
                return Err(format!("the tensor {name} has {dimensions} dimensions"));
            }
            let mut elements = 1u64;
            for _ in 0..dimensions {
                elements = elements.checked_mul(self.u64()?).ok_or(format!("the tensor {name} is impossibly large"))?;
            }
            let kind = self.u32()?;
            let offset = self.u64()?;
            end = end.max(offset.saturating_add(bytes(kind, elements)));
        }
        let header = self.file.stream_position().map_err(|error| error.to_string())?;
        let start = header.div_ceil(alignment) * alignment;
        let needed = start.saturating_add(end);
        if self.length < needed {
            return Err(format!("it is cut short: its tensors need {needed} bytes"));
        }
        Ok(())
    }

    fn skip_value(&mut self, kind: u32, depth: usize) -> Result<(), String> {
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => return self.string().map(drop),
            9 if depth < 4 => {
                let (element, count) = (self.u32()?, self.u64()?);
                if count > LONGEST_ARRAY {
                    return Err(format!("its header is damaged: an array of {count} elements"));
                }
                for _ in 0..count {
                    self.skip_value(element, depth + 1)?;
                }
                return Ok(());
            }
            _ => return Err(format!("its header is damaged: a value of kind {kind}")),
        };
        self.skip(size)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), String> {
        self.file.seek_relative(bytes as i64).map_err(|error| error.to_string())
    }

    fn string(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        if length > LONGEST_STRING || length > self.length {
            return Err(format!("its header is damaged: a text of {length} bytes"));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes).map_err(|_| "it is cut short within its header".to_owned())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn u32(&mut self) -> Result<u32, String> {
        let mut bytes = [0; 4];
        self.file.read_exact(&mut bytes).map_err(|_| "it is cut short within its header".to_owned())?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }
}

/// Bytes that a tensor has at least. Exact for the kinds in common use; of others, only the offset is checked.
fn bytes(kind: u32, elements: u64) -> u64 {
    let (block, size) = match kind {
        0 => (1, 4),
        1 | 30 => (1, 2),
        2 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        _ => return 0,
    };
    elements / block * size
}

