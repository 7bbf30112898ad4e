// The chat page: asks answerd, shows the answer as it comes, and the passages it rests on.
//
// Talks to POST v1/answers (server-sent events), GET v1/documents and GET v1/documents/{id}, all at the
// address the page came from. Keeps the conversation in memory only. Text from the service (answers, titles,
// documents) reaches the page as text nodes, never as HTML.

import { el } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { eventsOf } from "./sse.js";

/** What the service reads as the conversation so far: the last so many messages. */
const HISTORY = 6;

/** Characters of a document shown on each side of a passage; a whole book would stall the page. */
const CONTEXT = 100_000;

/** Questions for a first try. They are shown where the documents that answer them are indexed. */
const EXAMPLES = [
  { question: "How many days of annual leave do I get?", document: "people/handbook.md" },
  { question: "How fast must a SEV1 alert be acknowledged?", document: "engineering/on-call.md" },
  { question: "How do I check that a webhook is genuine?", document: "product/api/webhooks.html" },
];

const byId = (id) => document.getElementById(id);
const form = byId("form");
const box = byId("question");
const send = byId("send");
const turnsBox = byId("turns");
const dialog = byId("passage");

/** The turns on the page, oldest first. */
let turns = [];
/** The turn that is being answered, if any. */
let current = null;
/** Whether the page scrolls with the answer: until the reader scrolls by hand. */
let following = false;
/** Numbers turns, for element ids. */
let turnCount = 0;

