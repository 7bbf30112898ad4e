//! Documents of every format through the real process: what they say is found, with its page; what cannot be read fails
//! with its reason, and the service goes on.

use crate::common;

use std::io::Write;

use common::{Home, Server, Setup};
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;

/// An archive of these files.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A PDF with a line of text on each page; a page without text has a filled square.
fn pdf(pages: &[&str]) -> Vec<u8> {
    let mut objects = vec!["<< /Type /Catalog /Pages 2 0 R >>".to_owned()];
    let kids: Vec<String> = (0..pages.len()).map(|n| format!("{} 0 R", 4 + 2 * n)).collect();
    objects.push(format!("<< /Type /Pages /Kids [{}] /Count {} >>", kids.join(" "), pages.len()));
    objects.push("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned());
    for (n, text) in pages.iter().enumerate() {
        let content = match text.is_empty() {
            true => "100 100 200 200 re f".to_owned(),
            false => format!("BT /F1 12 Tf 72 700 Td ({text}) Tj ET"),
        };
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> /Contents {} 0 R >>",
            5 + 2 * n
        ));
        objects.push(format!("<< /Length {} >>\nstream\n{content}\nendstream", content.len()));
    }
    let mut out = b"%PDF-1.4\n".to_vec();
    let mut offsets = Vec::new();
    for (n, object) in objects.iter().enumerate() {
        offsets.push(out.len());
        out.extend(format!("{} 0 obj\n{object}\nendobj\n", n + 1).bytes());
    }
    let xref = out.len();
    out.extend(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).bytes());
    offsets.iter().for_each(|offset| out.extend(format!("{offset:010} 00000 n \n").bytes()));
    out.extend(format!("trailer\n<< /Size {} /Root 1 0 R >>\nstartxref\n{xref}\n%%EOF\n", objects.len() + 1).bytes());
    out
}

const TYPES: &str = "<?xml version=\"1.0\"?><Types xmlns=\"http://schemas.openxmlformats.org/package/2006/content-types\"><Default Extension=\"rels\" ContentType=\"application/vnd.openxmlformats-package.relationships+xml\"/><Default Extension=\"xml\" ContentType=\"application/xml\"/></Types>";

fn relations(targets: &[(&str, &str)]) -> String {
    let all: String = targets
        .iter()
        .enumerate()
        .map(|(n, (kind, target))| format!("<Relationship Id=\"rId{}\" Type=\"http://schemas.openxmlformats.org/officeDocument/2006/relationships/{kind}\" Target=\"{target}\"/>", n + 1))
        .collect();
    format!(
        "<?xml version=\"1.0\"?><Relationships xmlns=\"http://schemas.openxmlformats.org/package/2006/relationships\">{all}</Relationships>"
    )
}

fn docx(body: &str) -> Vec<u8> {
    archive(&[
        ("[Content_Types].xml", TYPES),
        ("_rels/.rels", &relations(&[("officeDocument", "word/document.xml")])),
        ("word/_rels/document.xml.rels", &relations(&[("styles", "styles.xml")])),
        (
            "word/styles.xml",
            "<?xml version=\"1.0\"?><w:styles xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\"><w:style w:type=\"paragraph\" w:styleId=\"Heading1\"><w:name w:val=\"heading 1\"/><w:pPr><w:outlineLvl w:val=\"0\"/></w:pPr></w:style></w:styles>",
        ),
        (
            "word/document.xml",
            &format!(
                "<?xml version=\"1.0\"?><w:document xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\"><w:body>{body}</w:body></w:document>"
            ),
        ),
    ])
}

fn pptx(slides: &[&str]) -> Vec<u8> {
    let targets: Vec<String> = (1..=slides.len()).map(|n| format!("slides/slide{n}.xml")).collect();
    let ids: String = (1..=slides.len()).map(|n| format!("<p:sldId id=\"{}\" r:id=\"rId{n}\"/>", 255 + n)).collect();
    let names = "xmlns:a=\"http://schemas.openxmlformats.org/drawingml/2006/main\" xmlns:r=\"http://schemas.openxmlformats.org/officeDocument/2006/relationships\" xmlns:p=\"http://schemas.openxmlformats.org/presentationml/2006/main\"";
    let mut files = vec![
        ("[Content_Types].xml".to_owned(), TYPES.to_owned()),
        ("_rels/.rels".to_owned(), relations(&[("officeDocument", "ppt/presentation.xml")])),
        (
            "ppt/presentation.xml".to_owned(),
            format!("<?xml version=\"1.0\"?><p:presentation {names}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>"),
        ),
        (
            "ppt/_rels/presentation.xml.rels".to_owned(),
            relations(&targets.iter().map(|target| ("slide", target.as_str())).collect::<Vec<_>>()),
        ),
    ];
    for (target, text) in targets.iter().zip(slides) {
        files.push((format!("ppt/{target}"), format!("<?xml version=\"1.0\"?><p:sld {names}><p:cSld><p:spTree><p:sp><p:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp></p:spTree></p:cSld></p:sld>")));
    }
    archive(&files.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect::<Vec<_>>())
}

