//! The elements and text of an XML file, with quick-xml, for the formats that are read by walking over them. Names are
//! local names: the formats here use each name with one namespace only.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::ParseError;

/// A step of the walk.
pub(super) enum Step<'a> {
    /// An element begins.
    Start(Element<'a>),
    /// The innermost open element ends; an empty one at once.
    End,
    /// Text between them, references resolved.
    Text(&'a str),
}

/// An element's name and attributes.
pub(super) struct Element<'a>(&'a BytesStart<'a>);

impl Element<'_> {
    /// The local name.
    pub fn name(&self) -> &str {
        self.0.local_name().into_inner()
    }

    /// The value of the attribute of this local name.
    pub fn attribute(&self, name: &str) -> Option<String> {
        let mut all = self.0.attributes();
        let found =
            all.with_checks(false).filter_map(Result::ok).find(|one| one.key.local_name().into_inner() == name)?;
        found.normalized_value(XmlVersion::default()).ok().map(|value| value.into_owned())
    }
}

/// Walks over a file. The depth of elements is bounded, and entities that a file defines itself are not replaced, so
/// that a walk costs no more than the file's length.
///
/// # Errors
/// [`ParseError::Malformed`] where the XML is broken or nested too deep, and what `step` returns.
pub(super) fn walk(
    format: &'static str,
    xml: &str,
    max_depth: usize,
    mut step: impl FnMut(Step) -> Result<(), ParseError>,
) -> Result<(), ParseError> {
    let malformed = |reason: String| ParseError::Malformed { format, reason };
    let mut reader = Reader::from_str(xml);
    let mut depth = 0usize;
    loop {
        match reader.read_event().map_err(|error| malformed(error.to_string()))? {
            Event::Start(start) => {
                depth += 1;
                if depth > max_depth {
                    return Err(malformed(format!("its elements are nested more than {max_depth} deep")));
                }
                step(Step::Start(Element(&start)))?;
            }
            Event::Empty(start) => {
                step(Step::Start(Element(&start)))?;
                step(Step::End)?;
            }
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                step(Step::End)?;
            }
            Event::Text(text) => step(Step::Text(&text.xml10_content()))?,
            Event::CData(text) => step(Step::Text(&text.xml10_content()))?,
            Event::GeneralRef(reference) => {
                let character = reference.resolve_char_ref().map_err(|error| malformed(error.to_string()))?;
                let mut buffer = [0; 4];
                let name = reference.xml10_content();
                let text = match character {
                    Some(character) => character.encode_utf8(&mut buffer),
                    None => quick_xml::escape::resolve_predefined_entity(&name).unwrap_or_default(),
                };
                step(Step::Text(text))?;
            }
            Event::Eof => return Ok(()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
}
