//! `answerd migrate`: the documents of one store into another.

use std::sync::Arc;

use crate::app::load_embedder;
use crate::config::{Config, StoreEngine};
use crate::migrate::migrate;
use crate::stores::archive::Archive;
use crate::stores::catalog::{Catalog, CatalogArchive};
use crate::stores::postgres::Postgres;
use crate::stores::qdrant::Qdrant;
use crate::stores::records::{Kind, open_in};

/// From where to where.
#[derive(clap::Args)]
pub struct Migrate {
    /// The store that has the documents: embedded ([data] dir), postgres ([postgres]) or qdrant ([qdrant]).
    #[arg(long)]
    from: String,
    /// The store that is to have them. What it has already is not moved again.
    #[arg(long)]
    to: String,
}

/// Moves them, and says how far it is.
pub async fn run(config: Config, what: Migrate) -> Result<(), String> {
    if what.from == what.to {
        return Err("--from and --to name the same store".into());
    }
    let config = Arc::new(config);
    let (from, to) = (open(&config, &what.from).await?, open(&config, &what.to).await?);
    let moved = migrate(&*from, &*to, |progress| eprintln!("{progress}")).await?;
    let records = move_records(&config, &what).await?;
    println!(
        "{} documents ({} were there already) with {} passages and {} events are in {} as they are in {}, compared by hash, and so are {records} records of keys, feedback and audit. Set [store] engine = {:?} to use it.",
        moved.documents, moved.already, moved.chunks, moved.events, what.to, what.from, what.to
    );
    Ok(())
}

/// Copies the service's own records. Gives how many there are.
async fn move_records(config: &Arc<Config>, what: &Migrate) -> Result<usize, String> {
    let (from, to) = (open_in(config, engine(&what.from)?)?, open_in(config, engine(&what.to)?)?);
    let mut moved = 0;
    for kind in Kind::ALL {
        for (id, record) in from.all(kind).await.map_err(|error| error.to_string())? {
            to.put(kind, &id, &record).await.map_err(|error| error.to_string())?;
            moved += 1;
        }
    }
    Ok(moved)
}

fn engine(name: &str) -> Result<StoreEngine, String> {
    serde_json::from_value(name.into())
        .map_err(|_| format!("there is no store {name:?}; there are embedded, postgres and qdrant"))
}

async fn open(config: &Arc<Config>, name: &str) -> Result<Box<dyn Archive>, String> {
    let engine = engine(name)?;
    let model = load_embedder(config).map_err(|error| error.to_string())?;
    match engine {
        StoreEngine::Embedded => {
            let catalog = Catalog::open(&config.data.dir, model.name(), model.dimensions());
            Ok(Box::new(CatalogArchive(Arc::new(catalog.map_err(|error| error.to_string())?))))
        }
        StoreEngine::Postgres => {
            if config.postgres.url.is_empty() {
                return Err("[postgres] url is empty: say where the Postgres is".into());
            }
            let store = Postgres::open(config, model.name(), model.dimensions()).await;
            Ok(Box::new(store.map_err(|error| error.to_string())?))
        }
        StoreEngine::Qdrant => {
            if config.qdrant.url.is_empty() {
                return Err("[qdrant] url is empty: say where the Qdrant is".into());
            }
            let store = Qdrant::open(config, model.name(), model.dimensions()).await;
            Ok(Box::new(store.map_err(|error| error.to_string())?))
        }
    }
}