fn xlsx(rows: &[&[&str]]) -> Vec<u8> {
    let rows: String = rows
        .iter()
        .enumerate()
        .map(|(r, row)| {
            let cells: String = row
                .iter()
                .enumerate()
                .map(|(c, cell)| {
                    format!("<c r=\"{}{}\" t=\"inlineStr\"><is><t>{cell}</t></is></c>", (b'A' + c as u8) as char, r + 1)
                })
                .collect();
            format!("<row r=\"{}\">{cells}</row>", r + 1)
        })
        .collect();
    archive(&[
        ("[Content_Types].xml", TYPES),
        ("_rels/.rels", &relations(&[("officeDocument", "xl/workbook.xml")])),
        (
            "xl/workbook.xml",
            "<?xml version=\"1.0\"?><workbook xmlns=\"http://schemas.openxmlformats.org/spreadsheetml/2006/main\" xmlns:r=\"http://schemas.openxmlformats.org/officeDocument/2006/relationships\"><sheets><sheet name=\"Depots\" sheetId=\"1\" r:id=\"rId1\"/></sheets></workbook>",
        ),
        ("xl/_rels/workbook.xml.rels", &relations(&[("worksheet", "worksheets/sheet1.xml")])),
        (
            "xl/worksheets/sheet1.xml",
            &format!(
                "<?xml version=\"1.0\"?><worksheet xmlns=\"http://schemas.openxmlformats.org/spreadsheetml/2006/main\"><sheetData>{rows}</sheetData></worksheet>"
            ),
        ),
    ])
}

fn odt() -> Vec<u8> {
    archive(&[
        ("mimetype", "application/vnd.oasis.opendocument.text"),
        (
            "content.xml",
            "<?xml version=\"1.0\"?><office:document-content xmlns:office=\"o\" xmlns:text=\"t\" xmlns:table=\"b\"><office:body><office:text><text:tracked-changes><text:p>withdrawn</text:p></text:tracked-changes><text:h text:outline-level=\"1\">Lanterns</text:h><text:p>The lantern burns <text:s/>paraffin &amp; oil.</text:p><text:list><text:list-item><text:p>trim the wick</text:p></text:list-item></text:list><table:table><table:table-row><table:table-cell><text:p>Size</text:p></table:table-cell><table:table-cell><text:p>Hours</text:p></table:table-cell></table:table-row><table:table-row><table:table-cell><text:p>small</text:p></table:table-cell><table:table-cell><text:p>nine</text:p></table:table-cell></table:table-row></table:table></office:text></office:body></office:document-content>",
        ),
        ("meta.xml", "<?xml version=\"1.0\"?><m xmlns:dc=\"d\"><dc:title>Lantern manual</dc:title></m>"),
    ])
}

fn epub() -> Vec<u8> {
    archive(&[
        ("mimetype", "application/epub+zip"),
        (
            "META-INF/container.xml",
            "<?xml version=\"1.0\"?><container><rootfiles><rootfile full-path=\"OPS/book.opf\"/></rootfiles></container>",
        ),
        (
            "OPS/book.opf",
            "<?xml version=\"1.0\"?><package xmlns:dc=\"d\"><metadata><dc:title>Of Gulls</dc:title></metadata><manifest><item id=\"b\" href=\"two.xhtml\"/><item id=\"a\" href=\"one.xhtml\"/></manifest><spine><itemref idref=\"a\"/><itemref idref=\"b\"/></spine></package>",
        ),
        ("OPS/one.xhtml", "<html><body><h1>Dawn</h1><p>The gull wakes first.</p></body></html>"),
        ("OPS/two.xhtml", "<html><body><h1>Dusk</h1><p>The gull sleeps last.</p></body></html>"),
    ])
}

const EML: &str = "From: Ada Berg <ada@example.com>\r\nTo: Ben <ben@example.com>\r\nSubject: =?utf-8?Q?Kr=C3=A4ne?= in April\r\nDate: Tue, 14 Apr 2026 09:00:00 +0000\r\nMessage-ID: <1@example.com>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nThe crane is inspected on Friday, at 10 o=E2=80=99clock.\r\n";

async fn put(server: &Server, id: &str, media_type: &str, bytes: Vec<u8>) -> Value {
    server.put(&format!("/v1/documents/{id}?wait=true"), media_type, bytes).await.1
}

