//! What the targets share: how their input is taken apart, and what must hold of every document and every cut of one.

use std::borrow::Cow;
use std::cell::Cell;
use std::io::{Cursor, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use zip::write::SimpleFileOptions;

use crate::documents::chunk::{ChunkLimits, MAX_BYTES_PER_TOKEN, MIN_TOKENS, chunk};
use crate::documents::parse::{ParseError, ParseInput, ParseLimits, markdown, parse};
use crate::documents::{Format, ParsedDocument};

/// Ends a part of an input that has several: a byte that no text has need of (ASCII's record separator).
pub const SEPARATOR: u8 = 0x1e;

/// Most bytes that the text of an error may have: people read it, and stores keep it.
pub const MOST_ERROR_BYTES: usize = 2048;

/// The parts of an input, at least one.
pub fn parts(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.split(|byte| *byte == SEPARATOR)
}

/// The parts of an input as texts, at least one.
pub fn texts(input: &[u8]) -> impl Iterator<Item = Cow<'_, str>> {
    parts(input).map(String::from_utf8_lossy)
}

/// Limits low enough for an input to reach them.
pub fn limits() -> ParseLimits {
    ParseLimits { max_text_bytes: 1 << 20, max_nesting: 256, max_pages: 100, max_unpacked_bytes: 1 << 20 }
}

/// Parses a document, and checks what comes of it.
pub fn parse_document(name: &str, media_type: Option<&str>, bytes: &[u8]) -> Option<ParsedDocument> {
    check_parsed(parse(&ParseInput { name, media_type, bytes }, &limits()))
}

/// The same where a library does most of the work, whose panics are no finding: the service has it in a process of its own
/// (`actors/contained.rs`). A panic in a file of answerd is one all the same, after [`tell_libraries_apart`].
pub fn parse_contained(name: &str, bytes: &[u8]) -> Option<ParsedDocument> {
    let parse = || parse(&ParseInput { name, media_type: None, bytes }, &limits());
    CONTAINED.set(true);
    let parsed = catch_unwind(AssertUnwindSafe(parse));
    CONTAINED.set(false);
    check_parsed(parsed.ok()?)
}

thread_local! {
    /// A panic of a library is none of ours now.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// For the `init` of a target that uses [`parse_contained`]: libFuzzer's own hook ends the process at any panic.
pub fn tell_libraries_apart() {
    let ends = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let in_library = panic.location().is_some_and(|place| place.file().contains("/registry/src/"));
        if !(in_library && CONTAINED.get()) {
            ends(panic);
        }
    }));
}

/// A ZIP archive: of the parts of an input, each a name on a line and then the content; or the input itself, where it is
/// an archive already.
pub fn archive(input: &[u8]) -> Vec<u8> {
    if input.starts_with(b"PK") {
        return input.to_vec();
    }
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for part in parts(input) {
        let (name, content) = first_line(part);
        // Twice the same name, or none at all: no archive can be made with it.
        if zip.start_file(&*String::from_utf8_lossy(name), options).is_ok() {
            zip.write_all(content).expect("a file in memory takes all");
        }
    }
    zip.finish().expect("a file in memory takes all").into_inner()
}

/// Names of the files in an archive.
pub fn names_in(archive: &[u8]) -> Vec<String> {
    let Ok(zip) = zip::ZipArchive::new(Cursor::new(archive)) else { return Vec::new() };
    zip.file_names().filter_map(Result::ok).map(Cow::into_owned).collect()
}

/// The first line of an input without its end, and the rest.
pub fn first_line(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, &[]),
    }
}

/// A file in memory with these bytes, for code that reads a file.
pub fn with_file<T>(bytes: &[u8], read: impl FnOnce(PathBuf) -> T) -> T {
    let mut file = memfile::create();
    file.write_all(bytes).expect("a file in memory takes all");
    read(memfile::path(&file))
}

mod memfile {
    use std::fs::File;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::path::PathBuf;

    pub fn create() -> File {
        let file: OwnedFd = rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
        File::from(file)
    }

    pub fn path(file: &File) -> PathBuf {
        format!("/proc/self/fd/{}", file.as_raw_fd()).into()
    }
}

/// What holds of every parsed document, and of the error where there is none.
fn check_parsed(parsed: Result<ParsedDocument, ParseError>) -> Option<ParsedDocument> {
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let said = error.to_string();
            assert!(said.len() <= MOST_ERROR_BYTES, "an error of {} bytes: {:.200}", said.len(), said);
            return None;
        }
    };
    let ParsedDocument { title, text, pages, format } = &parsed;
    assert!(!text.trim().is_empty(), "a {format:?} without text: {text:?}");
    assert!(!text.contains(['\r', '\0']), "a {format:?} with a carriage return or a NUL: {text:?}");
    assert!(text.len() <= limits().max_text_bytes, "a {format:?} of {} bytes", text.len());
    if let Some(title) = title {
        assert!(!title.is_empty() && !title.contains('\0'), "the title {title:?}");
        assert_eq!(*title, markdown::tidy_title(title), "a title that is not tidy");
    }
    for page in pages {
        assert!(text.is_char_boundary(page.start), "page {} starts within a character, at {}", page.number, page.start);
    }
    assert!(
        pages.windows(2).all(|two| two[0].start < two[1].start && two[0].number < two[1].number),
        "pages that do not ascend: {pages:?}"
    );
    assert_eq!(Format::from_name(format.name()), Some(*format));
    Some(parsed)
}

/// Words, as most tokenizers see them.
pub fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// What [`chunk`] promises.
pub fn check_chunks(document: &ParsedDocument, count: &dyn Fn(&str) -> usize, limits: ChunkLimits) {
    let chunks = match chunk(document, count, limits) {
        Ok(chunks) => chunks,
        Err(error) => {
            let ChunkLimits { max_tokens, overlap_tokens } = limits;
            assert!(max_tokens < MIN_TOKENS || overlap_tokens > max_tokens / 2, "{error}");
            return;
        }
    };
    let text = document.text.as_str();
    let body = if document.format == Format::Markdown { markdown::front_matter_end(text) } else { 0 };
    let mut covered = body;
    let mut before = None;
    for chunk in chunks {
        let said = text.get(chunk.span.clone());
        let said = said.unwrap_or_else(|| panic!("{:?} is not on character borders", chunk.span));
        assert!(!said.is_empty() && said.trim() == said, "empty, or white space at the ends: {said:?}");
        assert!(before.is_none_or(|before| before < chunk.span.start), "starts do not ascend: {:?}", chunk.span);
        assert!(chunk.span.start >= body, "a chunk in the front matter: {said:?}");
        assert_eq!(chunk.tokens, count(said), "the tokens of {said:?}");
        assert!(chunk.tokens <= limits.max_tokens, "{} tokens of {}: {said:?}", chunk.tokens, limits.max_tokens);
        assert!(said.len() <= limits.max_tokens * MAX_BYTES_PER_TOKEN, "{} bytes: {said:?}", said.len());
        let between = text.get(covered..chunk.span.start).unwrap_or_default();
        assert!(between.trim().is_empty(), "no chunk has {between:?}");
        before = Some(chunk.span.start);
        covered = covered.max(chunk.span.end);
    }
    assert!(text[covered..].trim().is_empty(), "no chunk has the end {:?}", &text[covered..]);
}
