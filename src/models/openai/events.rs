//! What a server of OpenAI's protocol says: the events of its streams, and its errors. Reads bytes from whatever
//! connection; [`super::engine`] says what becomes of them.

use std::pin::Pin;

use bytes::Bytes;
use eventsource_stream::{EventStreamError, Eventsource};
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::Value;

/// The largest event that is read, in bytes.
pub const EVENT_BYTES: usize = 1 << 20;
/// Longest text of a server's error that is passed on, in characters.
const ERROR_CHARS: usize = 300;

/// An event of a stream, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
pub struct Chunk {
    /// Its text, of which the first choice counts.
    #[serde(default)]
    pub choices: Vec<Choice>,
    /// The account, in the last event but one.
    pub usage: Option<Usage>,
    /// What went wrong.
    pub error: Option<Value>,
    /// The server said that it has said all.
    #[serde(skip)]
    pub done: bool,
}

/// One of the answers that a server gives.
#[derive(Debug, Default, Deserialize)]
pub struct Choice {
    /// What is new of it.
    #[serde(default)]
    pub delta: Delta,
    /// Why it ended.
    pub finish_reason: Option<String>,
}

/// What is new of an answer.
#[derive(Debug, Default, Deserialize)]
pub struct Delta {
    /// Its text.
    pub content: Option<String>,
}

/// What an answer took.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(default)]
    pub prompt_tokens: usize,
    /// Tokens generated.
    #[serde(default)]
    pub completion_tokens: usize,
    /// More about the tokens of the prompt.
    pub prompt_tokens_details: Option<PromptTokens>,
}

/// The tokens of a prompt.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PromptTokens {
    /// Those that had been computed before.
    pub cached_tokens: Option<usize>,
}

impl Chunk {
    /// Its text, empty where it has none.
    pub fn text(&self) -> &str {
        self.choices.first().and_then(|choice| choice.delta.content.as_deref()).unwrap_or_default()
    }

    /// Why the answer ended, where it did.
    pub fn finish(&self) -> Option<&str> {
        self.choices.first().and_then(|choice| choice.finish_reason.as_deref())
    }
}

/// The events of a stream as they come, or why there are no more.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk, String>> + Send>>;

/// The chunks in the bytes of a response.
pub fn chunks(bytes: impl Stream<Item = Result<Bytes, String>> + Send + 'static) -> Chunks {
    let mut open = OpenEvent::default();
    let mut start = Some(Vec::new());
    let bytes = bytes.map(move |bytes| {
        let bytes = without_mark(&mut start, bytes?);
        // An event without an end is not collected for ever.
        match open.longest(&bytes) > EVENT_BYTES {
            true => Err(format!("it sends an event of more than {EVENT_BYTES} bytes")),
            false => Ok(bytes),
        }
    });
    let events = bytes.eventsource().filter_map(async |event| match event {
        Ok(event) if event.data.trim() == "[DONE]" => Some(Ok(Chunk { done: true, ..Chunk::default() })),
        Ok(event) if event.data.is_empty() => None,
        Ok(event) => Some(
            serde_json::from_str(&event.data)
                .map_err(|_| format!("it sends what is no chunk: {}", error_text(&event.data))),
        ),
        Err(EventStreamError::Transport(reason)) => Some(Err(reason)),
        Err(_) => Some(Err("it sends what are no events".to_owned())),
    });
    Box::pin(events)
}

/// Drops byte order marks at the beginning, which may come in pieces: the parser of events panics at one. `start` is what has
/// come before, until there is enough of it to tell.
fn without_mark(start: &mut Option<Vec<u8>>, bytes: Bytes) -> Bytes {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let Some(held) = start else { return bytes };
    held.extend_from_slice(&bytes);
    while held.starts_with(MARK) {
        held.drain(..MARK.len());
    }
    if held.len() < MARK.len() {
        return Bytes::new();
    }
    Bytes::from(start.take().unwrap_or_default())
}

/// The event that has begun and not ended: a blank line ends it.
#[derive(Default)]
struct OpenEvent {
    bytes: usize,
    /// The line being read has something in it.
    filled: bool,
    /// The last byte was a carriage return, with which a line feed makes one end of a line.
    returned: bool,
}

impl OpenEvent {
    /// The most bytes that it, or one after it, has come to within these.
    fn longest(&mut self, bytes: &[u8]) -> usize {
        let mut longest = 0;
        for byte in bytes {
            self.bytes += 1;
            longest = longest.max(self.bytes);
            let after_return = std::mem::replace(&mut self.returned, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' if !std::mem::take(&mut self.filled) => self.bytes = 0,
                b'\n' | b'\r' => {}
                _ => self.filled = true,
            }
        }
        longest
    }
}

/// What an error's body says, in OpenAI's form or any other.
pub fn error_text(body: &str) -> String {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    let said = json["error"]["message"].as_str().or(json["error"].as_str()).or(json["detail"].as_str());
    let said = said.unwrap_or(body).trim();
    let mut text: String = said.chars().take(ERROR_CHARS).collect();
    if text.is_empty() {
        text.push_str("without a reason");
    }
    text
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, stream};

    use super::*;

    fn read(pieces: Vec<Bytes>) -> Vec<Result<Chunk, String>> {
        chunks(stream::iter(pieces.into_iter().map(Ok))).collect().now_or_never().expect("nothing to wait for")
    }

    #[test]
    fn an_event_without_an_end_is_not_collected_whatever_lines_it_has() {
        for line in ["data: x\n", "data: x\r\n", "data: x\r", ": \n", "x"] {
            let piece = Bytes::from(line.repeat(1000));
            let pieces = EVENT_BYTES / piece.len() + 2;
            let said = read(vec![piece; pieces]);
            let last = said.last().expect("an error").as_ref().expect_err("an error");
            assert!(last.contains("an event of more than"), "{line:?}: {last}");
        }
    }

    #[test]
    fn byte_order_marks_are_dropped_in_whatever_pieces_they_come() {
        for marks in 0..3 {
            let event = "data: {\"choices\": [{\"delta\": {\"content\": \"x\"}}]}\n\n";
            let response = "\u{feff}".repeat(marks) + event;
            for size in [1, 2, 3, 4, response.len()] {
                let said = read(response.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect());
                let said: Vec<&str> = said.iter().map(|chunk| chunk.as_ref().expect("a chunk").text()).collect();
                assert_eq!(said, ["x"], "{marks} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_stream_of_many_events_and_comments_is_read_to_its_end() {
        for end in ["\n", "\r\n", "\r"] {
            let piece = format!(": ping{end}{end}data: {{\"choices\": []}}{end}{end}").repeat(1000);
            let pieces = 2 * EVENT_BYTES / piece.len();
            // A carriage return at the very end might be half of an end: only what follows tells.
            let all = std::iter::repeat_n(Bytes::from(piece), pieces).chain([Bytes::from_static(b":\n")]);
            let said = read(all.collect());
            assert_eq!(said.iter().filter(|chunk| chunk.is_ok()).count(), pieces * 1000, "{end:?}: {:?}", said.last());
        }
    }
}
