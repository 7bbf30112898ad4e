// Cuts the Markdown of an answer into blocks while it grows. A block that is followed by another one is finished and
// never looked at again; the last one is completed to what it will become, so that nothing changes its kind on
// screen: an open fence is code, the first line of a table is a table, bold is bold before it is closed.

import { Marked, type Token } from "marked";

/** Reads Markdown as models write it. Definitions of links are left out: `[1]: http://...` in an answer would turn its
    citations into links of somebody's choice. */
export const marked = new Marked({
  gfm: true,
  tokenizer: { def: () => undefined, reflink: () => undefined },
});

/** A piece of Markdown that stands by itself. */
export type Block = Token;

const lex = (text: string): Block[] => marked.lexer(text).filter((token) => token.type !== "space");

/** Follows a growing text. */
export class BlockSplitter {
  /** Blocks that will not change. */
  readonly finished: Block[] = [];
  /** How much of the text they are. */
  #settled = 0;
  #seen = "";

  /** Takes the text as it is now; returns the blocks after the finished ones: the one that still grows.
      `ended`: it is complete. Where the text is not a longer form of the one before, it begins anew. */
  update(given: string, ended: boolean): Block[] {
    // As the lexer does: the lengths of its tokens are of that.
    const text = given.replace(/\r\n?/g, "\n");
    if (!text.startsWith(this.#seen.slice(0, this.#settled)) || text.length < this.#settled) {
      this.finished.length = 0;
      this.#settled = 0;
    }
    this.#seen = text;
    const rest = text.slice(this.#settled);
    if (ended) return lex(rest);

    const tokens = marked.lexer(steady(rest));
    const last = tokens.findLastIndex((token) => token.type !== "space");
    for (const token of tokens.slice(0, Math.max(last, 0))) {
      // Only what was taken as it stands can be counted.
      if (!text.startsWith(token.raw, this.#settled)) return lex(complete(steady(text.slice(this.#settled))));
      this.#settled += token.raw.length;
      if (token.type !== "space") this.finished.push(token);
    }
    return last < 0 ? [] : lex(complete(tokens[last]!.raw));
  }
}

/** A text without an end that could still become anything: the start of a citation or link, a line that so far is only
    the mark of a list, heading, rule or fence. */
export function steady(text: string): string {
  return text
    .replace(/(^|\n)[ \t]*(?:[-=*+_#>~`]+|\d{1,9}[.)]?|(?:```|~~~)[^\n`]*)[ \t]*$/, "$1")
    .replace(/\[[\d,\s]*$/, "")
    .replace(/[*_~`]+$/, (marks) => (closes(text, marks) ? marks : ""));
}

/** Whether marks at the end of a text close something that is open. */
function closes(text: string, marks: string): boolean {
  const line = text.slice(text.lastIndexOf("\n\n") + 1, text.length - marks.length);
  return line.split(marks).length % 2 === 0;
}

/** A block that still grows, with what is open in it closed. */
export function complete(raw: string): string {
  if (/^ {0,3}(`{3,}|~{3,})/.test(raw)) return raw; // an open fence is code up to the end of the text anyway
  if (/^ {0,3}\|/.test(raw)) return completeTable(raw);
  // A link whose address is still being written is its text.
  const text = raw.replace(/!?\[([^\][]*)\]\([^)\s]*$/, "$1");
  return text + openMarks(text);
}

function completeTable(raw: string): string {
  const lines = raw.split("\n");
  const [head = "", delimiter] = lines;
  if (delimiter !== undefined && !(lines.length === 2 && /^[\s|:-]*$/.test(delimiter))) return raw + openMarks(lines.at(-1) ?? "");
  const cells = head.trim().replace(/^\||\|$/g, "").split("|").length;
  const whole = head.trimEnd().endsWith("|") ? head : `${head} |`;
  return `${whole}\n|${" --- |".repeat(cells)}`;
}

/** The marks that close what is open at the end of a text, in their order. */
function openMarks(text: string): string {
  const open: string[] = [];
  // Of the last paragraph or item only: nothing spans more.
  const part = text.slice(Math.max(text.lastIndexOf("\n\n"), text.search(/\n[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t][^\n]*$/)) + 1).replace(/^[ \t]*[*+-][ \t]/, "");
  for (const [mark] of part.matchAll(/\\.|`+|\*\*|~~|\*/gs)) {
    if (mark.startsWith("\\")) continue;
    const inCode = open.at(-1)?.startsWith("`") === true;
    if (inCode ? mark === open.at(-1) : open.includes(mark)) open.splice(open.lastIndexOf(mark));
    else if (!inCode) open.push(mark);
  }
  // An asterisk with spaces around it is one: 2 * 3.
  const closing = open.filter((mark) => !(mark === "*" && !/(?:^|\s)\*(?=\S)[^*]*$/.test(part)));
  return closing.reverse().join("");
}
