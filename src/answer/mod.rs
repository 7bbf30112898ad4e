//! The rules of answering: pure, no I/O, no actors.
//!
//! - [`budget`]: which passages fit the prompt
//! - [`prompt`]: the prompt as segments, with what is trusted kept apart from what is not
//! - [`citation`]: the `[n]` of an answer, checked while it streams
//! - [`evidence`]: the keys under which an answer is kept: of what it rests on
//! - [`log`]: the append-only log of one answer, with a cursor for each reader

pub mod budget;
pub mod citation;
pub mod evidence;
pub mod log;
pub mod prompt;
