//! Copies of the embedded data, made while a service runs on it, and put back.
//!
//! What is copied is what cannot be made again: the catalog, with documents, chunks and vectors; the service's own records;
//! and the records of usage. SQLite makes a consistent copy of a database beside its writer (`VACUUM INTO`). Both indexes
//! follow from the catalog: a service that starts on what was put back makes them, and embeds nothing again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::catalog::{Catalog, open_reader};
use crate::actors::stats::now_ms;

/// Names the files of a copy with their hashes. It is written last: a copy without it is none.
const MANIFEST: &str = "backup.json";
/// The databases, and whether there must be one.
const DATABASES: [(&str, bool); 2] = [("catalog.sqlite", true), ("records.sqlite", false)];
/// The records of usage.
const USAGE: &str = "usage";

/// What a copy holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// Of answerd.
    version: String,
    made_ms: u64,
    documents: u64,
    /// The hash of each file, by its path below the folder.
    files: BTreeMap<String, String>,
}

/// Copies the data in a folder into another one, which must be empty or not there. Gives how many documents it holds.
///
/// # Errors
/// In words for the operator; what was copied until then is no copy.
pub fn back_up(data: &Path, to: &Path) -> Result<u64, String> {
    if std::fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!("{} is not empty: a backup takes a folder of its own", to.display()));
    }
    let failed = |what: &Path, error: &dyn std::fmt::Display| format!("cannot copy {}: {error}", what.display());
    std::fs::create_dir_all(to).map_err(|error| failed(to, &error))?;
    let mut files = BTreeMap::new();
    for (name, needed) in DATABASES {
        let (from, copy) = (data.join(name), to.join(name));
        if !from.exists() {
            if needed {
                return Err(format!("there is no {} to copy", from.display()));
            }
            continue;
        }
        let target = copy.to_str().ok_or_else(|| format!("{} is no text", copy.display()))?;
        let database = open_reader(&from).map_err(|error| failed(&from, &error))?;
        database.execute("VACUUM INTO ?1", [target]).map_err(|error| failed(&from, &error))?;
        check(&copy)?;
        files.insert(name.to_owned(), hash(&copy)?);
    }
    for from in files_in(&data.join(USAGE)) {
        let Some(name) = from.file_name().and_then(|name| name.to_str()) else { continue };
        let place = to.join(USAGE);
        std::fs::create_dir_all(&place).map_err(|error| failed(&place, &error))?;
        let copy = place.join(name);
        std::fs::copy(&from, &copy).map_err(|error| failed(&from, &error))?;
        files.insert(format!("{USAGE}/{name}"), hash(&copy)?);
    }
    let database = open_reader(&to.join("catalog.sqlite")).map_err(|error| failed(to, &error))?;
    let documents =
        database.query_row("SELECT count(*) FROM versions WHERE retired IS NULL", [], |row| row.get::<_, i64>(0));
    let documents = documents.map_err(|error| failed(to, &error))? as u64;
    let manifest = Manifest { version: env!("CARGO_PKG_VERSION").to_owned(), made_ms: now_ms(), documents, files };
    let path = to.join(MANIFEST);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&path)?;
        file.write_all(&serde_json::to_vec_pretty(&manifest)?)?;
        file.sync_all()?;
        File::open(to)?.sync_all()
    };
    write().map_err(|error| failed(&path, &error))?;
    Ok(documents)
}

/// Puts a copy back into a data folder that has no catalog, and that no service uses. Gives how many documents it holds.
///
/// # Errors
/// In words for the operator; the folder has no catalog then either.
pub fn restore(from: &Path, data: &Path) -> Result<u64, String> {
    let failed = |what: &Path, error: &dyn std::fmt::Display| format!("cannot restore {}: {error}", what.display());
    let text = std::fs::read(from.join(MANIFEST));
    let text = text.map_err(|error| format!("{} is no backup that is whole: {MANIFEST}: {error}", from.display()))?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| format!("{} is no backup: {MANIFEST}: {error}", from.display()))?;
    for (name, wanted) in &manifest.files {
        let path = from.join(name);
        if !is_plain(name) || hash(&path)? != *wanted {
            return Err(format!("{} is not as it was when the backup was made: it is damaged", path.display()));
        }
    }
    let _lock = Catalog::lock(data).map_err(|error| error.to_string())?;
    for (name, _) in DATABASES {
        let there = data.join(name);
        if there.exists() {
            return Err(format!("{} is there: move it away, or give [data] dir a new folder", there.display()));
        }
    }
    // Indexes of another life, and what SQLite had not written yet of it.
    for left in ["lexical", "vectors"] {
        let path = data.join(left);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(|error| failed(&path, &error))?;
        }
    }
    for (name, _) in DATABASES {
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(data.join(format!("{name}{end}")));
        }
    }
    // The catalog last: without it there is nothing yet.
    let last = |name: &&String| name.as_str() == "catalog.sqlite";
    for name in manifest.files.keys().filter(|name| !last(name)).chain(manifest.files.keys().filter(last)) {
        let (path, target) = (from.join(name), data.join(name));
        let partial = target.with_extension("restoring");
        let put = || -> Result<(), String> {
            if let Some(folder) = target.parent() {
                std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
            }
            std::fs::copy(&path, &partial).map_err(|error| failed(&path, &error))?;
            if last(&name) {
                begin_another_life(&partial).map_err(|error| failed(&path, &error))?;
            }
            File::open(&partial).and_then(|file| file.sync_all()).map_err(|error| failed(&path, &error))?;
            std::fs::rename(&partial, &target).map_err(|error| failed(&target, &error))
        };
        put()?;
    }
    File::open(data).and_then(|folder| folder.sync_all()).map_err(|error| failed(data, &error))?;
    Ok(manifest.documents)
}

/// What is kept of answers elsewhere is kept under the catalog's name and its commits, and these are counted again from
/// where the copy was made: it has a name of its own from now on.
fn begin_another_life(catalog: &Path) -> rusqlite::Result<()> {
    let database = Connection::open(catalog)?;
    let id = uuid::Uuid::now_v7().to_string();
    database.execute("UPDATE settings SET value = ?1 WHERE name = 'id'", [id]).map(drop)
}

/// Whether SQLite finds nothing wrong with a copy.
fn check(copy: &Path) -> Result<(), String> {
    let verdict = open_reader(copy)
        .and_then(|database| database.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)));
    match verdict.as_deref() {
        Ok("ok") => Ok(()),
        Ok(verdict) => Err(format!("the copy {} is damaged: {verdict}", copy.display())),
        Err(error) => Err(format!("the copy {} cannot be read: {error}", copy.display())),
    }
}

/// Whether a name of a manifest stays below its folder.
fn is_plain(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

fn hash(path: &Path) -> Result<String, String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        std::io::copy(&mut file, &mut hash)?;
        file.sync_all()?;
        Ok(hex::encode(hash.finalize()))
    };
    read().map_err(|error| format!("cannot read {}: {error}", path.display()))
}