#[tokio::test]
async fn every_format_is_told_by_its_content_and_says_what_it_holds() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    let paragraph = |style: &str, text: &str| {
        format!("<w:p><w:pPr>{style}</w:pPr><w:r><w:rPr><w:b/></w:rPr><w:t>{text}</w:t></w:r></w:p>")
    };
    let word = docx(&format!(
        "{}{}",
        paragraph("<w:pStyle w:val=\"Heading1\"/>", "Ferries"),
        paragraph("", "The ferry leaves at dawn.")
    ));
    let sheet = xlsx(&[&["Depot", "Tons"], &["Kiel", "412"], &["Oslo", "77"]]);
    for (id, bytes, format, part) in [
        ("pdf", pdf(&["The anchor weighs nine tons."]), "pdf", "The anchor weighs nine tons."),
        ("docx", word, "docx", "# Ferries\n\nThe ferry leaves at dawn."),
        ("pptx", pptx(&["Whales sing", "Herring do not"]), "pptx", "Herring do not"),
        ("xlsx", sheet, "xlsx", "## Depots\n\n- Depot: Kiel; Tons: 412\n- Depot: Oslo; Tons: 77"),
        (
            "odt",
            odt(),
            "odt",
            "# Lanterns\n\nThe lantern burns paraffin & oil.\n\n- trim the wick\n\n| Size | Hours |\n| --- | --- |\n| small | nine |",
        ),
        ("epub", epub(), "epub", "# Dawn\n\nThe gull wakes first.\n\n# Dusk\n\nThe gull sleeps last."),
        ("rtf", br"{\rtf1\ansi The keel is caf\'e9 brown.\par}".to_vec(), "rtf", "The keel is café brown."),
        ("eml", EML.as_bytes().to_vec(), "email", "Subject: Kräne in April\nFrom: Ada Berg <ada@example.com>"),
        ("csv.csv", b"Port;Depth\nKiel;\"12,5\"\n".to_vec(), "csv", "Port: Kiel; Depth: 12,5"),
    ] {
        // The declaration says nothing, and a wrong one would do no harm.
        for media_type in ["application/octet-stream", "text/plain"] {
            let body = put(&server, id, media_type, bytes.clone()).await;
            assert_eq!(body["status"], "visible", "{id}: {body}");
            let document = server.get(&format!("/v1/documents/{id}")).await.1;
            assert_eq!(document["format"], format, "{id}");
            assert!(document["text"].as_str().unwrap().contains(part), "{id}: {}", document["text"]);
        }
    }
    let text = server.get("/v1/documents/odt").await.1;
    assert!(!text["text"].as_str().unwrap().contains("withdrawn"));
    assert_eq!(text["title"], "Lantern manual");
    assert_eq!(server.get("/v1/documents/epub").await.1["title"], "Of Gulls");
}

#[tokio::test]
async fn a_passage_of_a_pdf_or_presentation_says_its_page() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    // Pages long enough for chunks of their own; the second one is a picture.
    let long = |word: &str| format!("{word} ").repeat(150);
    let (first, third) = (long("harbour"), long("lighthouse"));
    assert_eq!(put(&server, "p.pdf", "application/pdf", pdf(&[&first, "", &third])).await["status"], "visible");
    assert_eq!(put(&server, "s.pptx", "", pptx(&[&long("mast"), &long("rudder")])).await["status"], "visible");
    for (word, page) in [("harbour", 1), ("lighthouse", 3), ("mast", 1), ("rudder", 2)] {
        let body = server.post("/v1/search", json!({ "query": word, "mode": "lexical", "limit": 1 })).await.1;
        assert_eq!(body["results"][0]["page"], page, "{word}: {body}");
    }
    let said = home.run(&Setup::default(), &["search", "lighthouse", "--server", &server.base]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("(p.pdf), page 3"), "{said:?}");
}

#[tokio::test]
async fn an_encrypted_pdf_opens_without_a_password_or_says_that_it_needs_one() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    // Made by pypdf in every way that the PDF standards know.
    for way in ["rc4-40", "rc4-128", "aes-128", "aes-256-r5", "aes-256"] {
        let file = |name: &str| {
            let path = common::here(&format!("tests/documents/{name}-{way}.pdf"));
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let open = put(&server, &format!("open-{way}"), "application/pdf", file("open")).await;
        assert_eq!(open["status"], "visible", "{open}");
        let locked = put(&server, &format!("locked-{way}"), "application/pdf", file("locked")).await;
        assert_eq!(locked["status"], "failed");
        assert!(
            locked["reason"].as_str().is_some_and(|reason| reason.contains("protected with a password")),
            "{locked}"
        );
    }
    assert_eq!(server.found("marmalade", "lexical").await.len(), 5);
}

