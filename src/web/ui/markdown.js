// The Markdown that language models write (paragraphs, headings, lists, tables, code, bold, emphasis) and
// citations `[n]`, as elements. Anything else stays as it was written.

import { el } from "./dom.js";

const FENCE = /^\s*(```|~~~)/;
const HEADING = /^#{1,6}\s+/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Cuts a text into blocks {kind, lines}. A block that is still growing is the last one. */
function blocksOf(text) {
  const lines = text.split("\n");
  const blocks = [];
  const isTable = (at) => lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && RULE.test(lines[at + 1]);
  const begins = (at) => FENCE.test(lines[at]) || HEADING.test(lines[at]) || ITEM.test(lines[at]) || isTable(at);
  let at = 0;
  while (at < lines.length) {
    const from = at;
    const line = lines[at++];
    if (line.trim() === "") continue;
    let kind = "paragraph";
    if (FENCE.test(line)) {
      kind = "code";
      const fence = line.match(FENCE)[1];
      while (at < lines.length && lines[at].trim() !== fence) at++;
      at++;
    } else if (HEADING.test(line)) {
      kind = "heading";
    } else if (isTable(from)) {
      kind = "table";
      while (at < lines.length && lines[at].includes("|")) at++;
    } else if (ITEM.test(line)) {
      kind = "list";
      const goesOn = (i) => ITEM.test(lines[i]) || /^\s+\S/.test(lines[i]);
      while (at < lines.length && (goesOn(at) || (lines[at].trim() === "" && at + 1 < lines.length && ITEM.test(lines[at + 1])))) at++;
    } else {
      while (at < lines.length && lines[at].trim() !== "" && !begins(at)) at++;
    }
    blocks.push({ kind, lines: lines.slice(from, at) });
  }
  return blocks;
}

function blockNode({ kind, lines }, cite) {
  switch (kind) {
    case "code": {
      const closed = lines.length > 1 && FENCE.test(lines.at(-1));
      return el("pre", { tabindex: "0" }, el("code", {}, lines.slice(1, closed ? -1 : undefined).join("\n")));
    }
    case "heading":
      return el("h3", {}, ...inline(lines[0].replace(HEADING, ""), cite));
    case "table":
      return tableNode(lines, cite);
    case "list":
      return listNode(itemsOf(lines), cite);
    default:
      return el("p", {}, ...inline(lines.join("\n"), cite));
  }
}

function tableNode([head, , ...rows], cite) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (name, line) => el("tr", {}, ...cells(line).map((cell) => el(name, {}, ...inline(cell, cite))));
  const table = el("table", {}, el("thead", {}, row("th", head)), el("tbody", {}, ...rows.map((line) => row("td", line))));
  return el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}

function itemsOf(lines) {
  const items = [];
  for (const line of lines) {
    const match = line.match(ITEM);
    if (match) items.push({ indent: match[1].length, number: Number.parseInt(match[2], 10), text: match[3] });
    else if (line.trim() !== "") items.at(-1).text += ` ${line.trim()}`;
  }
  return items;
}

/** A list of items; those indented deeper than the first become a list in the item above them. */
function listNode(items, cite) {
  const { indent, number } = items[0];
  const list = Number.isNaN(number) ? el("ul") : el("ol", { start: String(number) });
  for (let at = 0; at < items.length; ) {
    let next = at + 1;
    while (next < items.length && items[next].indent > indent + 1) next++;
    const nested = items.slice(at + 1, next);
    list.append(el("li", {}, ...inline(items[at].text, cite), nested.length > 0 ? listNode(nested, cite) : null));
    at = next;
  }
  return list;
}

// Code, bold, emphasis, citations. Links stay text: what a model writes is not an address to trust.
const INLINE = /(`+)(?!`)(.+?)(?<!`)\1(?!`)|\*\*(?=\S)(.+?)\*\*|\*(?=[^\s*])([^*]+?)(?<=\S)\*|\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\](?!\()/gs;

function inline(text, cite) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, , code, bold, emphasis, numbers] = match;
    if (match.index > end) nodes.push(text.slice(end, match.index));
    if (code !== undefined) nodes.push(el("code", {}, code));
    else if (bold !== undefined) nodes.push(el("strong", {}, ...inline(bold, cite)));
    else if (emphasis !== undefined) nodes.push(el("em", {}, ...inline(emphasis, cite)));
    else nodes.push(...citations(numbers, cite, whole));
    end = match.index + whole.length;
  }
  if (end < text.length) nodes.push(text.slice(end));
  return nodes;
}

/** The buttons of `[1, 2]`, or its own text where one of the numbers names no source. */
function citations(numbers, cite, whole) {
  const buttons = numbers.split(",").map((n) => cite(Number(n)));
  return buttons.includes(null) ? [whole] : buttons;
}

/** Renders Markdown into `target`; blocks that are unchanged since the last call keep their nodes.
    `cite(n)` gives the element of a citation, or null where there is no such source. */
export function renderMarkdown(target, text, cite) {
  const blocks = blocksOf(text);
  blocks.forEach((block, at) => {
    const source = `${block.kind}\n${block.lines.join("\n")}`;
    const old = target.children[at];
    if (old?.source === source) return;
    const node = blockNode(block, cite);
    node.source = source;
    if (old) old.replaceWith(node);
    else target.append(node);
  });
  while (target.children.length > blocks.length) target.lastChild.remove();
}
