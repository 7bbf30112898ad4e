//! The actors: state, order, bounds and failure. Each is a [`door::Role`] behind a [`door::Door`], in this tree:
//!
//! ```text
//! overseer
//! ├── write
//! │   ├── folder-N         watches a folder                           -> ingestor
//! │   ├── source           takes events from NATS                     -> ingestor
//! │   ├── ingestor         accepts operations (durable)               -> documents
//! │   ├── documents        parse, chunk, embed, store                 -> embedder
//! │   ├── indexer          catalog -> both indexes, publishes views      (embedded store)
//! │   └── maintainer       saves, rebuilds, removes what is retired      (embedded store)
//! ├── embedder             shared by both paths, questions first
//! └── read
//!     ├── retriever        searches the store                         -> embedder
//!     ├── cache            keeps evidence and answers
//!     └── model-pool       admits generations                         -> worker
//!         └── worker-N     owns one engine
//! ```
//!
//! Around them: [`stats`] counts at the doors, [`overseer`] reads the doors, [`incidents`] has what happened lately, [`compute`] has the threads.

pub mod cache;
pub mod compute;
pub mod contained;
pub mod document;
pub mod door;
pub mod embedder;
pub mod folder;
pub mod incidents;
pub mod indexer;
pub mod ingestor;
pub mod maintainer;
pub mod model_pool;
pub mod model_worker;
pub mod overseer;
pub mod retriever;
pub mod source;
pub mod stats;