const seconds = (ms) => (ms < 9950 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`);
const plural = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// ---------------------------------------------------------------- a turn: a question and its answer

class Turn {
  constructor(question) {
    this.question = question;
    this.number = ++turnCount;
    this.status = el("p", { class: "status", role: "status" });
    // Busy while it is written, so that a screen reader says finished sentences and not each syllable.
    this.answer = el("div", { class: "answer", "aria-live": "polite", "aria-busy": "true" });
    this.problem = el("div", { role: "alert" });
    this.facts = el("p", { class: "facts muted" });
    this.cards = el("ol");
    this.summary = el("summary");
    this.sourcesBox = el("details", { class: "sources", open: true, hidden: true }, this.summary, this.cards);
    this.asked = el("h2", { class: "asked" }, question);
    this.node = el("article", { class: "turn" }, this.asked, this.status, this.answer, this.problem, this.facts, this.sourcesBox);
    this.reset();
  }

  reset() {
    this.text = "";
    this.sources = [];
    this.usage = null;
    this.done = null;
    this.failed = false;
    this.started = performance.now();
    this.firstToken = null;
    this.total = null;
    this.place = null;
    for (const node of [this.answer, this.problem, this.facts, this.cards]) node.replaceChildren();
    this.sourcesBox.hidden = true;
  }

  /** Asks, and shows what comes, to the end: an answer, a problem, or a stop by the reader. */
  async run(history) {
    this.reset();
    this.abort = new AbortController();
    this.answer.classList.add("streaming");
    this.answer.setAttribute("aria-busy", "true");
    this.status.textContent = "Searching…";
    try {
      await this.#read(history);
    } catch (error) {
      if (this.abort.signal.aborted) this.done ??= { finish_reason: "cancelled" };
      else this.#fail(error instanceof ServiceProblem ? error.problem : unreachable(error));
    }
    this.total = performance.now() - this.started;
    this.status.textContent = "";
    this.answer.classList.remove("streaming");
    this.#render();
    this.answer.setAttribute("aria-busy", "false");
    if (!this.failed) this.#showFacts();
  }

  /** Ends the answer, on the service too: it would go on for a while for a reader who may come again. */
  stop() {
    this.abort.abort();
    // A place of the service is below the page, wherever a proxy puts that.
    if (this.place) fetch(this.place.replace(/^\//, ""), { method: "DELETE", keepalive: true }).catch(() => {});
  }

  async #read(history) {
    const response = await fetch("v1/answers", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
      body: JSON.stringify({ question: this.question, messages: history }),
      signal: this.abort.signal,
    });
    if (!response.ok) throw new ServiceProblem(await problemOf(response));
    this.place = response.headers.get("Location");
    for await (const { name, data } of eventsOf(response)) {
      this.#take(name, data);
      if (this.done !== null) return;
    }
    throw new ServiceProblem({ title: "The answer is not complete", detail: "The connection ended before the answer did." });
  }

  #take(name, data) {
    // Events of kinds this page does not know are for others.
    if (!["status", "sources", "token", "usage", "done", "error"].includes(name)) return;
    const value = JSON.parse(data);
    switch (name) {
      case "status":
        this.status.textContent = stageText(value, this.sources.length);
        break;
      case "sources":
        this.#showSources(value.sources);
        break;
      case "token":
        this.firstToken ??= performance.now() - this.started;
        this.text += value.text;
        this.#renderSoon();
        break;
      case "usage":
        this.usage = value;
        break;
      case "done":
        this.done = value;
        break;
      case "error":
        throw new ServiceProblem(value);
    }
  }

  #fail(problem) {
    this.failed = true;
    const wait = problem.retryAfter ? ` Try again in ${plural(problem.retryAfter, "second", "seconds")}.` : "";
    const retry = el("button", { type: "button", onclick: () => start(this) }, "Retry");
    const text = el("p", {}, el("strong", {}, problem.title || "Something went wrong"), (problem.detail || "") + wait);
    this.problem.replaceChildren(el("div", { class: "problem" }, text, retry));
  }

  #renderSoon() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.#render();
      follow(this.answer);
    });
  }

  #render() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    // The beginning of a citation would flicker as plain text.
    const text = this.answer.classList.contains("streaming") ? this.text.replace(/\[[\d,\s]*$/, "") : this.text;
    renderMarkdown(this.answer, text, (n) => this.#cite(n));
  }

  #cite(n) {
    const source = this.sources.find((one) => one.n === n);
    if (!source) return null;
    const label = `Source ${n}: ${source.title}`;
    return el("button", { type: "button", class: "cite", "aria-label": label, title: source.title, onclick: () => this.#choose(n) }, String(n));
  }

  /** Shows the card of a source, and puts the focus on it. */
  #choose(n) {
    this.sourcesBox.open = true;
    for (const card of this.cards.children) card.classList.toggle("chosen", card.id === this.#cardId(n));
    const card = byId(this.#cardId(n));
    card.querySelector(".open").focus({ preventScroll: true });
    following = false;
    card.scrollIntoView({ block: "nearest", behavior: motion() });
  }

  #cardId(n) {
    return `turn-${this.number}-source-${n}`;
  }

  #showSources(sources) {
    this.sources = sources;
    this.summary.textContent = `Sources (${sources.length})`;
    this.sourcesBox.hidden = sources.length === 0;
    this.cards.replaceChildren(...sources.map((source) => this.#card(source)));
  }

  #card(source) {
    const place = placeOf(source);
    return el(
      "li",
      { class: "source", id: this.#cardId(source.n) },
      el("span", { class: "number", "aria-hidden": "true" }, String(source.n)),
      el("button", { type: "button", class: "open", "aria-haspopup": "dialog", onclick: () => showPassage(source) },
        el("span", { class: "hidden" }, `Source ${source.n}: `), source.title),
      place ? el("p", { class: "section" }, place) : null,
      el("p", { class: "snippet" }, source.snippet),
      original(source.url),
    );
  }

  #showFacts() {
    const { usage, done } = this;
    const facts = [];
    const ends = { length: "cut at the output limit", cancelled: "stopped", not_found: "nothing found" };
    if (ends[done?.finish_reason]) facts.push(ends[done.finish_reason]);
    if (usage && usage.total_tokens > 0) {
      const reused = usage.cached_prompt_tokens > 0 ? ` (${usage.cached_prompt_tokens.toLocaleString("en")} reused)` : "";
      facts.push(`${plural(usage.prompt_tokens, "token", "tokens")} in${reused}`, `${usage.completion_tokens.toLocaleString("en")} out`);
    }
    if (this.firstToken !== null) facts.push(`first token ${seconds(this.firstToken)}`);
    if (done) facts.push(`total ${seconds(this.total)}`);
    if (done?.cached) facts.push("from the cache");
    if (done?.lag_ms > 0) facts.push(`as of ${seconds(done.lag_ms)} ago`);
    this.facts.replaceChildren(...facts.map((fact) => el("span", {}, fact)));
  }

  /** This turn as later questions see it; nothing where there is no answer. Citations are left out: their
      numbers mean other passages in the next prompt. */
  messages() {
    const answer = this.text.replace(/\s*\[\d{1,3}(?:\s*,\s*\d{1,3})*\]/g, "").trim();
    if (this.failed || answer === "") return [];
    return [{ role: "user", content: this.question }, { role: "assistant", content: answer }];
  }
}

function stageText({ stage, queue_position: position }, passages) {
  switch (stage) {
    case "queued":
      if (position === null || position === undefined) return "Waiting…";
      return position > 1 ? `Waiting: ${position - 1} ahead` : "Waiting: next in line";
    case "reading":
      return passages > 0 ? `Reading ${plural(passages, "passage", "passages")}…` : "Reading…";
    case "generating":
      return "Writing…";
    default:
      return "Searching…";
  }
}

/** Where in its document a passage is: the headings above it, without the one that is the title. */
function placeOf({ title, section, page }) {
  const parts = (section ?? []).filter((heading, at) => at > 0 || heading !== title);
  if (page !== null && page !== undefined) parts.push(`page ${page}`);
  return parts.join(" › ");
}

/** A link to the original of a document; null where it states no web address. */
function original(url) {
  if (!/^https?:\/\//i.test(url ?? "")) return null;
  return el("a", { class: "original", href: url, target: "_blank", rel: "noopener noreferrer" }, "Original");
}

// ---------------------------------------------------------------- problems

/** A problem document (RFC 9457), thrown. */
class ServiceProblem extends Error {
  constructor(problem) {
    super(problem.title);
    this.problem = problem;
  }
}

/** The problem document of a response that is not a success. */
async function problemOf(response) {
  const after = Number(response.headers.get("Retry-After"));
  const retryAfter = Number.isFinite(after) && after > 0 ? after : null;
  try {
    return { ...(await response.json()), retryAfter };
  } catch {
    return { title: `The service answered with status ${response.status}`, detail: "", retryAfter };
  }
}

function unreachable(error) {
  if (!navigator.onLine) return { title: "You are offline", detail: "Ask again when the connection is back." };
  // Browsers report a failed connection as a TypeError; anything else is an answer that makes no sense.
  if (error instanceof TypeError) return { title: "The service cannot be reached", detail: "It may be starting, or the connection was lost." };
  return { title: "The answer cannot be read", detail: String(error.message ?? error) };
}

// ---------------------------------------------------------------- the passage, in its document

/** Cuts a text at byte offsets of its UTF-8 form; null where they are not character borders in it. */
function cutAtBytes(text, start, end) {
  const bytes = new TextEncoder().encode(text);
  if (!(start >= 0 && start <= end && end <= bytes.length)) return null;
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  try {
    return [bytes.subarray(0, start), bytes.subarray(start, end), bytes.subarray(end)].map((part) => decoder.decode(part));
  } catch {
    return null;
  }
}

/** Opens the dialog with a document, its passage highlighted. */
async function showPassage(source) {
  const [title, place, note, body] = ["title", "place", "note", "text"].map((part) => byId(`passage-${part}`));
  title.textContent = source.title;
  place.textContent = [source.document_id, placeOf(source)].filter(Boolean).join(" › ");
  note.textContent = "Loading…";
  body.replaceChildren();
  dialog.showModal();
  dialog.shown = source;
  try {
    const path = source.document_id.split("/").map(encodeURIComponent).join("/");
    const response = await fetch(`v1/documents/${path}`, { headers: { Accept: "application/json" } });
    if (!response.ok) throw new ServiceProblem(await problemOf(response));
    const { text, served_revision: revision } = await response.json();
    if (dialog.shown !== source) return; // another passage was opened meanwhile
    const changed = revision !== undefined && revision !== source.revision;
    const parts = changed ? null : cutAtBytes(text ?? "", source.start, source.end);
    if (parts === null) {
      note.textContent = "The document has changed since the answer, so the passage is not marked.";
      body.textContent = (text ?? "").slice(0, 2 * CONTEXT);
      return;
    }
    const [before, passage, after] = parts;
    const cut = before.length > CONTEXT || after.length > CONTEXT;
    note.textContent = cut ? "Shown is the part of the document around the passage." : "";
    const mark = el("mark", {}, passage);
    body.replaceChildren(before.slice(-CONTEXT), mark, after.slice(0, CONTEXT));
    body.focus({ preventScroll: true });
    body.scrollTop += mark.getBoundingClientRect().top - body.getBoundingClientRect().top - body.clientHeight / 4;
  } catch (error) {
    if (dialog.shown !== source) return;
    const problem = error instanceof ServiceProblem ? error.problem : unreachable(error);
    note.textContent = [problem.title, problem.detail].filter(Boolean).join(": ");
  }
}

byId("passage-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // on the backdrop: all else is inside
});
dialog.addEventListener("close", () => {
  dialog.shown = null;
});

// ---------------------------------------------------------------- the conversation

const motion = () => (matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth");

/** Keeps the end of a growing answer in sight. */
function follow(node) {
  if (!following) return;
  const hidden = node.getBoundingClientRect().bottom + 24 - document.querySelector(".composer").getBoundingClientRect().top;
  if (hidden > 0) window.scrollBy(0, hidden);
}

for (const kind of ["wheel", "touchmove"]) {
  window.addEventListener(kind, () => { following = false; }, { passive: true });
}

async function start(turn) {
  if (current !== null) return;
  current = turn;
  following = true;
  showState();
  turn.asked.scrollIntoView({ block: "start", behavior: motion() });
  const before = turns.slice(0, turns.indexOf(turn)).flatMap((one) => one.messages());
  await turn.run(before.slice(-HISTORY));
  if (current !== turn) return; // a new conversation was begun meanwhile
  current = null;
  showState();
}

function ask(question) {
  if (question === "" || current !== null) return;
  const turn = new Turn(question);
  turns.push(turn);
  turnsBox.append(turn.node);
  start(turn);
}

/** Brings what depends on the state of the conversation up to date. */
function showState() {
  byId("empty").hidden = turns.length > 0;
  byId("new").hidden = turns.length === 0;
  send.textContent = current ? "Stop" : "Send";
  send.classList.toggle("stop", current !== null);
}

function fitBox() {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

/** Puts the focus on the question box; not on a touch screen, whose keyboard would cover the answer. */
function focusBox() {
  if (matchMedia("(pointer: fine)").matches) box.focus({ preventScroll: true });
}

function submit() {
  ask(box.value.trim());
  if (current === null) return;
  box.value = "";
  fitBox();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (current) current.stop();
  else submit();
  focusBox();
});
box.addEventListener("input", fitBox);
box.addEventListener("keydown", (event) => {
  // While an input method composes a character, Enter is its own.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!current) submit();
});

byId("new").addEventListener("click", () => {
  current?.stop();
  current = null;
  turns = [];
  turnsBox.replaceChildren();
  showState();
  showDocuments();
  focusBox();
});

function showConnection() {
  byId("offline").textContent = navigator.onLine ? "" : "You are offline.";
}
window.addEventListener("online", showConnection);
window.addEventListener("offline", showConnection);

// ---------------------------------------------------------------- the empty state

/** Says how many documents there are, and offers examples where they fit. Looks again while there are none. */
async function showDocuments() {
  clearTimeout(showDocuments.timer);
  let fits = false;
  try {
    const response = await fetch("v1/documents?limit=100", { headers: { Accept: "application/json" } });
    if (!response.ok) throw new ServiceProblem(await problemOf(response));
    const { documents, next } = await response.json();
    const ids = new Set(documents.map((one) => one.id));
    fits = EXAMPLES.every((example) => ids.has(example.document));
    byId("examples").hidden = !fits;
    byId("count").textContent =
      ids.size === 0 ? "No documents indexed yet." : next ? `More than ${ids.size} documents indexed` : `${plural(ids.size, "document", "documents")} indexed`;
  } catch (error) {
    const problem = error instanceof ServiceProblem ? error.problem : unreachable(error);
    byId("count").textContent = `The documents cannot be listed: ${problem.title}.`;
  }
  if (!fits && turns.length === 0) showDocuments.timer = setTimeout(showDocuments, 5000);
}

byId("examples").querySelector("ul").replaceChildren(
  ...EXAMPLES.map(({ question }) => el("li", {}, el("button", { type: "button", onclick: () => ask(question) }, question))),
);
showConnection();
showState();
showDocuments();
focusBox();
