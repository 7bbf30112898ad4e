// A block of Markdown as nodes that are safe to show, whatever a model or a document wrote.
//
// HTML in an answer is shown as text. The HTML that the Markdown renderer makes goes through DOMPurify with a short list
// of elements. Images are not loaded (an address could carry data away); they become links.

import DOMPurify from "dompurify";
import { chat as t, shared } from "../../shared/texts";
import { marked, type Block } from "./blocks";

const escape = (text: string): string => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const WEB = /^(?:https?:\/\/|mailto:)/i;

marked.use({
  renderer: {
    html: ({ text, block }) => (/^<br\s*\/?>$/i.test(text.trim()) ? "<br>" : block ? `<p>${escape(text)}</p>` : escape(text)),
    link({ href, tokens }) {
      const text = this.parser.parseInline(tokens);
      return WEB.test(href) ? `<a href="${escape(href)}">${text}</a>` : text;
    },
    image: ({ href, text }) => (WEB.test(href) ? `<a href="${escape(href)}">${escape(text || href)}</a>` : escape(text)),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    // The page has the first two levels of headings itself.
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    code: ({ text, lang }) => `<pre><code class="${escape(languageOf(lang))}">${escape(text)}\n</code></pre>`,
  },
});

const languageOf = (lang: string | undefined): string => /^[\w+#.-]{1,20}/.exec(lang ?? "")?.[0] ?? "";

const RULES = {
  ALLOWED_TAGS: ["p", "h3", "h4", "h5", "h6", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "strong", "em", "del", "code", "pre", "blockquote", "hr", "br", "a", "span"],
  ALLOWED_ATTR: ["href", "title", "class", "start", "align"],
  ALLOWED_URI_REGEXP: WEB,
  // Whose values are no addresses, and need not look like one.
  ADD_URI_SAFE_ATTR: ["align", "start"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true as const,
};

const sanitize = (html: string): DocumentFragment => DOMPurify.sanitize(html, RULES);

/** Gives colours to code, once that is loaded. */
export type Highlighter = (code: string, language: string) => string | null;

export interface Rendering {
  /** The numbers that a citation may have, with what is said of each. */
  sources: ReadonlyMap<number, string>;
  highlight: Highlighter | null;
}

/** The nodes of a block. */
export function renderBlock(block: Block, rendering: Rendering): DocumentFragment {
  const fragment = sanitize(marked.parser([block]));
  for (const pre of fragment.querySelectorAll("pre")) pre.replaceWith(codeBlock(pre, rendering.highlight));
  for (const table of fragment.querySelectorAll("table")) {
    const box = element("div", { class: "table", tabindex: "0", role: "region", "aria-label": t.answer.table });
    table.replaceWith(box);
    box.append(table);
  }
  for (const link of fragment.querySelectorAll("a")) secure(link);
  cite(fragment, rendering.sources);
  return fragment;
}

/** Whether a block has code that colours would be of use for. */
export const hasCode = (block: Block): boolean => block.type === "code" || ("raw" in block && /```|~~~/.test(block.raw));

function element(name: string, attributes: Record<string, string>, ...children: (Node | string)[]): HTMLElement {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function codeBlock(pre: HTMLPreElement, highlight: Highlighter | null): HTMLElement {
  const code = pre.querySelector("code")!;
  const language = code.className;
  code.removeAttribute("class");
  const html = highlight?.(code.textContent ?? "", language) ?? null;
  if (html !== null) code.replaceChildren(sanitize(html));
  pre.setAttribute("tabindex", "0");
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", t.answer.code);
  const copy = element("button", { type: "button", class: "button quiet code-copy" }, shared.copy);
  return element("div", { class: "code" }, element("div", { class: "code-head" }, element("span", {}, language), copy), pre.cloneNode(true));
}

/** A link of an answer leads out, and says where to. */
function secure(link: HTMLAnchorElement): void {
  const address = link.getAttribute("href");
  if (address === null) {
    link.replaceWith(...link.childNodes);
    return;
  }
  link.setAttribute("target", "_blank");
  link.setAttribute("rel", "noopener noreferrer nofollow");
  const host = hostOf(address);
  if (host && !tells(link.textContent ?? "", host)) link.append(element("span", { class: "host" }, ` (${host})`));
}

/** Whether a text says by itself that it leads to a host. One that only has its name somewhere may look like another. */
function tells(text: string, host: string): boolean {
  if (text === host) return true;
  // Signs that cannot be seen, or look like others, may hide what is behind them; so may a name before an `@`.
  if (!/^https?:\/\/[\x21-\x3f\x41-\x7e]+$/i.test(text) || !text.includes(host)) return false;
  return URL.canParse(text) && new URL(text).host === host;
}

/** Where an address leads: a host, or who a mail goes to. */
export function hostOf(address: string): string {
  try {
    const url = new URL(address);
    return url.protocol === "mailto:" ? url.pathname : url.host;
  } catch {
    return address;
  }
}

const CITATION = /\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]/g;

/** Makes buttons of citations, except in code and links. One with a number that is no source stays as it is. */
function cite(root: Node, sources: ReadonlyMap<number, string>): void {
  if (sources.size === 0) return;
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT, (node) =>
    node instanceof Element && /^(?:PRE|CODE|A|BUTTON)$/.test(node.nodeName) ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT,
  );
  const texts: Text[] = [];
  while (walker.nextNode()) if (walker.currentNode instanceof Text) texts.push(walker.currentNode);
  for (const text of texts) {
    const parts: (Node | string)[] = [];
    let end = 0;
    for (const match of text.data.matchAll(CITATION)) {
      const numbers = match[1]!.split(",").map(Number);
      if (!numbers.every((n) => sources.has(n))) continue;
      parts.push(text.data.slice(end, match.index).replace(/ $/, "\u202F"));
      for (const n of numbers) {
        const label = t.answer.source(n, sources.get(n)!);
        parts.push(element("button", { type: "button", class: "cite", "data-n": String(n), "aria-label": label, title: label }, String(n)));
      }
      end = match.index + match[0].length;
    }
    if (parts.length > 0) text.replaceWith(...parts, text.data.slice(end));
  }
}
