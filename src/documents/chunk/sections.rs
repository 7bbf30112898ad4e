//! The sections of a document: the text from one heading to the next, and the joining of small ones.
//! Works on headings and sizes; [`super`] makes chunks of what comes out.

use std::ops::Range;

use super::size::Sizer;
use crate::documents::parse::markdown::Heading;

/// The text from one heading to the next.
#[derive(Debug)]
pub struct Section {
    /// Indices of the headings above it, its own included, outermost first.
    pub path: Vec<usize>,
    /// All of it, headings included.
    pub span: Range<usize>,
    /// Where the headings it begins with end; the start of the span where there are none.
    pub head_end: usize,
    /// Its size in tokens; of joined sections the sum.
    size: usize,
}

impl Section {
    /// Nothing but headings.
    fn is_bare(&self, text: &str) -> bool {
        text[self.head_end..self.span.end].trim().is_empty()
    }
}

/// The sections of `text[body..]`, in order; what stands before the first heading is one
/// without a path.
pub fn sections(text: &str, body: usize, headings: &[Heading]) -> Vec<Section> {
    let mut sections = Vec::with_capacity(headings.len() + 1);
    let first = headings.first().map_or(text.len(), |heading| heading.span.start);
    if !text[body..first].trim().is_empty() {
        sections.push(Section { path: Vec::new(), span: body..first, head_end: body, size: 0 });
    }
    let mut path: Vec<usize> = Vec::new();
    for (at, heading) in headings.iter().enumerate() {
        while path.last().is_some_and(|&above| headings[above].level >= heading.level) {
            path.pop();
        }
        path.push(at);
        let end = headings.get(at + 1).map_or(text.len(), |next| next.span.start);
        let head_end = heading.span.end.min(end);
        sections.push(Section { path: path.clone(), span: heading.span.start..end, head_end, size: 0 });
    }
    sections
}

/// Joins sections of less than a quarter of a chunk with a neighbour under the same parent, as
/// long as both fit one chunk, and headings without text with what follows them.
pub fn join_small(sections: Vec<Section>, text: &str, sizer: &Sizer) -> Vec<Section> {
    let mut joined: Vec<Section> = Vec::with_capacity(sections.len());
    for mut section in sections {
        section.size = sizer.size(text[section.span.clone()].trim());
        let Some(last) = joined.last_mut() else {
            joined.push(section);
            continue;
        };
        let common = last.path.iter().zip(&section.path).take_while(|(a, b)| a == b).count();
        // Below the last one, or beside it.
        let related = common + 1 >= section.path.len() && common + 1 >= last.path.len();
        let small = last.size.min(section.size) * 4 < sizer.max();
        let fits = last.size + section.size <= sizer.max();
        if related && (last.is_bare(text) || small && fits) {
            if last.is_bare(text) {
                // All of its text is the other's.
                last.path = section.path;
                last.head_end = section.head_end;
            } else {
                last.path.truncate(common);
            }
            last.span.end = section.span.end;
            last.size += section.size;
        } else {
            joined.push(section);
        }
    }
    joined
}
