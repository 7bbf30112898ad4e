// A document's text in a dialog, the passage that an answer rests on highlighted in it, the question's words marked.
//
// The text is shown as it is indexed, as text: nothing in a document can become an element here.

import { signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { documentPath, get, Problem } from "./api";
import { cutAtBytes, markWords, wordsOf } from "./bytes";
import { Dialog } from "./dialog";
import { ArrowDown, External } from "./icons";
import { ProblemNote } from "./problem";
import { shared } from "./texts";
import "./passage.css";

const t = shared.passage;

/** Characters shown on each side of a passage: a whole book would stall the page. */
const CONTEXT = 100_000;

export interface Passage {
  document_id: string;
  title: string;
  section?: string[];
  page?: number | null;
  url?: string | null;
  /** The revision that the offsets are of. */
  revision?: number;
  /** First byte, and the byte after the last one. Without them the document is shown from its start. */
  start?: number;
  end?: number;
}

interface DocumentText {
  text: string | null;
  title?: string;
  url?: string | null;
  format?: string;
  served_revision?: number;
}

const shown = signal<{ passage: Passage; question: string } | null>(null);

/** Opens the dialog. `question`: whose words are marked. */
export function openPassage(passage: Passage, question = ""): void {
  shown.value = { passage, question };
}

/** Where in its document a passage is: the headings above it, without the one that is the title, and the page. */
export function placeOf({ title, section, page }: Pick<Passage, "title" | "section" | "page">): string {
  const parts = (section ?? []).filter((heading, at) => at > 0 || heading !== title);
  if (page !== null && page !== undefined) parts.push(t.page(page));
  return parts.join(" › ");
}

/** The address of an original, where it is one of the web. Documents come with whatever was said to be one. */
export const webAddress = (url: string | null | undefined): string | null => (url && /^https?:\/\//i.test(url) && URL.canParse(url) ? url : null);

/** To be rendered once by each page that calls `openPassage`. */
export function PassageHost() {
  return shown.value && <PassageDialog key={shown.value} {...shown.value} onClose={() => (shown.value = null)} />;
}

function PassageDialog({ passage, question, onClose }: { passage: Passage; question: string; onClose: () => void }) {
  const document = useSignal<DocumentText | null>(null);
  const problem = useSignal<Problem | null>(null);
  const abort = useRef<AbortController>(null);
  const load = () => {
    abort.current?.abort();
    const now = (abort.current = new AbortController());
    problem.value = null;
    const found = async () => get<DocumentText>(documentPath(passage.document_id), { signal: now.signal });
    found().then(
      (found) => (document.value = found),
      (error: unknown) => {
        if (!now.signal.aborted) problem.value = error instanceof Problem ? error : Problem.ofLostConnection(error);
      },
    );
  };
  useEffect(() => {
    load();
    return () => abort.current?.abort();
  }, []);

  const place = placeOf(passage);
  const original = webAddress(passage.url ?? document.value?.url);
  return (
    <Dialog
      title={passage.title}
      subtitle={
        <p class="muted small passage-place">
          <span>{passage.document_id}</span>
          {place && <span>{place}</span>}
          {original && (
            <a href={original} target="_blank" rel="noopener noreferrer nofollow">
              {t.original} ({new URL(original).host}) <External size={12} />
            </a>
          )}
        </p>
      }
      wide
      class="passage"
      onClose={onClose}
    >
      {problem.value ? (
        problem.value.status === 404 ? <p class="note warn">{t.gone}</p> : <ProblemNote problem={problem.value.status === 403 ? { ...problem.value, title: t.forbidden, detail: problem.value.detail, retryAfter: null } : problem.value} onRetry={problem.value.mayPass ? load : undefined} />
      ) : document.value === null ? (
        <Loading />
      ) : (
        <Text document={document.value} passage={passage} words={wordsOf(question)} />
      )}
    </Dialog>
  );
}

function Loading() {
  return (
    <div role="status" aria-label={t.loading} class="passage-loading">
      {[90, 97, 82, 94, 60].map((width, at) => (
        <div key={at} class="skeleton" style={{ width: `${width}%` }} />
      ))}
    </div>
  );
}

function Text({ document, passage, words }: { document: DocumentText; passage: Passage; words: string[] }) {
  const mark = useRef<HTMLElement>(null);
  const box = useRef<HTMLDivElement>(null);
  const show = () => {
    // Not `scrollIntoView`, which scrolls the page behind as well.
    const [at, frame] = [mark.current, box.current];
    if (at && frame) frame.scrollTop = at.offsetTop - Math.max(24, (frame.clientHeight - at.offsetHeight) / 3);
  };
  useEffect(show, []);

  const text = document.text;
  if (text === null || text === undefined) return <p class="note">{t.noText}</p>;
  const asked = passage.start !== undefined && passage.end !== undefined;
  const changed = asked && passage.revision !== undefined && document.served_revision !== undefined && passage.revision !== document.served_revision;
  const parts = asked && !changed ? cutAtBytes(text, passage.start!, passage.end!) : null;
  const [before, marked, after] = parts ?? ["", "", text];
  // A passage of whole lines, as nearly all are, is a block of its own.
  const whole = marked !== "" && /(?:^|\n)$/.test(before) && /^(?:\n|$)/.test(after.replace(/^/, marked.endsWith("\n") ? "\n" : ""));
  const cut = before.length > CONTEXT || after.length > CONTEXT;
  const markdown = document.format === "markdown";
  return (
    <>
      {asked && parts === null && <p class="note warn">{t.changed}</p>}
      {cut && <p class="note">{t.cut(2 * CONTEXT)}</p>}
      <div ref={box} class="passage-text" tabindex={0} role="region" aria-label={t.text} autofocus>
        <Lines text={before.slice(-CONTEXT)} markdown={markdown} />
        {marked !== "" && (
          <mark ref={mark} class={`passage-mark ${whole ? "whole" : ""}`}>
            <span class="unseen">{t.highlighted} </span>
            <Lines text={whole ? marked.replace(/\n+$/, "") : marked} markdown={markdown} words={words} />
          </mark>
        )}
        <Lines text={(whole ? after.replace(/^\n/, "") : after).slice(0, CONTEXT)} markdown={markdown} words={asked ? [] : words} />
      </div>
      {marked !== "" && (
        <button type="button" class="button passage-back" onClick={show}>
          <ArrowDown size={16} />
          {t.toPassage}
        </button>
      )}
    </>
  );
}

/** A text, with the headings of Markdown in bold and the question's words marked. */
function Lines({ text, markdown, words = [] }: { text: string; markdown: boolean; words?: string[] }) {
  const pieces = (part: string) => (words.length === 0 ? part : markWords(part, words).map((piece, at) => (piece.marked ? <b class="word" key={at}>{piece.text}</b> : piece.text)));
  if (!markdown) return <>{pieces(text)}</>;
  return <>{text.split(/^(#{1,6} .*)$/m).map((part, at) => (at % 2 === 1 ? <strong key={at}>{pieces(part)}</strong> : pieces(part)))}</>;
}
