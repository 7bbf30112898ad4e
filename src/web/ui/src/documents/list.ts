// The list of documents: a filter, pages of it, and what is being deleted.

import { signal } from "@preact/signals";
import { api, documentPath, get, Problem } from "../shared/api";
import { find, type Document } from "./document";
import { Follower } from "./following";

export interface Filter {
  collection: string;
  prefix: string;
}

interface Page {
  documents: Document[];
  next: string | null;
}

export interface Collection {
  name: string;
  documents: number;
}

const PAGE = 100;

export const filter = signal<Filter>({ collection: "", prefix: "" });
export const documents = signal<readonly Document[]>([]);
/** Where the list goes on; `null` at its end. */
export const next = signal<string | null>(null);
/** Whether there was an answer for this filter yet. */
export const loaded = signal(false);
export const loading = signal(false);
export const problem = signal<Problem | null>(null);
export const collections = signal<readonly Collection[]>([]);
/** Ids of documents that are being deleted. */
export const deleting = signal<ReadonlySet<string>>(new Set());

const gone = new Follower(find);
let current: AbortController | null = null;

/** Loads the list from its beginning, as far as it was shown. */
export async function reload(): Promise<void> {
  await load(pages);
  void loadCollections();
}

/** Adds the next page. */
export async function more(): Promise<void> {
  const after = next.value;
  if (after === null || loading.value) return;
  await load(async (_, signal) => {
    const page = await one(after, PAGE, signal);
    return { documents: [...documents.value, ...page.documents], next: page.next };
  });
}

export function choose(change: Partial<Filter>): void {
  filter.value = { ...filter.value, ...change };
  documents.value = [];
  next.value = null;
  loaded.value = false;
  void reload();
}

/** Deletes a document and watches until it is gone. Throws where the service refuses. */
export async function remove(id: string): Promise<void> {
  mark(id, true);
  try {
    const response = await api(documentPath(id), { method: "DELETE" });
    const { seq } = (await response.json()) as Document;
    await untilGone(id, seq);
  } catch (error) {
    // Gone already is what was wanted.
    if (!(error instanceof Problem) || error.status !== 404) throw error;
    drop(id);
  } finally {
    mark(id, false);
  }
  void loadCollections();
}

function untilGone(id: string, seq: number): Promise<void> {
  return new Promise((resolve) => {
    gone.follow({
      id,
      tell: (document) => {
        // Uploaded anew meanwhile: then it is there, and is to stay.
        const anew = document !== null && document.seq > seq;
        if (document !== null && document.status !== "deleted" && !anew) return false;
        if (!anew) drop(id);
        resolve();
        return true;
      },
      lost: () => resolve(),
    });
  });
}

async function load(fetch: (shown: number, signal: AbortSignal) => Promise<Page>): Promise<void> {
  current?.abort();
  const mine = new AbortController();
  current = mine;
  loading.value = true;
  try {
    const page = await fetch(documents.value.length, mine.signal);
    if (mine.signal.aborted) return;
    documents.value = kept(page.documents);
    next.value = page.next;
    loaded.value = true;
    problem.value = null;
  } catch (error) {
    if (mine.signal.aborted) return;
    problem.value = error instanceof Problem ? error : Problem.ofLostConnection(error);
  } finally {
    if (current === mine) loading.value = false;
  }
}

/** A page of documents, and more until there are as many as were shown. */
async function pages(shown: number, signal: AbortSignal): Promise<Page> {
  const all: Page = { documents: [], next: null };
  do {
    const page = await one(all.next, Math.min(1000, Math.max(PAGE, shown - all.documents.length)), signal);
    all.documents.push(...page.documents);
    all.next = page.next;
  } while (all.next !== null && all.documents.length < shown);
  return all;
}

/** The same documents, those that have not changed as the objects that they were: their rows are not drawn again. */
function kept(fresh: readonly Document[]): Document[] {
  const known = new Map(documents.value.map((document) => [document.id, document]));
  return fresh.map((document) => {
    const before = known.get(document.id);
    return before && JSON.stringify(before) === JSON.stringify(document) ? before : document;
  });
}

function one(after: string | null, limit: number, signal: AbortSignal): Promise<Page> {
  const query = new URLSearchParams({ limit: String(limit) });
  if (after !== null) query.set("after", after);
  if (filter.value.collection !== "") query.set("collection", filter.value.collection);
  if (filter.value.prefix !== "") query.set("prefix", filter.value.prefix);
  return get<Page>(`v1/documents?${query}`, { signal, cache: "no-store" });
}

async function loadCollections(): Promise<void> {
  try {
    collections.value = (await get<{ collections: Collection[] }>("v1/collections")).collections;
  } catch {
    // The list itself tells what is wrong; without names of collections one can still be typed.
  }
}

function drop(id: string): void {
  documents.value = documents.value.filter((document) => document.id !== id);
}

function mark(id: string, on: boolean): void {
  const all = new Set(deleting.value);
  if (on) all.add(id);
  else all.delete(id);
  deleting.value = all;
}
