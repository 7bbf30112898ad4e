//! Electronic books to Markdown (EPUB 3.3): the chapters in reading order, each as a page of HTML.

use super::archive::Archive;
use super::xml::{Step, walk};
use super::{Format, ParseError, ParseLimits, ParsedDocument, append, html, markdown, plausible_title, text};

/// Name in errors.
const FORMAT: &str = "EPUB";

/// Converts a book.
///
/// # Errors
/// [`ParseError`] where it has no text, is protected against copying, or is damaged.
pub(super) fn parse(bytes: &[u8], limits: &ParseLimits) -> Result<ParsedDocument, ParseError> {
    let mut archive = Archive::open(bytes, limits)?;
    let malformed = |reason: &str| ParseError::Malformed { format: FORMAT, reason: reason.to_owned() };
    // Fonts may be obfuscated, which is no protection; anything else encrypted is.
    if archive.text("META-INF/encryption.xml")?.is_some_and(|encryption| encryption.contains("xmlenc#aes")) {
        return Err(ParseError::Protected);
    }
    let container =
        archive.text("META-INF/container.xml")?.ok_or_else(|| malformed("it has no META-INF/container.xml"))?;
    let mut package = None;
    walk(FORMAT, &container, limits.max_nesting, |step| {
        if let Step::Start(element) = step
            && element.name() == "rootfile"
            && package.is_none()
        {
            package = element.attribute("full-path");
        }
        Ok(())
    })?;
    let path = package.ok_or_else(|| malformed("its container names no package"))?;
    let package = archive.text(&path)?.ok_or_else(|| malformed("its package file is missing"))?;
    let package = Package::read(&package, limits)?;

    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut book = String::new();
    for href in &package.chapters {
        // A chapter that is missing or has no text, as a cover has none, leaves the others.
        let Some(page) = archive.bytes(&resolve(folder, href))? else { continue };
        let page = text::decode(&page, html::charset(&page[..page.len().min(html::CHARSET_WINDOW)]).as_deref());
        match html::parse(&page, limits) {
            Ok(chapter) => {
                append(&mut book, &chapter.text, limits)?;
            }
            Err(ParseError::Empty(_)) => {}
            Err(error) => return Err(error),
        }
    }
    if book.is_empty() {
        return Err(ParseError::Empty("its chapters have no text"));
    }
    let title = plausible_title(&package.title).or_else(|| markdown::title(&book));
    Ok(ParsedDocument::new(Format::Epub, title, book))
}

/// What the package file says.
#[derive(Default)]
struct Package {
    title: String,
    /// Addresses of the chapters in reading order.
    chapters: Vec<String>,
}

impl Package {
    fn read(xml: &str, limits: &ParseLimits) -> Result<Package, ParseError> {
        let mut package = Package::default();
        let mut files: std::collections::HashMap<String, String> = Default::default();
        let mut spine = Vec::new();
        let mut in_title = false;
        walk(FORMAT, xml, limits.max_nesting, |step| {
            match step {
                Step::Start(element) => {
                    in_title = element.name() == "title" && package.title.is_empty();
                    match element.name() {
                        "item" => {
                            if let (Some(id), Some(href)) = (element.attribute("id"), element.attribute("href")) {
                                files.insert(id, href);
                            }
                        }
                        "itemref" => spine.extend(element.attribute("idref")),
                        _ => {}
                    }
                }
                Step::End => in_title = false,
                Step::Text(text) if in_title => package.title.push_str(text),
                Step::Text(_) => {}
            }
            Ok(())
        })?;
        // Each once: a spine that names a chapter a thousand times is no longer book.
        package.chapters = spine.iter().filter_map(|id| files.remove(id)).collect();
        Ok(package)
    }
}

/// The name in the archive of an address that the package file in `folder` gives.
fn resolve(folder: &str, href: &str) -> String {
    let href = href.split(['#', '?']).next().unwrap_or_default();
    let href = percent_encoding::percent_decode_str(href).decode_utf8_lossy();
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in href.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_are_relative_to_the_package() {
        assert_eq!(super::resolve("OEBPS", "text/one%20two.xhtml#x"), "OEBPS/text/one two.xhtml");
        assert_eq!(super::resolve("a/b", "../c.xhtml"), "a/c.xhtml");
        assert_eq!(super::resolve("", "./c.xhtml"), "c.xhtml");
    }
}
