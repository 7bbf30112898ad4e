//! Tables as text, RFC 4180 and its relatives: a line a record that names its values ([`super::records`]).

use super::records::Records;
use super::{Format, ParseError, ParseLimits, ParsedDocument};

/// Records looked at to tell the delimiter.
const SAMPLE: usize = 50;

/// The delimiter by which the first records have the same number of values, two at least; `None` where no table is.
pub(super) fn delimiter(text: &str) -> Option<u8> {
    let width = |delimiter: &u8| {
        let mut widths = reader(text, *delimiter).into_records().take(SAMPLE).map_while(Result::ok).map(|r| r.len());
        let first = widths.next().filter(|width| *width > 1)?;
        // The last record of the sample is the last of the text where that is short; it may be cut off.
        let (same, all) = widths.fold((1, 1), |(same, all), width| (same + usize::from(width == first), all + 1));
        (same * 10 >= all * 9).then_some(first)
    };
    [b',', b';', b'\t', b'|']
        .into_iter()
        .filter_map(|d| width(&d).map(|width| (width, d)))
        .max_by_key(|(w, _)| *w)
        .map(|(_, d)| d)
}

fn reader(text: &str, delimiter: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(text.as_bytes())
}

/// Converts a table whose delimiter is known.
///
/// # Errors
/// [`ParseError`] where the text gets too long.
pub(super) fn parse(text: &str, delimiter: u8, limits: &ParseLimits) -> Result<ParsedDocument, ParseError> {
    let mut out = String::new();
    let mut records = Records::default();
    for record in reader(text, delimiter).records() {
        let record = record.map_err(|error| ParseError::Malformed { format: "CSV", reason: error.to_string() })?;
        if let Some((line, _)) = records.line(record.iter()) {
            out.push_str(&line);
            out.push('\n');
            // Names of values are repeated with each record: the text outgrows the file.
            limits.check_text(out.len())?;
        }
    }
    if out.is_empty() {
        out = records.header().ok_or(ParseError::Empty("it has no values"))?;
    }
    Ok(ParsedDocument::new(Format::Csv, None, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        parse(text, delimiter(text).expect("a table"), &ParseLimits::default()).expect("text").text
    }

    #[test]
    fn records_name_their_values_whatever_stands_between_them() {
        assert_eq!(text("Region,Sum\nNorth,12\nSouth,\"1,5\"\n"), "Region: North; Sum: 12\nRegion: South; Sum: 1,5\n");
        assert_eq!(text("Region;Summe\nNord;1,5\n"), "Region: Nord; Summe: 1,5\n");
        assert_eq!(text("a\tb\n1\t2\n"), "a: 1; b: 2\n");
        assert_eq!(text("a|b\n1|\"x\ny\"\n"), "a: 1; b: x y\n");
    }

    #[test]
    fn prose_is_no_table() {
        assert_eq!(delimiter("Dear all,\nno table is here.\nRegards"), None);
        assert_eq!(delimiter("one\ntwo\n"), None);
    }
}
