//! ZIP archives whose contents are bounded: office documents and books are such archives, and a few kilobytes of one
//! can unpack to any size.

use std::borrow::Cow;
use std::io::{Cursor, Read};

use zip::ZipArchive;

use super::{ParseError, ParseLimits};

/// What such files are called in errors.
const FORMAT: &str = "a ZIP archive (as DOCX, PPTX, XLSX, ODT and EPUB are)";

/// Most files in an archive. The libraries make an entry of memory for each.
const MAX_FILES: usize = 65_536;

/// An archive that was found to keep to the limits.
pub(super) struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// Bytes that may still be unpacked here.
    left: u64,
}

impl<'a> Archive<'a> {
    /// Opens an archive and adds up what it says its files unpack to.
    ///
    /// # Errors
    /// [`ParseError`] where its directory cannot be read, as of a file that was cut off, or announces too much.
    pub fn open(bytes: &'a [u8], limits: &ParseLimits) -> Result<Self, ParseError> {
        let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(|error| malformed(&error))?;
        if zip.len() > MAX_FILES {
            return Err(ParseError::Bomb(format!("it holds {} files, and the limit is {MAX_FILES}", zip.len())));
        }
        let mut total: u64 = 0;
        for at in 0..zip.len() {
            // Raw: the sizes of encrypted files are readable without their password.
            let file = zip.by_index_raw(at).map_err(|error| malformed(&error))?;
            total = total.saturating_add(file.size());
        }
        if total > limits.max_unpacked_bytes {
            return Err(ParseError::Bomb(format!(
                "its {} bytes unpack to {total} bytes, and the limit is {}",
                bytes.len(),
                limits.max_unpacked_bytes
            )));
        }
        Ok(Archive { zip, left: limits.max_unpacked_bytes })
    }

    /// Names of the files in it; one in an unknown encoding is left out.
    pub fn names(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.zip.file_names().filter_map(Result::ok)
    }

    /// Unpacks a file; `None` where there is none of that name.
    ///
    /// # Errors
    /// [`ParseError`] where it cannot be unpacked, needs a password, or is larger than the archive says.
    pub fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, ParseError> {
        let left = self.left;
        let file = match self.zip.by_name(name) {
            Ok(file) => file,
            Err(zip::result::ZipError::FileNotFound) => return Ok(None),
            Err(error) => return Err(malformed(&error)),
        };
        if file.encrypted() {
            return Err(ParseError::Protected);
        }
        // The announced size is the archive's word only.
        let mut bytes = Vec::new();
        file.take(left + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| ParseError::Malformed { format: FORMAT, reason: format!("{name}: {error}") })?;
        match left.checked_sub(bytes.len() as u64) {
            Some(rest) => self.left = rest,
            None => return Err(ParseError::Bomb(format!("{name} unpacks to more than it announces"))),
        }
        Ok(Some(bytes))
    }

    /// Unpacks a file of UTF-8 text; bytes that are none become U+FFFD.
    ///
    /// # Errors
    /// As [`Archive::bytes`].
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ParseError> {
        Ok(self.bytes(name)?.map(|bytes| super::text::decode(&bytes, None)))
    }
}

fn malformed(error: &zip::result::ZipError) -> ParseError {
    match error {
        zip::result::ZipError::UnsupportedArchive(zip::result::ZipError::PASSWORD_REQUIRED) => ParseError::Protected,
        error => ParseError::Malformed { format: FORMAT, reason: format!("{error}; it may have been cut off") },
    }
}
