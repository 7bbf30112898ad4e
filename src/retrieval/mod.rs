//! The rules of search: pure, no I/O, no actors.
//!
//! - [`filter`]: which documents a caller wants, as an expression over their fields
//! - [`fusion`]: reciprocal rank fusion of the lexical and the vector ranking
//! - [`passage`]: a search result: a chunk with its document, its place and its scores
//! - [`sight`]: who may see which documents

pub mod filter;
pub mod fusion;
pub mod passage;
pub mod sight;
