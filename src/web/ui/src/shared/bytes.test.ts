import { describe, expect, it } from "vitest";
import { cutAtBytes, markWords, wordsOf } from "./bytes";

describe("cutAtBytes", () => {
  it("counts bytes, not characters", () => {
    expect(cutAtBytes("añ€😀z", 1, 6)).toEqual(["a", "ñ€", "😀z"]);
  });

  it("refuses offsets inside of a character, in the wrong order, or past the end", () => {
    expect(cutAtBytes("añb", 2, 3)).toBeNull();
    expect(cutAtBytes("abc", 2, 1)).toBeNull();
    expect(cutAtBytes("abc", 0, 4)).toBeNull();
  });

  it("keeps a byte order mark", () => {
    expect(cutAtBytes("\uFEFFab", 0, 4)).toEqual(["", "\uFEFFa", "b"]);
  });
});

describe("marked words", () => {
  it("leaves out what is common", () => {
    expect(wordsOf("How many days of annual leave do I get, and what is SEV1?")).toEqual(["days", "annual", "leave", "get", "sev1"]);
  });

  it("finds other forms of a word, whole words only", () => {
    const marked = (text: string, question: string) => markWords(text, wordsOf(question)).filter((piece) => piece.marked).map((piece) => piece.text);
    expect(marked("Invoices are paid; an invoice is late. Prepaid.", "When is an invoice paid?")).toEqual(["Invoices", "paid", "invoice"]);
    expect(marked("c++ (yes) [no]", "c++ (.*) [a")).toEqual([]);
  });

  it("loses nothing of the text", () => {
    const text = "Leave: the leave year, ‘leaves’ – <b>leave</b>";
    expect(markWords(text, ["leave"]).map((piece) => piece.text).join("")).toBe(text);
  });
});
