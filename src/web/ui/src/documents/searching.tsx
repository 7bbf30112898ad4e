// Search in the documents: passages for a query, each of which opens its document where it stands.

import { signal } from "@preact/signals";
import { Problem, sendJson } from "../shared/api";
import { markWords, wordsOf } from "../shared/bytes";
import { number } from "../shared/format";
import { Search as SearchIcon } from "../shared/icons";
import { openPassage, placeOf } from "../shared/passage";
import { ProblemNote } from "../shared/problem";
import { documents as t } from "../shared/texts-documents";
import { excerpt } from "./excerpt";
import { filter } from "./list";

interface Stage {
  rank: number;
  score: number;
}

interface Result {
  document_id: string;
  revision: number;
  title: string;
  url: string | null;
  collection: string;
  section: string[];
  page: number | null;
  start: number;
  end: number;
  text: string;
  scores: { fused: number; lexical: Stage | null; vector: Stage | null };
}

interface Found {
  query: string;
  results: Result[];
  degraded: string[];
  took_ms: number;
}

const LIMIT = 20;
/** Characters of a passage that are shown before it is opened. */
const SNIPPET = 320;

/** The query that is asked, empty while the list is shown. */
export const query = signal("");
const found = signal<Found | null>(null);
const problem = signal<Problem | null>(null);
const searching = signal(false);
let current: AbortController | null = null;

/** Searches; an empty text leads back to the list. */
export async function search(text: string): Promise<void> {
  current?.abort();
  const mine = new AbortController();
  current = mine;
  query.value = text.trim();
  problem.value = null;
  if (query.value === "") {
    found.value = null;
    searching.value = false;
    return;
  }
  searching.value = true;
  const { collection } = filter.value;
  const body = { query: query.value, limit: LIMIT, ...(collection !== "" && { filter: { collection: [collection] } }) };
  try {
    const response = await sendJson("POST", "v1/search", body, { signal: mine.signal });
    const answer = (await response.json()) as Omit<Found, "query">;
    if (!mine.signal.aborted) found.value = { ...answer, query: body.query };
  } catch (error) {
    if (!mine.signal.aborted) problem.value = error instanceof Problem ? error : Problem.ofLostConnection(error);
  } finally {
    if (current === mine) searching.value = false;
  }
}

export function SearchBox({ typed }: { typed: { value: string } }) {
  return (
    <form
      class="search"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        void search(typed.value);
      }}
    >
      <SearchIcon size={18} />
      <input
        class="input"
        type="search"
        enterkeyhint="search"
        aria-label={t.search.label}
        placeholder={t.search.placeholder}
        value={typed.value}
        onInput={(event) => {
          typed.value = event.currentTarget.value;
          if (typed.value === "") void search("");
        }}
      />
      <button type="submit" class="button">
        {t.search.button}
      </button>
    </form>
  );
}

export function Results({ onClear }: { onClear: () => void }) {
  return (
    <section class="results" aria-label={t.search.label} aria-busy={searching.value}>
      <header>
        <p role="status" class="muted">
          {searching.value ? <span class="spinner" /> : found.value && problem.value === null && t.search.results(found.value.results.length, found.value.took_ms)}
        </p>
        <button type="button" class="button quiet" onClick={onClear}>
          {t.search.clear}
        </button>
      </header>
      {problem.value && <ProblemNote problem={problem.value} onRetry={() => void search(query.value)} />}
      {found.value && found.value.degraded.length > 0 && <p class="note warn">{t.search.degraded(found.value.degraded)}</p>}
      {found.value && problem.value === null && found.value.results.length === 0 && (
        <div class="empty">
          <p>{t.search.none}</p>
          <p class="muted">{t.search.noneHint}</p>
        </div>
      )}
      {problem.value === null && (
        <ol>
          {found.value?.results.map((result) => (
            <ResultCard key={`${result.document_id} ${result.start}`} result={result} query={found.value?.query ?? ""} />
          ))}
        </ol>
      )}
    </section>
  );
}

function ResultCard({ result, query }: { result: Result; query: string }) {
  const { title, document_id, scores } = result;
  const place = placeOf(result);
  const words = wordsOf(query);
  const text = excerpt(result.text, words, SNIPPET);
  return (
    <li class="card result">
      <h3>
        <button type="button" class="link" onClick={() => openPassage(result, query)}>
          {title || document_id}
        </button>
      </h3>
      <p class="muted small result-place">
        <span>{document_id}</span>
        {place !== "" && <span>{place}</span>}
      </p>
      <p class="result-text">
        {markWords(text, words).map((piece, at) => (piece.marked ? <mark key={at}>{piece.text}</mark> : piece.text))}
      </p>
      <p class="result-facts small" title={t.search.scores}>
        <span class="badge">{result.collection}</span>
        {scores.lexical && <span class="muted">{t.search.lexical(scores.lexical.rank)}</span>}
        {scores.vector && <span class="muted">{t.search.vector(scores.vector.rank)}</span>}
        <span class="muted">{number(scores.fused)}</span>
      </p>
    </li>
  );
}