#[tokio::test]
async fn real_reports_are_read_with_their_pages() {
    // Published by offices of the United States; not part of this repository.
    let folder = common::here("../shared/sample-docs/pdf-gov");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        return eprintln!("{} is not here: nothing was tested", folder.display());
    };
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        put(&server, &name, "application/pdf", std::fs::read(&path).expect("a report")).await;
        // A machine that has much to do takes longer than a request may wait.
        let status = async || server.get(&format!("/v1/documents/{name}?text=false")).await.1["status"].clone();
        server.until("the report is visible", async || status().await == "visible").await;
    }
    let search = json!({ "query": "Federal Employee Viewpoint Survey results", "limit": 5 });
    let (_, body) = server.post("/v1/search", search).await;
    assert!(
        body["results"].as_array().is_some_and(|found| found.iter().all(|hit| hit["page"].as_u64() > Some(0))),
        "{body}"
    );
}

#[tokio::test]
async fn documents_that_cannot_be_read_say_why_and_harm_nothing() {
    let home = Home::new();
    let settings = "ingest.max_unpacked_bytes = 10000000\ningest.max_document_bytes = 50000000";
    let server = home.serve(&Setup { settings: settings.into(), ..Setup::default() }).await;
    server.put_visible("kept", "The kept document about kangaroos.").await;
    let whole = docx(&format!("<w:p><w:r><w:t>{}</w:t></w:r></w:p>", "ferry ".repeat(500)));
    let filler = " ".repeat(50_000_000);
    let many = vec!["x"; 100_000];
    let nested = format!("{}x", "<w:p>".repeat(50_000));
    for (id, media_type, bytes, reason) in [
        ("cut.docx", "", whole[..whole.len() / 2].to_vec(), "cut off"),
        ("cut.pdf", "", pdf(&["text"])[..100].to_vec(), "PDF"),
        ("scan.pdf", "", pdf(&["", ""]), "only pictures"),
        ("text.pdf", "application/pdf", b"not a PDF at all".to_vec(), "content is text"),
        ("pages.pdf", "", pdf(&many), "100000 pages"),
        ("bomb.docx", "", archive(&[("word/document.xml", &filler)]), "unpack"),
        ("zip.zip", "", archive(&[("a.txt", "a")]), "a ZIP archive"),
        ("broken.docx", "", docx("<w:p><w:r>"), ""),
        ("nested.docx", "", docx(&nested), ""),
        ("deep.rtf", "", [b"{\\rtf1".as_slice(), &b"{".repeat(100_000)].concat(), "nested"),
        ("empty.epub", "", archive(&[("mimetype", "application/epub+zip")]), "container.xml"),
    ] {
        let body = put(&server, id, media_type, bytes).await;
        assert_eq!(body["status"], "failed", "{id}: {body}");
        let said = body["reason"].as_str().unwrap();
        assert!(said.contains(reason) && said.len() > 10, "{id}: {said}");
    }
    assert_eq!(server.found("kangaroos", "hybrid").await, ["kept"]);
    assert_eq!(put(&server, "ok.pdf", "", pdf(&["The tide turns."])).await["status"], "visible");
}

#[tokio::test]
async fn damaged_files_are_read_or_refused_and_never_stop_the_service() {
    let home = Home::new();
    let server = home.serve(&Setup::default()).await;
    let whole = [pdf(&["one", "two"]), pptx(&["one"]), xlsx(&[&["a", "b"], &["1", "2"]]), odt(), epub()];
    let mut random = 0x9e37_79b9_u32;
    for round in 0..40 {
        let mut bytes = whole[round % whole.len()].clone();
        for _ in 0..=round / 4 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = random as usize % bytes.len();
            bytes[at] = (random >> 24) as u8;
        }
        let body = put(&server, &format!("fuzzed-{round}"), "", bytes).await;
        assert!(body["status"] == "visible" || body["status"] == "failed", "{round}: {body}");
    }
    assert_eq!(put(&server, "after", "", pdf(&["The tide turns."])).await["status"], "visible");
}

#[tokio::test]
async fn a_parser_that_takes_too_much_costs_its_document_only() {
    let home = Home::new();
    let settings = "ingest.parse_memory_bytes = 134217728\ningest.parse_cpu_s = 1";
    let server = home.serve(&Setup { settings: settings.into(), ..Setup::default() }).await;
    // Numbers, since what is all the same is refused as a bomb before.
    let rows: String = (0..400_000u64)
        .map(|n| format!("<w:p><w:r><w:t>{:x}</w:t></w:r></w:p>", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    let body = put(&server, "greedy", "", docx(&rows)).await;
    assert_eq!(body["status"], "failed", "{body}");
    let reason = body["reason"].as_str().unwrap();
    assert!(reason.contains("parse_memory_bytes") || reason.contains("parse_cpu_s"), "{reason}");
    assert_eq!(put(&server, "after", "", pdf(&["The tide turns."])).await["status"], "visible");
}
