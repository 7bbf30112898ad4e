//! The list of the graphs on disk: what a save made, found again at the next start.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::VectorOptions;
use super::segment::Dumped;

/// Name of the manifest's file.
pub const MANIFEST: &str = "manifest.json";
/// Version of the files.
const FORMAT: u32 = 2;

/// What is on disk. The file is its SHA-256 on one line, and then its JSON.
#[derive(Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    dimensions: usize,
    m: usize,
    ef_construction: usize,
    /// The catalog's commit that was saved.
    pub applied: u64,
    /// The dumped segments; the last one is open.
    pub segments: Vec<Dumped>,
}

impl Manifest {
    /// A manifest of graphs built with `options`.
    pub fn new(options: &VectorOptions, applied: u64, segments: Vec<Dumped>) -> Self {
        let VectorOptions { dimensions, m, ef_construction, .. } = *options;
        Self { format: FORMAT, dimensions, m, ef_construction, applied, segments }
    }

    /// The manifest in `folder`, `None` where there is nothing yet, or why it cannot be used.
    pub fn read(folder: &Path, options: &VectorOptions) -> Result<Option<Self>, String> {
        let path = folder.join(MANIFEST);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return match std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
                    true => Err(format!("{} is missing: what is beside it cannot be used", path.display())),
                    false => Ok(None),
                };
            }
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let manifest: Self = text
            .split_once('\n')
            .filter(|(sum, json)| hex::encode(Sha256::digest(json)) == *sum)
            .and_then(|(_, json)| serde_json::from_str(json).ok())
            .ok_or_else(|| format!("{} is damaged, or of another version", path.display()))?;
        let same = manifest.format == FORMAT
            && manifest.dimensions == options.dimensions
            && manifest.m == options.m
            && manifest.ef_construction == options.ef_construction;
        if same { Ok(Some(manifest)) } else { Err("the graphs were built with other settings".to_owned()) }
    }

    /// Puts it in the place of the one before, for good.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        let json = serde_json::to_string(self)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        write!(file, "{}\n{json}", hex::encode(Sha256::digest(&json)))?;
        file.as_file().sync_all()?;
        file.persist(folder.join(MANIFEST)).map_err(|error| error.error)?;
        std::fs::File::open(folder)?.sync_all()
    }
}
