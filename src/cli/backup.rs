//! `answerd backup` and `answerd restore`: a copy of the embedded data, made while a service runs, and put back.

use std::path::PathBuf;

use crate::config::{Config, StoreEngine};
use crate::stores::backup;

/// Copies the data into a folder.
pub fn back_up(config: &Config, to: PathBuf) -> Result<(), String> {
    embedded(config)?;
    let documents = backup::back_up(&config.data.dir, &absolute(to)?)?;
    println!("{documents} documents are in the backup");
    Ok(())
}

/// Puts a copy back.
pub fn restore(config: &Config, from: PathBuf) -> Result<(), String> {
    embedded(config)?;
    let documents = backup::restore(&absolute(from)?, &config.data.dir)?;
    println!("{documents} documents are in {}; their indexes are made with the next start", config.data.dir.display());
    Ok(())
}

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    std::path::absolute(&path).map_err(|error| format!("{}: {error}", path.display()))
}

fn embedded(config: &Config) -> Result<(), String> {
    match config.store.engine {
        StoreEngine::Embedded => Ok(()),
        StoreEngine::Postgres => {
            Err("the documents are in Postgres ([store] engine): back that up with its own tools".into())
        }
        StoreEngine::Qdrant => {
            Err("the documents are in Qdrant ([store] engine): back that up by its snapshots".into())
        }
    }
}
