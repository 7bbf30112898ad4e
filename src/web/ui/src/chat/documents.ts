// What there is to ask about: how many documents, in which collections.

import { signal } from "@preact/signals";
import { get, Problem } from "../shared/api";
import { chat as t } from "../shared/texts";

export interface Collection {
  name: string;
  documents: number;
}

export interface Known {
  count: number;
  /** There are more than that. */
  more: boolean;
  /** Whether the documents are there that the examples ask about. */
  examples: boolean;
}

/** null until they are known. */
export const known = signal<Known | null>(null);
export const collectionsKnown = signal<Collection[]>([]);
/** Why they cannot be listed. */
export const unknown = signal<Problem | null>(null);

const PAGE = 100;

async function readCollections(): Promise<Collection[]> {
  try {
    return (await get<{ collections: Collection[] }>("v1/collections")).collections;
  } catch {
    return []; // the question box then offers no choice; what is wrong, the list of documents says
  }
}

let reading: Promise<void> | null = null;

/** Reads what there is; who asks while that goes on waits for the same. */
export function readDocuments(): Promise<void> {
  return (reading ??= read().finally(() => (reading = null)));
}

async function read(): Promise<void> {
  try {
    const [page, collections] = await Promise.all([get<{ documents: { id: string }[]; next: string | null }>(`v1/documents?limit=${PAGE}`), readCollections()]);
    const ids = new Set(page.documents.map((one) => one.id));
    const counted = collections.reduce((sum, one) => sum + one.documents, 0);
    collectionsKnown.value = collections;
    known.value = {
      count: Math.max(counted, ids.size),
      more: page.next !== null && counted === 0,
      examples: t.examples.every((example) => ids.has(example.document)),
    };
    unknown.value = null;
  } catch (error) {
    unknown.value = error instanceof Problem ? error : Problem.ofLostConnection(error);
  }
}
