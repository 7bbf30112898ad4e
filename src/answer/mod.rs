//! The rules of answering: pure, no I/O, no actors.
//!
//! - [`budget`]: which passages fit the prompt
//! - [`prompt`]: the prompt as segments, with what is trusted kept apart from what is not
//! - [`citation`]: the `[n]` of an answer, checked while it streams
//! - [`log`]: the append-only log of one answer, with a cursor for each reader

pub mod budget;
pub mod citation;
pub mod log;
pub mod prompt;
